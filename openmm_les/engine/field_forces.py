"""The forces of `boundary` and `embedded` in a uniform field, whose components come before other parameters.

Classes of their own, because OpenMM passes global parameters by position: the signatures of forces
without a field stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from openmm_les.engine.boundary import IsolatedForce, PeriodicForce
from openmm_les.engine.embedded import IsolatedEmbedded, PeriodicEmbedded
from openmm_les.engine.field import FIELD_TERM
from openmm_les.neighbors import perpendicular_widths

TRIAL_FIELD = (0.3, -0.2, 0.5)
"""V/nm, at which compiled modules are compared."""

# Errors are raised in `forward` itself, see `boundary`.


class InField:
    """What the forces in a field have in common."""

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        term_names: list[str]

    trial_parameters: ClassVar[tuple[float, ...]] = TRIAL_FIELD
    whole: ClassVar[bool] = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.term_names.append(FIELD_TERM)


class PeriodicFieldForce(InField, PeriodicForce):
    """`PeriodicForce` in a uniform field."""

    def forward(  # type: ignore[override]
        self,
        positions: Tensor,
        box: Tensor,
        electric_field_x: Tensor,
        electric_field_y: Tensor,
        electric_field_z: Tensor,
        lambda_interpolate: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `ForceBoundary.compute`; raises as the class without a field."""
        if not bool(torch.isfinite(positions).all()):
            raise RuntimeError(self.bad_positions)
        field = torch.stack([electric_field_x, electric_field_y, electric_field_z]).view(3)
        energy, forces = self.compute(positions, box, lambda_interpolate, field)
        if not bool(torch.isfinite(energy)):
            raise RuntimeError(self.bad_energy)
        return energy, forces


class IsolatedFieldForce(InField, IsolatedForce):
    """`IsolatedForce` in a uniform field."""

    def forward(  # type: ignore[override]
        self,
        positions: Tensor,
        electric_field_x: Tensor,
        electric_field_y: Tensor,
        electric_field_z: Tensor,
        lambda_interpolate: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `ForceBoundary.compute`; raises as the class without a field."""
        if not bool(torch.isfinite(positions).all()):
            raise RuntimeError(self.bad_positions)
        field = torch.stack([electric_field_x, electric_field_y, electric_field_z]).view(3)
        energy, forces = self.compute(positions, None, lambda_interpolate, field)
        if not bool(torch.isfinite(energy)):
            raise RuntimeError(self.bad_energy)
        return energy, forces


class PeriodicFieldEmbedded(InField, PeriodicEmbedded):
    """`PeriodicEmbedded` in a uniform field."""

    def forward(  # type: ignore[override]
        self,
        positions: Tensor,
        box: Tensor,
        electric_field_x: Tensor,
        electric_field_y: Tensor,
        electric_field_z: Tensor,
        lambda_electrostatics: Tensor | None = None,
        lambda_interpolate: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `EmbeddedBoundary.embedded`; raises as the class without a field."""
        if not bool(torch.isfinite(positions).all()):
            raise RuntimeError(self.bad_positions)
        narrowest = float(perpendicular_widths(box.to(torch.float64)).min()) * self.length_factor
        if narrowest < 2.0 * self.coupling.cutoff:
            raise RuntimeError(self.narrow_box)
        field = torch.stack([electric_field_x, electric_field_y, electric_field_z]).view(3)
        energy, forces = self.embedded(positions, box, lambda_electrostatics, lambda_interpolate, field)
        if not bool(torch.isfinite(energy)):
            raise RuntimeError(self.bad_energy)
        return energy, forces


class IsolatedFieldEmbedded(InField, IsolatedEmbedded):
    """`IsolatedEmbedded` in a uniform field."""

    def forward(  # type: ignore[override]
        self,
        positions: Tensor,
        electric_field_x: Tensor,
        electric_field_y: Tensor,
        electric_field_z: Tensor,
        lambda_electrostatics: Tensor | None = None,
        lambda_interpolate: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `EmbeddedBoundary.embedded`; raises as the class without a field."""
        if not bool(torch.isfinite(positions).all()):
            raise RuntimeError(self.bad_positions)
        field = torch.stack([electric_field_x, electric_field_y, electric_field_z]).view(3)
        energy, forces = self.embedded(positions, None, lambda_electrostatics, lambda_interpolate, field)
        if not bool(torch.isfinite(energy)):
            raise RuntimeError(self.bad_energy)
        return energy, forces


__all__ = [
    "TRIAL_FIELD",
    "IsolatedFieldEmbedded",
    "IsolatedFieldForce",
    "PeriodicFieldEmbedded",
    "PeriodicFieldForce",
]
