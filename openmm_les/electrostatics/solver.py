"""The Coulomb sum of charges as an object that a model holds."""

from __future__ import annotations

import math
from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.ewald import ewald_sum, splitting
from openmm_les.electrostatics.isolated import isolated_sum, self_energy, self_hardness
from openmm_les.electrostatics.matrix import coulomb_matrix
from openmm_les.electrostatics.pme import ParticleMesh

METHODS = ("auto", "isolated", "ewald", "pme")


class LatentCoulomb(nn.Module):
    """Coulomb interaction of latent charges: isolated, or periodic where a cell is given.

    Where neither positions, charges nor cell ask for gradients (or under ``no_grad``), the mesh
    runs by hand-written derivatives, several times faster than with autograd's record.

    Parameters
    ----------
    smearing : σ in Å, part of the model
    coulomb_constant : eV·Å/e², part of the model
    k_cutoff : 1/Å, sharp cut of the periodic sum, part of some published models; None = converged
    self_interaction : keep ``ke Σ q²/(√(2π) σ)`` in the energy
    tolerance, method : numerics, see `latent_ewald`
    """

    def __init__(
        self,
        smearing: float = 1.0,
        coulomb_constant: float = 14.399645,
        k_cutoff: Optional[float] = None,
        self_interaction: bool = False,
        tolerance: float = 1e-4,
        method: str = "auto",
    ) -> None:
        super().__init__()
        for name, value in (("smearing", smearing), ("coulomb_constant", coulomb_constant)):
            if not (value > 0.0 and math.isfinite(value)):
                raise ValueError(f"`{name}` must be positive, got {value}")
        if k_cutoff is not None and not k_cutoff > 0.0:
            raise ValueError(f"`k_cutoff` must be positive or None, got {k_cutoff}")
        if not 0.0 < tolerance < 1.0:
            raise ValueError(f"`tolerance` must lie between 0 and 1, got {tolerance}")
        if method not in METHODS:
            raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got {method!r}")
        self.smearing = float(smearing)
        self.coulomb_constant = float(coulomb_constant)
        self.k_cutoff = k_cutoff
        self.self_interaction = self_interaction
        self.tolerance = float(tolerance)
        # The exact sum converges so fast that it affords a margin below the tolerance asked.
        self.exact_tolerance = 1e-5 * self.tolerance
        self.method = method
        self.mesh = ParticleMesh(smearing, coulomb_constant, k_cutoff, tolerance)

    @torch.jit.unused
    def config(self) -> Dict[str, Any]:
        """Constructor arguments, JSON-ready."""
        return dict(
            smearing=self.smearing,
            coulomb_constant=self.coulomb_constant,
            k_cutoff=self.k_cutoff,
            self_interaction=self.self_interaction,
            tolerance=self.tolerance,
            method=self.method,
        )

    def forward(
        self, positions: Tensor, charges: Tensor, cell: Optional[Tensor], exact: bool = False
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Energy (eV), dE/dq ([n_atoms], eV/e), dE/dr at fixed charges ([n_atoms, 3], eV/Å).

        ``positions`` [n_atoms, 3] in Å, ``charges`` [n_atoms] in e, ``cell`` [3, 3] in Å or None.
        ``exact`` takes the exact sum, whatever the method; it is that of `matrix`. All outputs are
        differentiable. Raises ValueError where ``method`` and ``cell`` disagree.
        """
        self.check_method(cell)
        if cell is None:
            energy, potential, gradient = isolated_sum(
                positions, charges, self.smearing, self.coulomb_constant
            )
        elif not exact and (
            # On a GPU any "auto": to decide by the cell would mean to wait for it.
            (charges.is_cuda and self.method == "auto") or self.takes_mesh(charges.shape[0], cell)
        ):
            energy, potential, gradient = self.mesh(positions, charges, cell)
        else:
            energy, potential, gradient = ewald_sum(
                positions,
                charges,
                cell,
                self.smearing,
                self.coulomb_constant,
                self.k_cutoff,
                self.exact_tolerance,
            )
        if self.self_interaction:
            energy = energy + self_energy(charges, self.smearing, self.coulomb_constant)
            potential = potential + charges * self_hardness(self.smearing, self.coulomb_constant)
        return energy, potential, gradient

    def matrix(self, positions: Tensor, cell: Optional[Tensor]) -> Tensor:
        """Second derivatives of the energy over the charges, [n_atoms, n_atoms] in eV/e²; differentiable.

        Arguments and errors as in `forward`. The exact sum, also where that takes a mesh.
        """
        self.check_method(cell)
        matrix = coulomb_matrix(
            positions, cell, self.smearing, self.coulomb_constant, self.k_cutoff, self.exact_tolerance
        )
        if self.self_interaction:
            ones = torch.ones_like(positions[:, 0])
            matrix = matrix + torch.diag(self_hardness(self.smearing, self.coulomb_constant) * ones)
        return matrix

    def takes_mesh(self, n_atoms: int, cell: Optional[Tensor]) -> bool:
        """Whether the method, or "auto" for so many atoms in this cell, is the mesh."""
        if cell is None:
            return False
        return self.method == "pme" or (self.method == "auto" and self.mesh_is_faster(n_atoms, cell))

    def check_method(self, cell: Optional[Tensor]) -> None:
        """Raise ValueError where the method needs a cell and there is none, or the other way round."""
        if cell is None and (self.method == "ewald" or self.method == "pme"):
            raise ValueError(f"`method='{self.method}'` needs a cell, got cell=None")
        if cell is not None and self.method == "isolated":
            raise ValueError("`method='isolated'` takes no cell; pass cell=None")

    def mesh_is_faster(self, n_atoms: int, cell: Tensor) -> bool:
        """Whether "auto" takes the mesh for so many atoms in this cell, [3, 3] in Å.

        By the times of both solvers on one CPU core in single precision. In water the mesh wins
        from about 60 atoms on, in boxes that are mostly empty later.
        """
        with torch.no_grad():
            volume = float(torch.abs(torch.linalg.det(cell)))
            points = 1.0
            for size in self.mesh.tables.sizes(cell):
                points *= size
            split = 0.0
            if self.k_cutoff is None:
                split = splitting(cell, self.smearing, self.exact_tolerance)
        largest = math.sqrt(2.0 * math.log(1.0 / self.exact_tolerance)) / self.smearing
        if split > 0.0:
            largest = 2.0 * split * math.sqrt(math.log(1.0 / self.exact_tolerance))
        k_cutoff = self.k_cutoff
        if k_cutoff is not None:
            largest = k_cutoff
        waves = volume * largest**3 / (12.0 * math.pi**2)  # half of the lattice inside the sphere
        pairs = float(n_atoms * n_atoms) if split > 0.0 else 0.0
        exact = 4e5 + 11.0 * n_atoms * waves + 100.0 * pairs  # ns
        mesh = 6e5 + 8.0 * n_atoms * self.mesh.tables.order**3 + 12.0 * points
        return mesh < exact


__all__ = ["METHODS", "LatentCoulomb"]
