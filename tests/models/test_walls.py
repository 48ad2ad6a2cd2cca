"""Shipped models push molecules apart that come too close: no hole behind the wall to fall into."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

import openmm_les


def bond(atoms: Atoms, heavy: int, hydrogen: int) -> tuple[int, int]:
    """The shortest bond between two elements."""
    first, second = (np.flatnonzero(atoms.numbers == z) for z in (heavy, hydrogen))
    gaps = atoms.get_all_distances()[np.ix_(first, second)]
    i, j = np.unravel_index(gaps.argmin(), gaps.shape)
    return int(first[i]), int(second[j])


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


@pytest.mark.parametrize(
    ("model", "name", "elements", "least"),
    [
        ("peptide-gfn2-small", "CH3COOH", (8, 1), 1.2),  # GFN2-xTB has 1.6 eV
        ("peptide-gfn2-small", "HCOOH", (8, 1), 1.2),  # 1.5
        ("peptide-gfn2-small", "CH3OH", (8, 1), 1.0),  # 1.7
        ("peptide-gfn2-small", "NH3", (7, 1), 0.9),  # 1.4
        ("peptide-gfn2-small", "H2O", (8, 1), 1.2),  # 1.8
        ("water-gfn2-small", "H2O", (8, 1), 1.2),
    ],
)
def test_hydrogens_stay_with_their_atoms(model, name, elements, least):
    """``least`` eV at 1.4 Å, and more and more beyond."""
    shipped, atoms = openmm_les.load_model(model), molecule(name)
    first, last = bond(atoms, *elements)
    whole = {
        "atomic_numbers": atoms.numbers,
        "molecules": np.zeros(len(atoms), dtype=int),
        "total_charge": 0.0,
    }
    energies = []
    for distance in (atoms.get_distance(first, last), 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4):
        atoms.set_distance(first, last, distance, fix=0)
        energies.append(shipped.evaluate(atoms.positions, **whole).energy)
    assert (np.diff(energies) > 0.0).all()
    assert energies[2] - energies[0] > least


def test_a_proton_of_an_acid_does_not_go_to_the_next_water():
    """At 1.5 Å of 2.6 it costs 1.7 eV more than at 1.0 Å in GFN2-xTB."""
    acid, water = molecule("CH3COOH"), molecule("H2O")
    oxygen, proton = bond(acid, 8, 1)
    along = acid.positions[proton] - acid.positions[oxygen]
    along = along / np.linalg.norm(along)
    water.positions -= water.positions[0]
    water.rotate(water.positions[1:].sum(0), along, center=(0.0, 0.0, 0.0))
    water.positions += acid.positions[oxygen] + 2.6 * along
    both = acid + water
    shipped = openmm_les.load_model("peptide-gfn2-small")
    energies = []
    for distance in np.arange(1.0, 1.75, 0.1):
        both.positions[proton] = acid.positions[oxygen] + distance * along
        found = shipped.evaluate(
            both.positions,
            atomic_numbers=both.numbers,
            molecules=np.repeat([0, 1], [len(acid), 3]),
            total_charge=[0.0, 0.0],
        )
        energies.append(found.energy)
    assert (np.diff(energies) > 0.0).all()
    assert energies[5] - energies[0] > 0.6
