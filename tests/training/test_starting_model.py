"""Reference energies of a model that is trained further."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from openmm_les.training.batches import GraphData
from openmm_les.training.data import element_counts
from openmm_les.training.metrics import predict
from openmm_les.training.starting_model import refit_reference_energies
from tests.builders import small_model
from tests.training.toy import toy_configurations


@pytest.fixture
def model():
    return small_model()


@pytest.fixture
def known(model):
    """Configurations that a model knows to 0.01 eV, but for a third, which are 5 eV higher than it thinks."""
    toy = toy_configurations(90)
    energy = predict(model, GraphData(toy, model.cutoff, dtype=torch.float64)).energy
    energy = energy + np.random.default_rng(0).normal(scale=0.01, size=len(toy))
    energy[::3] += 5.0
    return replace(toy, energy=energy)


def test_what_a_model_does_not_know_moves_no_reference_energies(model, known):
    before = model.reference_energies.clone()
    assert refit_reference_energies(model, GraphData(known, model.cutoff, dtype=torch.float64), seed=0) == 0.0
    assert model.reference_energies.equal(before)


def test_another_method_moves_them_and_what_the_model_does_not_know_does_not(model, known):
    shifts = np.array([-13.0, -2040.0])
    method = element_counts(known, [1, 8]) @ shifts
    data = GraphData(replace(known, energy=known.energy + method), model.cutoff, dtype=torch.float64)
    assert refit_reference_energies(model, data, seed=0) > 10.0
    errors = data.configurations.energy - predict(model, data).energy
    assert np.abs(np.delete(errors, np.s_[::3])).max() < 0.3
    assert np.abs(errors[::3] - 5.0).max() < 0.3
