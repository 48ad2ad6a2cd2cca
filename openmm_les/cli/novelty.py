"""Watches whether a run leaves the training data of its model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import openmm
from openmm import app, unit

from openmm_les.engine.force_reader import MLForceReader
from openmm_les.models.domain import NOVEL

COLUMN = "Largest ML novelty"


class NoveltyWatch:
    """Largest novelty of an ML atom at each report, and a word at the first that is too large.

    Parameters
    ----------
    system : with an LES force
    topology : for the names of atoms
    say : takes the warning
    """

    def __init__(self, system: openmm.System, topology: app.Topology, say: Callable[[str], None]) -> None:
        self._reader = MLForceReader(system)
        self._atoms = list(topology.atoms())
        self._say = say
        self._said = False

    @property
    def atoms(self) -> np.ndarray:
        """Indices of the ML atoms, [n_ml]."""
        return self._reader.atoms

    @property
    def knows(self) -> bool:
        """Whether the model says what its training data were like."""
        return self._reader.knows_domain

    def largest(self, context: openmm.Context) -> float:
        """Largest novelty of an atom at the context's positions; see `LESModel.novelty`."""
        state = context.getState(positions=True)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
        novelty = self._reader.novelty(positions, box)
        worst = int(np.argmax(novelty))
        if not novelty[worst] <= NOVEL and not self._said:  # not a number is novel, too
            self._said = True
            atom = self._atoms[int(self._reader.atoms[worst])]
            self._say(
                f"warning: atom {atom.index} ({atom.residue.name} {atom.residue.id} {atom.name}) lies "
                f"{novelty[worst]:.1f} times as far out as almost all of the model's training data: it is "
                f'not to be trusted there (see "{COLUMN}" in the table of energies)'
            )
        return float(novelty[worst])
