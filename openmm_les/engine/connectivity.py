"""Which atoms a barostat moves as one: bonds for OpenMM to see where a model has none."""

from __future__ import annotations

from collections.abc import Iterable

import openmm

CONNECTIVITY_NAME = "ML connectivity"


def connectivity_force(bonds: Iterable[tuple[int, int]], periodic: bool) -> openmm.HarmonicBondForce:
    """Bonds of zero strength.

    OpenMM finds molecules by bonds, not by what an ML force knows. Without bonds a barostat would
    scale the atoms of a molecule apart, and almost no change of the box would be accepted.

    Parameters
    ----------
    bonds : pairs of particle indices
    periodic : as the system, for `openmm.System.usesPeriodicBoundaryConditions`
    """
    force = openmm.HarmonicBondForce()
    for i, j in bonds:
        force.addBond(i, j, 0.1, 0.0)
    force.setUsesPeriodicBoundaryConditions(periodic)
    force.setName(CONNECTIVITY_NAME)
    return force


def pairs_of_molecules(molecules: Iterable[int]) -> list[tuple[int, int]]:
    """Pairs that join the atoms of each molecule to its first; ``molecules``: index of each atom's."""
    firsts: dict[int, int] = {}
    pairs = [(firsts.setdefault(molecule, i), i) for i, molecule in enumerate(molecules)]
    return [(i, j) for i, j in pairs if i != j]


__all__ = ["CONNECTIVITY_NAME", "connectivity_force", "pairs_of_molecules"]
