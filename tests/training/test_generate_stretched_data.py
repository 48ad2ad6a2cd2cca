"""The script that stretches bonds and moves protons, on a source of a few molecules."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import ase.build
import numpy as np
import pytest

from openmm_les.molecules import covalent_bonds
from openmm_les.training.batches import GraphData
from openmm_les.training.checks import check_configurations
from openmm_les.training.readers import read_configurations
from tests.builders import FORMAMIDE, FORMAMIDE_NUMBERS, WATER, WATER_NUMBERS
from tests.training.small_source import source_file

EXAMPLES = Path(__file__).parents[2] / "examples"

pytest.importorskip("tblite", reason="needs the extra `data`")


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield importlib.import_module("generate_stretched_data")
        for name in ("generate_stretched_data", "molecule_data"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def made(script, tmp_path_factory):
    source = source_file(tmp_path_factory.mktemp("stretched"))
    file = source.with_name("stretched.h5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["script", str(source), str(file), "--count", "30", "--held-out", "2"])
        script.main()
    return read_configurations(file)


def test_torn_molecules_stay_molecules(made):
    data, _ = check_configurations(made, max_force=30.0)
    graphs = GraphData(data, 4.5)
    torn = 0
    for i in range(len(data)):
        atoms = data.atoms_of(i)
        graph = graphs.batch(np.array([i])).graph
        assert (graph.molecules == 0).all()
        assert graph.molecule_charges.tolist() == [data.total_charge[i]]
        bonds = covalent_bonds(data.positions[atoms], data.numbers[atoms])
        torn += len(bonds) < len(data.numbers[atoms]) - 1
    assert torn > len(data) // 4
    assert graphs.n_unresolved == 0


def test_a_proton_is_shared_along_its_hydrogen_bond(script):
    acceptor = WATER + np.array([0.0, 0.0, 6.0])
    x = np.concatenate([WATER, acceptor])
    numbers = np.array([*WATER_NUMBERS, *WATER_NUMBERS])
    # The second water's oxygen before a hydrogen of the first.
    along = (x[1] - x[0]) / np.linalg.norm(x[1] - x[0])
    x[3:] += x[0] + 2.8 * along - x[3]
    bonds = covalent_bonds(WATER, WATER_NUMBERS)
    found = script.hydrogen_bonds(numbers, x, np.concatenate([bonds, bonds + 3]))
    assert (0, 1, 3) in found
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = script.share_proton(x, (0, 1, 3), np.repeat([0, 1], 3), rng)
        whole, *parts = (np.linalg.norm(moved[i] - moved[j]) for i, j in ((0, 3), (0, 1), (1, 3)))
        assert sum(parts) == pytest.approx(whole)
        assert script.DONOR_ACCEPTOR[0] <= whole <= script.DONOR_ACCEPTOR[1] and min(parts) > 0.8
        np.testing.assert_allclose(moved[3:] - moved[3], x[3:] - x[3], atol=1e-12)


def test_two_parts_are_pulled_apart_whole(script):
    numbers, bonds = np.array(FORMAMIDE_NUMBERS), covalent_bonds(FORMAMIDE, FORMAMIDE_NUMBERS)
    molecule = script.Molecule(numbers, FORMAMIDE, 0.0, "formamide")
    ((_, change),) = script.changes_of(molecule)["two parts"][:1]
    moved = script.pull_apart(FORMAMIDE, change.atoms, bonds, np.random.default_rng(1))
    changed = [
        (i, j)
        for i, j in bonds.tolist()
        if abs(np.linalg.norm(moved[i] - moved[j]) - np.linalg.norm(FORMAMIDE[i] - FORMAMIDE[j])) > 1e-9
    ]
    assert len(changed) == 1 and 1 not in numbers[list(changed[0])]


def test_acids_are_told_from_alcohols_and_amides(script):
    for name, category in (
        ("CH3COOH", "acid hydrogen"),
        ("CH3SH", "acid hydrogen"),
        ("CH3OH", "polar hydrogen"),
    ):
        atoms = ase.build.molecule(name)
        molecule = script.Molecule(atoms.numbers, atoms.positions, 0.0, name)
        found = script.changes_of(molecule)
        assert len(found[category]) == 1 and len(found["other hydrogen"]) == 3
    amide = script.Molecule(np.array(FORMAMIDE_NUMBERS), FORMAMIDE, 0.0, "formamide")
    assert len(script.changes_of(amide)["polar hydrogen"]) == 2


def test_rare_surroundings_come_often(script):
    acid, water = ase.build.molecule("CH3COOH"), ase.build.molecule("H2O")
    molecules = [script.Molecule(water.numbers, water.positions, 0.0, "water")] * 99
    molecules.append(script.Molecule(acid.numbers, acid.positions, 0.0, "acid"))
    rng = np.random.default_rng(0)
    changes = script.all_changes(molecules, np.ones(100), rng)
    drawn = [changes.draw(rng).molecule.name for _ in range(400)]
    assert 100 < drawn.count("acid") < 350


def test_only_some_surroundings_are_changed(script, tmp_path):
    source = source_file(tmp_path)
    changes = script.drawn("train", source, [], "7h2:6")
    rng = np.random.default_rng(0)
    for _ in range(20):
        change = changes.draw(rng)
        assert change.molecule.name == "formamide" and change.molecule.numbers[change.atoms[0]] == 7
    with pytest.raises(SystemExit, match=r"source.h5 have no surroundings that begin with '8h1'"):
        script.drawn("train", source, [], "8h1")
