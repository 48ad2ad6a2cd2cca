from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from openmm_les.exceptions import DataError
from openmm_les.models.checkpoint import load_model
from openmm_les.models.equilibration import ChargeEquilibration
from openmm_les.training.evaluation import evaluate_model
from openmm_les.training.settings import TrainingSettings
from openmm_les.training.trainer import MODEL
from tests.training.test_trainer import logged_run
from tests.training.toy import toy_configurations, write_hdf5

run = partial(logged_run, max_steps=40, validate_every=20, charge_start=0.2)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return str(write_hdf5(tmp_path_factory.mktemp("toy") / "toy.h5", toy_configurations(18)))


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
    """Directory and log of a run of equilibrating charges."""
    directory = tmp_path_factory.mktemp("run") / "run"
    return directory, run(data, directory, equilibration=True, conserve="configuration")


def test_errors_fall_and_charges_stay(first, data):
    directory, rows = first
    assert float(rows[-1]["valid_force_mae"]) < 0.9 * float(rows[0]["valid_force_mae"])
    assert float(rows[-1]["valid_charge_spread"]) > 0.05
    model = load_model(directory / MODEL)
    assert isinstance(model.sources, ChargeEquilibration)
    assert model.sources.config()["conserve"] == "configuration"
    start = ChargeEquilibration([1, 8], 1, electrostatics=model.electrostatics)
    assert not torch.allclose(model.sources.hardness_parameter, start.hardness_parameter.double())
    results = evaluate_model(directory / MODEL, [data], split="valid")
    assert results["warnings"] == []
    assert "by equilibration" in (directory / "CARD.md").read_text()


def test_a_started_run_keeps_equilibrating_and_trains_its_head_alone(first, data, tmp_path):
    run(data, tmp_path / "on", init=str(first[0] / MODEL), freeze_backbone=True, dipoles=True, max_steps=20)
    before, after = load_model(first[0] / MODEL), load_model(tmp_path / "on" / MODEL)
    assert isinstance(after.sources, ChargeEquilibration)
    changed = {
        name
        for name, value in after.state_dict().items()
        if not torch.equal(value, before.state_dict()[name])
    }
    assert "sources.hardness_parameter" in changed
    assert "sources.output.weight" in changed
    assert all(name.startswith(("sources.", "reference_energies")) for name in changed)


def test_another_models_charges_become_equilibrating_ones(data, tmp_path):
    run(data, tmp_path / "plain", max_steps=20)
    run(data, tmp_path / "on", init=str(tmp_path / "plain" / MODEL), equilibration=True, max_steps=20)
    model = load_model(tmp_path / "on" / MODEL)
    assert isinstance(model.sources, ChargeEquilibration)
    water = np.array([[0.0, 0.0, 0.0], [0.757, 0.586, 0.0], [-0.757, 0.586, 0.0]])
    charges = model.evaluate(water, np.array([8, 1, 1])).charges
    assert charges[0] < -0.2
    assert charges.sum() == pytest.approx(0.0, abs=1e-10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"equilibration": True, "short_range_only": True}, "has no charges to train.*`equilibration`"),
        ({"equilibration": True, "conserve": "atom"}, "`conserve` must be one of molecule, configuration"),
        ({"conserve": "configuration"}, "`conserve` 'configuration' is for `equilibration`"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(DataError, match=message):
        TrainingSettings(data=("x.h5",), max_steps=1, **settings)
