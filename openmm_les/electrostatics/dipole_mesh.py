"""Particle-mesh sum of Gaussian charges and dipoles, in any cell, at O(N log N)."""

from __future__ import annotations

import math
from typing import Optional

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.influence import MeshTables
from openmm_les.electrostatics.mesh import mesh_sum
from openmm_les.electrostatics.multipoles import MultipoleSum

DIPOLE_FACTOR = 60.0
"""How much larger a mesh's error is, in relation, for forces between dipoles than between charges:
dipoles weigh waves by k more. Measured: 20 to 70 between the tolerances 1e-4 and 1e-6."""


class DipoleMesh(nn.Module):
    """Sum of `ewald_multipole_sum` for charges and dipoles, to a given accuracy.

    Parameters
    ----------
    smearing : σ in Å
    coulomb_constant : eV·Å/e²
    k_cutoff : 1/Å, sharp cut of the sum; None = converged
    tolerance : error of the forces over the forces, root mean squares

    Notes
    -----
    Splines carry dipoles to the mesh by their derivatives: Toukmaji et al., J. Chem. Phys. 113,
    10913 (2000). Forces of a mesh do not add up to exactly zero.
    """

    def __init__(
        self,
        smearing: float = 1.0,
        coulomb_constant: float = 14.399645,
        k_cutoff: Optional[float] = None,
        tolerance: float = 1e-4,
    ) -> None:
        super().__init__()
        self.tables = MeshTables(smearing, coulomb_constant, k_cutoff, tolerance / DIPOLE_FACTOR, 2)

    def forward(self, positions: Tensor, charges: Tensor, dipoles: Tensor, cell: Tensor) -> MultipoleSum:
        """Sums, differentiable to second order; written derivatives where nothing asks for a record.

        ``positions`` [n_atoms, 3] in Å, ``charges`` [n_atoms] in e, ``dipoles`` [n_atoms, 3] in e·Å,
        ``cell`` [3, 3] in Å.
        """
        influence, self_terms = self.tables(cell)
        energy, potential, derivatives, to_mesh = mesh_sum(
            positions,
            charges,
            dipoles,
            cell,
            self.tables.sizes(cell),
            self.tables.table.to(positions),
            influence,
            self_terms,
        )
        moments = (dipoles @ to_mesh).t()  # [3, n_atoms], in mesh spacings
        x, y, z = derivatives[3:6], derivatives[[4, 6, 7]], derivatives[[5, 7, 8]]
        bent = torch.stack([(row * moments).sum(0) for row in (x, y, z)])
        gradient = (charges * derivatives[:3] + bent).t() @ to_mesh.t()
        field = -(derivatives[:3].t() @ to_mesh.t())
        width = math.sqrt(2.0) * self.tables.smearing
        of_charge = 2.0 * self.tables.coulomb_constant / (math.sqrt(math.pi) * width)
        of_dipole = of_charge * 2.0 / (3.0 * width * width)
        energy = energy - 0.5 * (
            of_charge * (charges * charges).sum() + of_dipole * (dipoles * dipoles).sum()
        )
        return MultipoleSum(
            energy, potential - of_charge * charges, gradient, field + of_dipole * dipoles, None
        )


__all__ = ["DipoleMesh"]
