"""Every Coulomb sum behind one function, its arguments checked."""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple, Union, overload

import torch
from torch import Tensor

from openmm_les.electrostatics.multipole_solver import LatentMultipoles
from openmm_les.electrostatics.multipoles import MultipoleSum
from openmm_les.electrostatics.solver import LatentCoulomb


class MultipoleEwald(NamedTuple):
    """What `latent_ewald` gives of charges with dipoles, all differentiable."""

    energy: Tensor
    """scalar, eV"""
    potential: Tensor
    """[n_atoms], eV/e, dE/dq"""
    gradient: Tensor
    """[n_atoms, 3], eV/Å, dE/dr at fixed moments"""
    field: Tensor
    """[n_atoms, 3], eV/(e Å), -dE/du"""


@overload
def latent_ewald(
    positions: Tensor,
    charges: Tensor,
    cell: Optional[Tensor] = None,
    smearing: float = 1.0,
    method: str = "auto",
    k_cutoff: Optional[float] = None,
    self_interaction: bool = False,
    coulomb_constant: float = 14.399645,
    tolerance: float = 1e-4,
) -> Tuple[Tensor, Tensor, Tensor]: ...


@overload
def latent_ewald(
    positions: Tensor,
    charges: Tensor,
    cell: Optional[Tensor] = None,
    smearing: float = 1.0,
    method: str = "auto",
    k_cutoff: Optional[float] = None,
    self_interaction: bool = False,
    coulomb_constant: float = 14.399645,
    tolerance: float = 1e-4,
    *,
    dipoles: Tensor,
    quadrupoles: Optional[Tensor] = None,
) -> MultipoleEwald: ...


def latent_ewald(
    positions: Tensor,
    charges: Tensor,
    cell: Optional[Tensor] = None,
    smearing: float = 1.0,
    method: str = "auto",
    k_cutoff: Optional[float] = None,
    self_interaction: bool = False,
    coulomb_constant: float = 14.399645,
    tolerance: float = 1e-4,
    *,
    dipoles: Optional[Tensor] = None,
    quadrupoles: Optional[Tensor] = None,
) -> Union[Tuple[Tensor, Tensor, Tensor], MultipoleEwald]:
    r"""Coulomb energy of latent charges, its potential and its gradient.

    Parameters
    ----------
    positions : [n_atoms, 3], Å
    charges : [n_atoms], e
    cell : [3, 3], Å, rows are vectors, either handedness; None = isolated
    smearing : σ in Å; two charges interact by ``erf(r/√2σ)/r``
    method : "isolated"; "ewald", the exact sum, O(N²); "pme", a particle mesh, O(N log N); "auto":
        isolated without a cell, else the faster of the two
    k_cutoff : 1/Å, sharp cut ``|k| <= k_cutoff`` of some published models (2π/dl); None = converged
    self_interaction : keep ``ke Σ q²/(√(2π) σ)``, and what dipoles and quadrupoles have of it
    coulomb_constant : eV·Å/e²
    tolerance : error of the forces over the forces (root mean squares, in a molecular liquid)
        that the mesh may make; energies are a hundred times better. The exact sum stays far below
    dipoles : [n_atoms, 3], e·Å, Gaussians of the same width; None = charges alone
    quadrupoles : [n_atoms, 3, 3], e·Å², symmetric second moments, beside ``dipoles``

    Returns
    -------
    energy : scalar, eV
    potential : [n_atoms], eV/e, dE/dq
    gradient : [n_atoms, 3], eV/Å, dE/dr at fixed charges (and moments)
    field : [n_atoms, 3], eV/(e Å), -dE/du; only with ``dipoles``

    Raises
    ------
    TypeError
        Not a tensor, or tensors of different or integer types.
    ValueError
        A shape, a value or a combination that cannot be computed.

    Notes
    -----
    Cheng, npj Comput. Mater. 11, 80 (2025). All outputs are differentiable.
    """
    _check(positions, charges, cell, dipoles, quadrupoles)
    settings = (smearing, coulomb_constant, k_cutoff, self_interaction, tolerance, method)
    if dipoles is not None:
        found: MultipoleSum = LatentMultipoles(*settings)(positions, charges, dipoles, quadrupoles, cell)
        return MultipoleEwald(found.energy, found.potential, found.gradient, found.field)
    if quadrupoles is not None:
        raise ValueError("`quadrupoles` need `dipoles` beside them; zeros will do")
    return LatentCoulomb(*settings)(positions, charges, cell)


def _check(
    positions: Tensor,
    charges: Tensor,
    cell: Optional[Tensor],
    dipoles: Optional[Tensor],
    quadrupoles: Optional[Tensor],
) -> None:
    """Raises TypeError or ValueError where the tensors do not describe charges in space."""
    tensors = {"positions": positions, "charges": charges}
    optional = (("cell", cell), ("dipoles", dipoles), ("quadrupoles", quadrupoles))
    tensors.update({name: value for name, value in optional if value is not None})
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"`{name}` must be a torch.Tensor, got {type(value).__name__}")
    if not positions.is_floating_point():
        raise TypeError(f"`positions` must be floating point, got {positions.dtype}")
    if positions.dim() != 2 or positions.shape[1] != 3:
        raise ValueError(f"`positions` must have shape [n, 3], got {list(positions.shape)}")
    if charges.shape != positions.shape[:1]:
        raise ValueError(f"`charges` must have shape [{positions.shape[0]}], got {list(charges.shape)}")
    if cell is not None and cell.shape != (3, 3):
        raise ValueError(f"`cell` must have shape [3, 3], got {list(cell.shape)}")
    n_atoms = positions.shape[0]
    if dipoles is not None and dipoles.shape != (n_atoms, 3):
        raise ValueError(f"`dipoles` must have shape [{n_atoms}, 3], got {list(dipoles.shape)}")
    if quadrupoles is not None and quadrupoles.shape != (n_atoms, 3, 3):
        raise ValueError(f"`quadrupoles` must have shape [{n_atoms}, 3, 3], got {list(quadrupoles.shape)}")
    for name, value in tensors.items():
        if value.dtype != positions.dtype:
            raise TypeError(f"`{name}` must be {positions.dtype} like `positions`, got {value.dtype}")
        if not bool(torch.isfinite(value.detach()).all()):
            raise ValueError(f"`{name}` holds NaN or infinite values")
    if cell is not None:
        vectors = cell.detach()
        box = torch.linalg.norm(vectors, dim=1).prod()  # volume if the vectors were orthogonal
        if not bool(torch.abs(torch.linalg.det(vectors)) > 1e-6 * box):
            raise ValueError("`cell` has no volume; use cell=None for an isolated system")


__all__ = ["MultipoleEwald", "latent_ewald"]
