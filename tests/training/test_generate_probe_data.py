"""The script that puts molecules into the field of distant probes, on a source of a few molecules."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from openmm_les.molecules import bonded_molecules
from openmm_les.training.checks import check_configurations
from openmm_les.training.readers import read_configurations
from tests.training.small_source import source_file

SCRIPT = Path(__file__).parents[2] / "examples" / "generate_probe_data.py"

pytest.importorskip("tblite", reason="needs the extra `data`")


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        yield importlib.import_module("generate_probe_data")
        for name in ("generate_probe_data", "molecule_data"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return source_file(tmp_path_factory.mktemp("probes"))


@pytest.fixture(scope="module")
def made(script, source):
    file = source.with_name("probes.h5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(SCRIPT), str(source), str(file), "--count", "8", "--held-out", "2"])
        script.main()
    return file


def test_molecules_are_out_of_each_others_reach_and_keep_their_charges(script, made):
    data, report = check_configurations(read_configurations(made))
    assert len(data) == 12 and report.labels["dipoles"] == 12
    assert sorted(data.split) == ["test"] * 2 + ["train"] * 8 + ["valid"] * 2
    assert (data.total_charge != 0).any()
    for i in range(len(data)):
        atoms = data.atoms_of(i)
        molecule = bonded_molecules(data.positions[atoms], data.numbers[atoms])
        assert molecule.max() >= 1
        for m in range(molecule.max() + 1):
            gap = cdist(data.positions[atoms][molecule == m], data.positions[atoms][molecule != m]).min()
            assert gap >= script.DISTANCES[0] - 1e-3
        chlorides = (data.numbers[atoms] == 17).sum()
        ammoniums = ((data.numbers[atoms] == 7) & (np.bincount(molecule)[molecule] == 5)).sum()
        assert data.total_charge[i] == ammoniums - chlorides


def test_forces_are_the_slope_of_the_energy(script, made):
    data = read_configurations(made)
    atoms = data.atoms_of(0)
    moved = data.positions[atoms].copy()
    step = 0.01
    energies = []
    for sign in (-1, 1):
        moved[0, 1] = data.positions[atoms][0, 1] + sign * step
        energies.append(script.usable_labels(data.numbers[atoms], moved, data.total_charge[0])["energy"])
    assert -(energies[1] - energies[0]) / (2 * step) == pytest.approx(data.forces[atoms][0, 1], abs=2e-3)


def test_a_file_is_not_overwritten(script, source, made, monkeypatch, capsys):
    before = made.read_bytes()
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(source), str(made)])
    with pytest.raises(SystemExit):
        script.main()
    assert "exists" in capsys.readouterr().err
    assert made.read_bytes() == before


def test_contacts_are_close_and_not_too_hard(script, source, tmp_path, monkeypatch):
    path = tmp_path / "contacts.h5"
    arguments = [str(source), str(path), "--count", "4", "--held-out", "1", "--distances", "1.4", "2.8"]
    monkeypatch.setattr(sys, "argv", ["generate_probe_data.py", *arguments, "--ion-share", "0"])
    script.main()
    data = read_configurations(path)
    assert set(data.group) == {"contacts"} and set(data.total_charge) <= {0.0, 1.0}  # no ion among the probes
    assert np.abs(data.forces).max() <= 30.0


def test_parts_of_other_settings_are_not_mixed_in(script, source, tmp_path, monkeypatch, capsys):
    path = tmp_path / "mixed.h5"
    arguments = ["generate_probe_data.py", str(source), str(path), "--count", "1", "--held-out", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    script.main()
    path.unlink()  # as if interrupted before the end
    monkeypatch.setattr(sys, "argv", [*arguments, "--distances", "1.4", "2.8"])
    with pytest.raises(SystemExit):
        script.main()
    assert "other settings" in capsys.readouterr().err
    assert not path.exists()
