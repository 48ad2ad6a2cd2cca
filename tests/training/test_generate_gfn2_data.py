"""The script that makes GFN2 data from nothing, in its tiny form."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from openmm_les.training.checks import check_configurations
from openmm_les.training.hdf5 import level_of_theory
from openmm_les.training.readers import read_configurations

SCRIPT = Path(__file__).parents[2] / "examples" / "generate_gfn2_data.py"

pytest.importorskip("tblite", reason="needs the extra `data`")
pytest.importorskip("PeptideBuilder", reason="needs the extra `data`")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("generate_gfn2_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def tiny(script, tmp_path_factory):
    file = tmp_path_factory.mktemp("gfn2") / "tiny.h5"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(SCRIPT), str(file), "--tiny"])
        script.main()
    return file


def test_tiny_data_are_ready_for_training(tiny):
    data, report = check_configurations(read_configurations(tiny))
    assert len(data) == 12
    assert report.groups == {"capped_amino_acid_md": 4, "small_molecule_md": 4, "water_cluster": 4}
    assert level_of_theory([tiny]).startswith("GFN2-xTB (tblite")
    np.testing.assert_array_equal(data.total_charge[data.group == "capped_amino_acid_md"], -1.0)
    assert report.labels["dipoles"] == 12


def test_finished_molecules_are_not_made_again(script, tiny, tmp_path, monkeypatch):
    again = tmp_path / "again.h5"
    tiny.with_name(tiny.name + ".parts").rename(tmp_path / "again.h5.parts")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(again), "--tiny"])
    monkeypatch.setattr(script, "sample", None)  # any dynamics would fail
    script.main()
    first, second = read_configurations(tiny), read_configurations(again)
    np.testing.assert_array_equal(first.forces, second.forces)
    np.testing.assert_array_equal(first.name, second.name)


def test_a_file_is_not_overwritten(script, tiny, monkeypatch, capsys):
    before = tiny.read_bytes()
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(tiny), "--tiny"])
    with pytest.raises(SystemExit):
        script.main()
    assert "exists" in capsys.readouterr().err
    assert tiny.read_bytes() == before


def test_forces_are_the_slopes_of_the_energies(script, tiny):
    data = read_configurations(tiny)
    methanol = data.select(np.char.startswith(data.name, "g2-CH3OH")).select(np.array([0]))
    direction = np.random.default_rng(0).normal(size=methanol.positions.shape)
    energies = []
    for step in (-0.002, 0.0, 0.002):  # Å
        atoms = script.Atoms(methanol.numbers, methanol.positions + step * direction)
        atoms.calc = script.TBLite(method="GFN2-xTB", verbosity=0)
        energies.append(atoms.get_potential_energy())
    assert energies[1] == pytest.approx(methanol.energy[0], abs=1e-4)
    slope = (energies[2] - energies[0]) / 0.004
    assert abs(slope) > 0.1
    assert slope == pytest.approx(-(methanol.forces * direction).sum(), rel=1e-2)


def test_every_amino_acid_is_whole(script):
    for letter, n_atoms, charge in (("R", 36, 1.0), ("P", 26, 0.0)):
        atoms = script.peptide_atoms(letter)
        bonds = script.covalent_bonds(atoms.positions, atoms.numbers)
        assert len(atoms) == n_atoms
        np.testing.assert_array_equal(script.formal_charges(atoms.numbers, bonds), [charge])
