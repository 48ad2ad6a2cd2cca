"""Shipped models push molecules apart that come too close: no hole behind the wall to fall into."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule

import openmm_les


def facing_waters(atom: int, distance: float) -> np.ndarray:
    """Two waters, [6, 3] in Å, in line through their atoms ``atom``, which are ``distance`` apart."""
    water = molecule("H2O").positions
    water = water - water[atom]
    outwards = -water.mean(0) / np.linalg.norm(water.mean(0))
    return np.concatenate([water, -water + distance * outwards])


@pytest.mark.parametrize("model", ["peptide-gfn2-small", "water-gfn2-small"])
@pytest.mark.parametrize(
    ("atom", "distances", "least"), [(0, (1.4, 1.6, 1.8, 2.0), 5.0), (1, (0.8, 0.9, 1.0, 1.1), 1.0)]
)
def test_energies_rise_towards_each_other(model, atom, distances, least):
    """``least`` eV at the shortest distance; GFN2-xTB has 8.9 between oxygens, 1.5 between hydrogens."""
    shipped = openmm_les.load_model(model)
    both = {
        "atomic_numbers": np.tile(molecule("H2O").numbers, 2),
        "molecules": np.repeat([0, 1], 3),
        "total_charge": [0.0, 0.0],
    }
    far, *energies = (shipped.evaluate(facing_waters(atom, d), **both).energy for d in (10.0, *distances))
    interaction = np.array(energies) - far
    assert (np.diff(interaction) < 0.0).all()
    assert interaction[0] > least
