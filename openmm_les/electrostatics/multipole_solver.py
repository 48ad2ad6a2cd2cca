"""The Coulomb sum of charges with dipoles and quadrupoles as an object that a model holds."""

from __future__ import annotations

import math
from typing import Optional

from torch import Tensor, nn

from openmm_les.electrostatics.multipole_mesh import MultipoleMesh
from openmm_les.electrostatics.multipoles import (
    MultipoleSum,
    ewald_multipole_sum,
    isolated_multipole_sum,
    multipole_self_sum,
)
from openmm_les.electrostatics.solver import LatentCoulomb


class LatentMultipoles(nn.Module):
    """Coulomb interaction of latent charges, dipoles and quadrupoles of one Gaussian width.

    Parameters
    ----------
    smearing, coulomb_constant, k_cutoff, self_interaction, tolerance, method : as `LatentCoulomb`
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
        self.charges = LatentCoulomb(
            smearing, coulomb_constant, k_cutoff, self_interaction, tolerance, method
        )
        self.mesh = MultipoleMesh(smearing, coulomb_constant, k_cutoff, tolerance)
        self.quadrupole_mesh = MultipoleMesh(smearing, coulomb_constant, k_cutoff, tolerance, True)

    def forward(
        self,
        positions: Tensor,
        charges: Tensor,
        dipoles: Tensor,
        quadrupoles: Optional[Tensor],
        cell: Optional[Tensor],
    ) -> MultipoleSum:
        """Energy, potential, gradient, field and, with quadrupoles, curvature, all differentiable.

        ``positions`` [n_atoms, 3] in Å, ``charges`` [n_atoms] in e, ``dipoles`` [n_atoms, 3] in e·Å,
        ``quadrupoles`` [n_atoms, 3, 3] in e·Å² or None, ``cell`` [3, 3] in Å or None. Raises ValueError
        where the method does not fit the cell.
        """
        settings = self.charges
        settings.check_method(cell)
        if cell is None:
            result = isolated_multipole_sum(
                positions, charges, dipoles, quadrupoles, settings.smearing, settings.coulomb_constant
            )
        elif settings.takes_mesh(charges.shape[0], cell):
            if quadrupoles is None:
                result = self.mesh(positions, charges, dipoles, None, cell)
            else:
                result = self.quadrupole_mesh(positions, charges, dipoles, quadrupoles, cell)
        else:
            result = ewald_multipole_sum(
                positions,
                charges,
                dipoles,
                quadrupoles,
                cell,
                settings.smearing,
                settings.coulomb_constant,
                settings.k_cutoff,
                settings.exact_tolerance,
            )
        if settings.self_interaction:
            width = math.sqrt(2.0) * settings.smearing
            own = multipole_self_sum(charges, dipoles, quadrupoles, width, settings.coulomb_constant)
            curvature, of_itself = result.curvature, own.curvature
            if curvature is not None and of_itself is not None:
                curvature = curvature + of_itself
            result = MultipoleSum(
                result.energy + own.energy,
                result.potential + own.potential,
                result.gradient,
                result.field + own.field,
                curvature,
            )
        return result


__all__ = ["LatentMultipoles"]
