from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from openmm_les.exceptions import DataError
from openmm_les.models.checkpoint import load_model
from openmm_les.models.multipole_sources import MultipoleSources
from openmm_les.training.evaluation import evaluate_model
from openmm_les.training.trainer import MODEL
from tests.training.test_trainer import logged_run
from tests.training.toy import toy_configurations, write_hdf5

run = partial(logged_run, max_steps=20, validate_every=10, charge_start=0.2)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return str(write_hdf5(tmp_path_factory.mktemp("toy") / "toy.h5", toy_configurations(18)))


@pytest.fixture(scope="module")
def charges_alone(data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("charges") / "run"
    run(data, directory, max_steps=4, validate_every=4)
    return directory / MODEL


def test_everything_trains_from_scratch(data, tmp_path):
    settings = {"latent_dipoles": True, "latent_quadrupoles": True, "polarizability": "tensor"}
    rows = run(data, tmp_path / "run", polarizability_labels=True, polarizability_weight=20.0, **settings)
    assert float(rows[-1]["valid_loss"]) < float(rows[0]["valid_loss"])
    first, last = (float(rows[k]["valid_polarizability_error"]) for k in (0, -1))
    assert last < 0.97 * first
    model = load_model(tmp_path / "run" / MODEL)
    assert isinstance(model.sources, MultipoleSources) and model.responds
    heads = (
        model.sources.dipole_head,
        model.sources.quadrupole_head,
        model.sources.polarizability_head.anisotropy,
    )
    for head in heads:
        assert float(head.gates.weight.detach().abs().max()) > 1e-4  # all silent at the start
    results = evaluate_model(tmp_path / "run" / MODEL, [data], split="valid")
    found = results["all"]["polarizability"]
    assert found["n"] == 3 and 0.0 < found["mae"] < 1.0
    card = (tmp_path / "run" / "CARD.md").read_text()
    assert "latent charges, dipoles, quadrupoles and tensor polarizabilities" in card
    assert "Polarizabilities were trained on labels" in card


def test_a_trained_model_becomes_polarizable(data, charges_alone, tmp_path):
    run(
        data, tmp_path / "on", init=str(charges_alone), freeze_backbone=True, polarizability="isotropic",
        polarizability_labels=True, force_weight=0.0, energy_weight=1e-9, max_steps=4, validate_every=4,
    )  # fmt: skip
    before, after = load_model(charges_alone), load_model(tmp_path / "on" / MODEL)
    assert not before.responds and after.responds
    for one, other in zip(before.backbone.parameters(), after.backbone.parameters(), strict=True):
        assert torch.equal(one, other)
    # And goes on as it is.
    rows = run(
        data, tmp_path / "more", init=str(tmp_path / "on" / MODEL), max_steps=2, validate_every=2,
        polarizability_labels=True,
    )  # fmt: skip
    assert np.isfinite(float(rows[-1]["valid_polarizability_error"]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"polarizability": "scalar"}, "`polarizability` must be isotropic or tensor"),
        ({"latent_dipoles": True, "short_range_only": True}, "go with charges from features"),
        ({"latent_dipoles": True, "equilibration": True}, "go with charges from features"),
        ({"polarizability_labels": True}, "need a model that is polarizable"),
    ],
)
def test_what_does_not_go_together_is_said(data, tmp_path, settings, message):
    with pytest.raises(DataError, match=message):
        run(data, tmp_path / "run", **settings)


def test_multipoles_are_added_once(data, charges_alone, tmp_path):
    run(data, tmp_path / "first", init=str(charges_alone), latent_dipoles=True, max_steps=2, validate_every=2)
    with pytest.raises(DataError, match="charges of a LatentChargeHead, these are of MultipoleSources"):
        run(data, tmp_path / "run", init=str(tmp_path / "first" / MODEL), latent_dipoles=True)
