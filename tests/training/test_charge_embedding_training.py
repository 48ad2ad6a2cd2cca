from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from openmm_les.exceptions import DataError
from openmm_les.models.checkpoint import load_model
from openmm_les.training.trainer import MODEL
from tests.builders import WATER, WATER_NUMBERS
from tests.training.test_trainer import logged_run
from tests.training.toy import toy_configurations, write_hdf5

GAP = 3.0  # eV, between waters and their cations

run = partial(logged_run, max_steps=20, validate_every=10)


@pytest.fixture(scope="module")
def charged(tmp_path_factory):
    """Waters, every other of the lone ones a cation at the same kind of geometry."""
    configurations = toy_configurations(36)
    lone = np.flatnonzero(np.diff(configurations.offsets) == 3)[::2]
    configurations.total_charge[lone] = 1.0
    configurations.energy[lone] += GAP
    return write_hdf5(tmp_path_factory.mktemp("charged") / "toy.h5", configurations)


def gap(path):
    """Energy of a water cation over its parent at one geometry, eV."""
    model = load_model(path)
    energies = [model.evaluate(WATER, np.array(WATER_NUMBERS), total_charge=q).energy for q in (0, 1)]
    return energies[1] - energies[0]


def test_training_opens_a_gap_that_charges_alone_do_not(charged, tmp_path):
    settings = {
        "max_steps": 120,
        "validate_every": 60,
        "short_range_only": True,
        "ema": 0.9,
        "learning_rate": 1e-2,
    }
    rows = run(charged, tmp_path / "run", charge_embedding=True, **settings)
    assert float(rows[-1]["valid_loss"]) < float(rows[0]["valid_loss"])
    assert load_model(tmp_path / "run" / MODEL).backbone.config()["charge_embedding"]
    assert 0.3 * GAP < gap(tmp_path / "run" / MODEL) < 1.7 * GAP


def test_a_trained_model_can_be_given_it(charged, tmp_path):
    run(charged, tmp_path / "plain", max_steps=4, validate_every=4, short_range_only=True)
    assert gap(tmp_path / "plain" / MODEL) == 0.0
    init = str(tmp_path / "plain" / MODEL)
    run(charged, tmp_path / "on", init=init, charge_embedding=True, short_range_only=True)
    assert abs(gap(tmp_path / "on" / MODEL)) > 1e-3
    # Once there it stays, asked for or not.
    run(
        charged,
        tmp_path / "further",
        init=str(tmp_path / "on" / MODEL),
        short_range_only=True,
        max_steps=4,
        validate_every=4,
    )
    assert load_model(tmp_path / "further" / MODEL).backbone.charge_embedding is not None


def test_what_cannot_be_trained_is_refused(charged, tmp_path):
    neutral = write_hdf5(tmp_path / "neutral.h5", toy_configurations(12))
    with pytest.raises(DataError, match="no molecule of the training data is charged"):
        run(neutral, tmp_path / "a", charge_embedding=True)
    with pytest.raises(DataError, match="`charge_embedding` is a part of the backbone"):
        run(charged, tmp_path / "b", charge_embedding=True, freeze_backbone=True, init="peptide-gfn2-small")
