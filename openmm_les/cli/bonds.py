"""Watches whether the bonds of the ML region hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import openmm
from openmm import app, unit

from openmm_les.elements import covalent_radii

COLUMN = "Longest ML bond"
TORN = 1.6
"""Times the atoms' covalent radii; bonds at 300 K stay below 1.3, and C-C breaks at some 1.7"""


class BondWatch:
    """Longest bond of the ML region at each report, and a word at the first that is torn.

    Parameters
    ----------
    topology : with bonds
    ml_atoms : [n_ml], indices
    say : takes the warning
    """

    def __init__(
        self, topology: app.Topology, ml_atoms: Sequence[int] | np.ndarray, say: Callable[[str], None]
    ) -> None:
        inside = set(np.asarray(ml_atoms).tolist())
        self._bonds = [b for b in topology.bonds() if b[0].index in inside and b[1].index in inside]
        self._first, self._last = (np.array([b[k].index for b in self._bonds], dtype=int) for k in (0, 1))
        self._usual = np.array(
            [0.1 * sum(covalent_radii[a.element.atomic_number] for a in (b[0], b[1])) for b in self._bonds]
        )
        self._say = say
        self._said = False

    @property
    def knows(self) -> bool:
        """Whether there is a bond to watch."""
        return len(self._bonds) > 0

    def longest(self, context: openmm.Context) -> float:
        """Length of the longest bond, as a multiple of its atoms' covalent radii."""
        state = context.getState(positions=True)
        x = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        vectors = x[self._last] - x[self._first]
        if context.getSystem().usesPeriodicBoundaryConditions():
            box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
            for k in (2, 1, 0):  # lower triangular, so that the last vector goes first
                vectors -= np.outer(np.round(vectors[:, k] / box[k, k]), box[k])
        lengths = np.linalg.norm(vectors, axis=1)
        worst = int(np.argmax(lengths / self._usual))
        ratio = float(lengths[worst] / self._usual[worst])
        if not ratio < TORN and not self._said:
            self._said = True
            names = " and ".join(
                f"{a.residue.name} {a.residue.id} {a.name} ({a.index})" for a in self._bonds[worst][:2]
            )
            self._say(
                f"warning: the bond between {names} broke, it is {10.0 * lengths[worst]:.2f} Å long: the "
                f'model does not know this molecule, or the time step is too long (see "{COLUMN}" in the '
                "table of energies)"
            )
        return ratio
