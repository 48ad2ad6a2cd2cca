"""Heads of latent dipoles, quadrupoles and polarizabilities, from equivariant features."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, List, Optional

import torch
from torch import Tensor, nn

from openmm_les.electrostatics import polarizability_bound
from openmm_les.elements import FREE_ATOM_POLARIZABILITY
from openmm_les.models.constants import element_index

BOUND_FRACTION = 0.9
"""of `polarizability_bound`: the most that an atom's polarizability can become"""


class GatedSum(nn.Module):
    """Sum over channels of equivariants, each times a number that scalars say; zero at the start.

    Zero is no trap: in the field of the charges the energy is linear in a dipole.
    """

    def __init__(self, n_hidden: int, n_channels: int, gain: float) -> None:
        super().__init__()
        self.gates = nn.Linear(n_hidden, n_channels)
        self.scale = gain / math.sqrt(n_channels)
        nn.init.zeros_(self.gates.weight)
        nn.init.zeros_(self.gates.bias)

    def forward(self, hidden: Tensor, equivariants: Tensor) -> Tensor:
        """[n_atoms, ...] of ``hidden`` [n_atoms, n_hidden], ``equivariants`` [n_atoms, n_channels, ...]."""
        gates = self.scale * self.gates(hidden)
        flat = torch.bmm(gates.unsqueeze(1), equivariants.flatten(2))  # [n_atoms, 1, 3 or 9]
        return flat.view_as(equivariants[:, 0])


class InversePolarizability(nn.Module):
    r"""Inverse polarizabilities of atoms, positive definite and bounded by construction.

    ``α⁻¹ = ke [(1/a) 1 + (l 1 + T)²]`` with the bound a = 0.9 `polarizability_bound`, so that no geometry
    has a polarization catastrophe; l is the element's start and a number from the features, T the
    symmetric traceless part, absent for isotropic ones.

    Parameters
    ----------
    elements : atomic numbers
    n_hidden : width of the features that come in
    n_channels : of the backbone's tensors; 0 = isotropic
    smearing : σ of the charges, Å
    coulomb_constant : eV·Å/e²
    """

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        index: Tensor

    def __init__(
        self,
        elements: List[int],
        n_hidden: int,
        n_channels: int,
        smearing: float,
        coulomb_constant: float,
    ) -> None:
        super().__init__()
        self.bound = BOUND_FRACTION * polarizability_bound(smearing)
        self.coulomb_constant = coulomb_constant
        self.register_buffer("index", element_index(elements), persistent=False)
        # Atoms in molecules are less polarizable than free ones, by a third or so (Thole 1981).
        starts = [min(0.65 * FREE_ATOM_POLARIZABILITY.get(z, 2.0), 0.8 * self.bound) for z in elements]
        roots = [math.sqrt(1.0 / start - 1.0 / self.bound) for start in starts]
        self.element_root = nn.Parameter(torch.tensor(roots))
        self.change = nn.Linear(n_hidden, 1)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)
        self.anisotropy = GatedSum(n_hidden, n_channels, 0.1) if n_channels > 0 else None

    def forward(self, hidden: Tensor, numbers: Tensor, tensors: Optional[Tensor]) -> Tensor:
        """[n_atoms, 3, 3] in eV/(e Å)² from ``hidden`` [n_atoms, n_hidden] and the backbone's tensors."""
        root = self.element_root[self.index[numbers]] + 0.1 * self.change(hidden).squeeze(1)
        unit = torch.eye(3, dtype=hidden.dtype, device=hidden.device)
        matrix = root.view(-1, 1, 1) * unit
        anisotropy = self.anisotropy
        if anisotropy is not None:
            assert tensors is not None  # `LESModel` has checked
            matrix = matrix + anisotropy(hidden, tensors)
        return self.coulomb_constant * (unit / self.bound + matrix @ matrix)


__all__ = ["BOUND_FRACTION", "GatedSum", "InversePolarizability"]
