"""Particle-mesh sum of Gaussian charges, dipoles and quadrupoles, in any cell, at O(N log N)."""

from __future__ import annotations

import math
from typing import Optional

from torch import Tensor, nn

from openmm_les.electrostatics.influence import MeshTables
from openmm_les.electrostatics.mesh import mesh_curvature, mesh_sum
from openmm_les.electrostatics.multipoles import MultipoleSum, multipole_self_sum

DIPOLE_FACTOR = 60.0
"""How much larger a mesh's error is, in relation, for forces between dipoles than between charges:
dipoles weigh waves by k more. Measured: 20 to 70 between the tolerances 1e-4 and 1e-6."""

QUADRUPOLE_FACTOR = 6000.0
"""The same for quadrupoles. Measured with it, their traces included: forces within the tolerance in
a cube, within eight times of it where cell vectors are far from reduced at 1e-4, fifty times at 1e-5."""


class MultipoleMesh(nn.Module):
    """Sum of `ewald_multipole_sum` on a mesh, to a given accuracy.

    Parameters
    ----------
    smearing : σ in Å
    coulomb_constant : eV·Å/e²
    k_cutoff : 1/Å, sharp cut of the sum; None = converged
    tolerance : error of the forces over the forces, root mean squares
    quadrupoles : a mesh for them, finer than one for charges and dipoles

    Notes
    -----
    Splines carry multipoles to the mesh by their derivatives: Toukmaji et al., J. Chem. Phys. 113,
    10913 (2000). Forces of a mesh do not add up to exactly zero.
    """

    def __init__(
        self,
        smearing: float = 1.0,
        coulomb_constant: float = 14.399645,
        k_cutoff: Optional[float] = None,
        tolerance: float = 1e-4,
        quadrupoles: bool = False,
    ) -> None:
        super().__init__()
        factor = QUADRUPOLE_FACTOR if quadrupoles else DIPOLE_FACTOR
        derivatives = 3 if quadrupoles else 2
        self.tables = MeshTables(smearing, coulomb_constant, k_cutoff, tolerance / factor, derivatives)

    def forward(
        self,
        positions: Tensor,
        charges: Tensor,
        dipoles: Tensor,
        quadrupoles: Optional[Tensor],
        cell: Tensor,
    ) -> MultipoleSum:
        """Sums, differentiable to second order; written derivatives where nothing asks for a record.

        ``positions`` [n_atoms, 3] in Å, ``charges`` [n_atoms] in e, ``dipoles`` [n_atoms, 3] in e·Å,
        ``quadrupoles`` [n_atoms, 3, 3] in e·Å² where the mesh is for them, else None, ``cell`` [3, 3]
        in Å.
        """
        influence, self_terms = self.tables(cell)
        found = mesh_sum(
            positions,
            charges,
            dipoles,
            quadrupoles,
            cell,
            self.tables.sizes(cell),
            self.tables.table.to(positions),
            influence,
            self_terms,
        )
        to_mesh = found.to_mesh
        gradient = found.gradient.t() @ to_mesh.t()
        field = -(found.slope.t() @ to_mesh.t())
        width = math.sqrt(2.0) * self.tables.smearing
        curvature: Optional[Tensor] = None
        if quadrupoles is None:
            of_charge = 2.0 * self.tables.coulomb_constant / (math.sqrt(math.pi) * width)
            of_dipole = of_charge * 2.0 / (3.0 * width * width)
            own = 0.5 * (of_charge * (charges * charges).sum() + of_dipole * (dipoles * dipoles).sum())
            potential, field = found.potential - of_charge * charges, field + of_dipole * dipoles
        else:
            itself = multipole_self_sum(charges, dipoles, quadrupoles, width, self.tables.coulomb_constant)
            own = itself.energy
            potential, field = found.potential - itself.potential, field - itself.field
            bent = mesh_curvature(found.curvature, to_mesh)
            own_curvature = itself.curvature
            if own_curvature is not None:
                bent = bent - own_curvature
            curvature = bent
        return MultipoleSum(found.energy - own, potential, gradient, field, curvature)


__all__ = ["MultipoleMesh"]
