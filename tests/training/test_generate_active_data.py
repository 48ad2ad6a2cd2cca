"""The scripts that let molecules meet and that follow a model's dynamics, on a source of a few molecules."""

from __future__ import annotations

import importlib
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

import openmm_les
from openmm_les.molecules import covalent_bonds
from openmm_les.training.batches import GraphData
from openmm_les.training.checks import check_configurations
from openmm_les.training.readers import read_configurations
from tests.training.small_source import source_file

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = (
    "generate_active_data",
    "generate_shared_protons",
    "generate_stretched_data",
    "generate_probe_data",
)

pytest.importorskip("tblite", reason="needs the extra `data`")


@pytest.fixture(scope="module")
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield {name: importlib.import_module(name) for name in SCRIPTS}
        for name in (*SCRIPTS, "lone_molecules", "molecule_data"):
            del sys.modules[name]


def run(script, folder, *arguments):
    """Configurations that a script made of the small source."""
    source = source_file(folder)
    file = source.with_name(f"{script.__name__}.h5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["script", str(source), str(file), "--held-out", "2", *arguments])
        script.main()
    data, _ = check_configurations(read_configurations(file), max_force=30.0)
    return data


def test_protons_stand_between_two_molecules_that_stay_two(scripts, tmp_path):
    data = run(scripts["generate_shared_protons"], tmp_path, "--count", "20")
    assert len(data) == 24
    nearest, farthest = scripts["generate_stretched_data"].DONOR_ACCEPTOR
    shared = 0
    for i in range(len(data)):
        atoms = data.atoms_of(i)
        graph = GraphData(data, 4.5).batch(np.array([i])).graph
        assert graph.molecules.tolist() == sorted(graph.molecules.tolist()) and graph.molecules.max() == 1
        assert float(graph.molecule_charges.sum()) == data.total_charge[i]
        gaps = np.linalg.norm(data.positions[atoms][:, None] - data.positions[atoms][None], axis=-1)
        first, second = (np.flatnonzero(graph.molecules.numpy() == m) for m in (0, 1))
        heavy = data.numbers[atoms] > 1
        apart = gaps[np.ix_(first[heavy[first]], second[heavy[second]])].min()
        shared += nearest - 0.01 < apart < farthest + 0.01
    assert shared == len(data)


def test_frames_come_from_the_models_own_dynamics(scripts, tmp_path):
    script = scripts["generate_active_data"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "ATOMS", 20)
        patch.setattr(script, "PICOSECONDS", 0.1)
        data = run(script, tmp_path, "--count", "4")
    assert len(data) == 8
    model = openmm_les.load_model("peptide-gfn2-small")
    rng = np.random.default_rng(0)
    start = script.drawn("train", tmp_path / "source.h5", []).draw(rng)
    bonds = covalent_bonds(start.positions, start.numbers)
    rest = np.linalg.norm(start.positions[bonds[:, 0]] - start.positions[bonds[:, 1]], axis=1)
    ((first, *others),) = script.visited([start], model, rng)
    assert len(others) == 19
    for x in (first, *others):
        lengths = np.linalg.norm(x[bonds[:, 0]] - x[bonds[:, 1]], axis=1)
        assert np.abs(lengths - rest).max() < 0.4
    assert np.abs(first - others[-1]).max() > 0.1


def test_wrong_frames_are_kept_and_torn_ones_are_not(scripts):
    script = scripts["generate_active_data"]
    molecule = script.Molecule(
        np.array([8, 1, 1]), np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), 0.0, "w"
    )
    model = openmm_les.load_model("peptide-gfn2-small")

    class Never:
        """Keeps no frame where the model is right."""

        def random(self):
            return 1.0

    rows = defaultdict(list)
    script.add_frame(rows, molecule, molecule.positions, model, Never())
    assert not rows["energy"]  # right
    for factor, kept in ((3.5, 0), (0.82, 1)):
        bent = molecule.positions.copy()
        bent[1] *= factor
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(script, "WRONG", 1e-3)
            script.add_frame(rows, molecule, bent, model, Never())
        assert len(rows["energy"]) == kept
