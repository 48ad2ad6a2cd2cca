"""The benchmark of charge states: both states of a molecule at one geometry, and the errors between."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from openmm_les.training.readers import read_configurations
from tests.builders import FORMAMIDE, FORMAMIDE_NUMBERS, WATER, WATER_NUMBERS

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"
MOLECULES = [(WATER_NUMBERS, WATER, 0), (FORMAMIDE_NUMBERS, FORMAMIDE, 0), ([17], np.zeros((1, 3)), -1)]

pytest.importorskip("tblite", reason="needs the extra `data`")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import charge_states

    return charge_states


def test_each_geometry_is_labelled_in_both_states(benchmark, tmp_path):
    source, made = tmp_path / "source.h5", tmp_path / "states.h5"
    with h5py.File(source, "w") as file:
        file["offsets"] = np.concatenate([[0], np.cumsum([len(m[0]) for m in MOLECULES])])
        file["atomic_numbers"] = np.concatenate([m[0] for m in MOLECULES]).astype(np.uint8)
        file["positions"] = np.concatenate([m[1] for m in MOLECULES])
        file["total_charge"] = np.array([m[2] for m in MOLECULES])
        file["group"] = np.full(3, b"des_monomer")
        file["split"] = np.full(3, b"test")
        file["name"] = np.array([b"water/0", b"formamide/0", b"chloride/0"])
    benchmark.write_states(source, made, {"test": 5})
    found = read_configurations(made)
    assert found.name.tolist() == ["water/0", "water/0", "formamide/0", "formamide/0"]
    assert found.total_charge.tolist() == [0.0, 1.0, 0.0, 1.0]
    np.testing.assert_array_equal(found.positions[:3], found.positions[3:6])
    ionisation = found.energy[1::2] - found.energy[::2]
    assert ((ionisation > 8.0) & (ionisation < 20.0)).all()
    errors = benchmark.errors(made, "peptide-gfn2-small")
    assert errors["geometries"] == 2
    # The model has seen no cation.
    assert errors["ionisation_energy_ev"]["mae"] > 5.0
    assert errors["force_mae_neutral_mev_per_angstrom"] < 0.5 * errors["force_mae_cation_mev_per_angstrom"]
