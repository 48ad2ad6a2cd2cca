"""What surrounds an ML region: MM charges, and the numerics of meeting them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

GUARD_DISTANCE = 1.2
"""Å. In a hydrogen bond hydrogens stay beyond 1.5 Å; nearer, an MM charge without a repulsive core
falls into a latent one."""


@dataclass(frozen=True)
class CouplingSettings:
    """Numerics and options of electrostatic embedding; the energy does not depend on the first two."""

    cutoff: float = 12.0
    """Å, of the pairs beside the mesh; shortened where the box asks for it"""
    tolerance: float = 5e-4
    """Errors of the coupling's forces over its forces, root mean squares"""
    mm_smearing: float = 0.0
    """Å, makes MM charges Gaussians of this width where they meet the region's"""
    guard_distance: float = GUARD_DISTANCE
    """Å, from an ML atom to an MM charge without Lennard-Jones, below which a warning is given; 0 = never"""

    def __post_init__(self) -> None:
        for name in ("cutoff", "tolerance", "mm_smearing", "guard_distance"):
            value = getattr(self, name)
            if not (
                math.isfinite(value) and value >= 0.0 and (value > 0.0 or name not in ("cutoff", "tolerance"))
            ):
                raise ValueError(f"`{name}` of CouplingSettings must be positive, got {value}")


@dataclass(frozen=True)
class Surroundings:
    """MM charges around a region, as a force field describes them."""

    atoms: list[int]
    """[n_mm], particle indices"""
    charges: list[float]
    """[n_mm], e"""
    bare: list[int] = field(default_factory=list)
    """Indices into ``atoms`` of charges without a Lennard-Jones core"""
    excluded: list[tuple[int, int]] = field(default_factory=list)
    """Exceptions over the border: (index of the ML atom in the region, index into ``atoms``)"""
    excluded_shares: list[float] = field(default_factory=list)
    """Part of the interaction of each that the force field leaves out"""

    def first(self, n_ml: int, n_mm: int) -> Surroundings:
        """Those around the first ``n_ml`` ML atoms, the first ``n_mm`` of them."""
        kept = [k for k, (i, j) in enumerate(self.excluded) if i < n_ml and j < n_mm]
        return Surroundings(
            self.atoms[:n_mm],
            self.charges[:n_mm],
            [j for j in self.bare if j < n_mm],
            [self.excluded[k] for k in kept],
            [self.excluded_shares[k] for k in kept],
        )


__all__ = ["GUARD_DISTANCE", "CouplingSettings", "Surroundings"]
