from __future__ import annotations

import h5py
import numpy as np
import pytest

from openmm_les.training.evaluation import warnings_of
from openmm_les.training.metrics import Predictions
from openmm_les.training.readers import read_configurations
from tests.training.toy import toy_configurations


def _perfect(toy):
    predictions = Predictions(toy)
    predictions.energy = toy.energy.copy()
    predictions.forces = toy.forces.copy()
    predictions.charges = predictions.latent_charges = np.where(toy.numbers == 1, 0.2, -0.4)
    return predictions


def test_perfect_predictions_have_no_error():
    summary = _perfect(toy_configurations(12)).summary()
    assert summary["all"]["force_rmse"] == summary["all"]["energy_mae"] == 0.0
    assert summary["dipole_neutral"]["r"] == pytest.approx(1.0)
    assert summary["dipole_neutral"]["slope"] == pytest.approx(1.0)
    assert summary["dipole_charged"] is None
    assert summary["charge_mean"] == pytest.approx({"H": 0.2, "O": -0.4})
    assert summary["charge_spread_neutral"]["H"] == pytest.approx(0.0)
    assert summary["charge_spread_neutral"]["all"] == pytest.approx(np.sqrt(2.0) * 0.2)


def test_errors_are_counted_by_group():
    toy = toy_configurations(12)
    predictions = _perfect(toy)
    second = toy.group == "water2"
    predictions.energy[second] += 0.6  # six atoms: 0.1 eV per atom
    predictions.forces[toy.per_atom(second), 0] += 0.3
    toy.total_charge[second] = 1.0
    summary = predictions.summary()
    groups = summary["groups"]
    assert summary["charged"] == groups["water2"]
    assert groups["water1"]["force_mae"] == groups["water3"]["energy_mae"] == 0.0
    assert groups["water2"]["energy_mae"] == pytest.approx(0.1)
    assert groups["water2"]["force_mae"] == pytest.approx(0.1)
    assert groups["water2"]["force_error"] == pytest.approx(0.3)
    assert groups["water2"]["force_rmse"] == pytest.approx(0.3 / np.sqrt(3.0))
    assert groups["water2"]["configurations"] == 4


def test_energies_of_ions_that_are_off_by_a_constant_are_told():
    toy = toy_configurations(12)
    predictions = _perfect(toy)
    toy.total_charge[toy.group == "water2"] = -1.0
    toy.total_charge[toy.group == "water3"] = 1.0
    predictions.energy[toy.group == "water2"] += 3.4
    predictions.energy[toy.group == "water3"] += 0.5
    summary = predictions.summary()
    assert summary["energy_offsets"] == pytest.approx({"-1": 3.4, "0": 0.0, "1": 0.5})
    (warning,) = warnings_of(summary, charges=True)
    assert "charge -1 e are off by +3.4 eV" in warning
    predictions.energy += 5.0  # of all alike: another zero
    assert warnings_of(predictions.summary(), charges=True) == [warning]


def test_dipoles_of_ions_do_not_depend_on_the_origin():
    toy = toy_configurations(12)
    toy.total_charge[:] = 1.0
    charges = np.where(toy.numbers == 1, 0.2, -0.4) + 1.0 / toy.per_atom(toy.sizes)
    results = []
    for origin in (0.0, 50.0):
        moved = toy_configurations(12)
        moved.total_charge[:] = 1.0
        moved.positions += origin
        moved.dipole = np.add.reduceat(charges[:, None] * moved.positions, moved.offsets[:-1])
        predictions = _perfect(moved)
        predictions.charges = 0.5 * charges + 0.5 / moved.per_atom(moved.sizes)
        results.append(predictions.summary()["dipole_charged"])
    assert results[0] == pytest.approx(results[1])
    assert results[0]["r"] < 1.0


def test_periodic_configurations_have_no_dipole():
    toy = toy_configurations(12)
    toy.cell[:] = 20.0 * np.eye(3)
    assert _perfect(toy).summary()["all"]["dipole"] is None


def test_mulliken_charges_give_the_reference_dipoles(shared_data):
    """The conventions (origin, sign, unit) against charges known to give good dipoles."""
    file = shared_data / "training" / "gfn2_bio.h5"
    data = read_configurations(file)
    predictions = Predictions(data)
    with h5py.File(file) as raw:
        predictions.charges = raw["xtb_charges"][:].astype(np.float64)
    for charged in (False, True):
        agreement = predictions.dipole_agreement((data.total_charge != 0.0) == charged)
        assert agreement["r"] > 0.99
        assert 0.8 < agreement["slope"] < 1.0
