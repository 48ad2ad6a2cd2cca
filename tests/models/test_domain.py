from __future__ import annotations

import numpy as np
import pytest
import torch

from openmm_les.models.checkpoint import load_model, save_model
from openmm_les.models.domain import NOVEL, FeatureDomain
from tests.builders import ELEMENTS, FORMAMIDE, FORMAMIDE_NUMBERS, make_graph, small_model


def formamides(n: int, noise: float, seed: int = 0):
    """A batch of distorted formamides."""
    rng = np.random.default_rng(seed)
    positions = [FORMAMIDE + rng.normal(scale=noise, size=FORMAMIDE.shape) for _ in range(n)]
    return make_graph(positions, [FORMAMIDE_NUMBERS] * n)


def fitted(model):
    """The domain of slightly distorted formamides."""
    graph = formamides(400, 0.05)
    domain = FeatureDomain(ELEMENTS, model.backbone.n_features).double()
    domain.fit(model.backbone(graph).features.detach(), graph.numbers)
    return domain


@pytest.fixture(scope="module")
def model():
    made = small_model()
    made.requires_grad_(False)
    made.domain = fitted(made)
    return made


def test_known_distances():
    domain = FeatureDomain([1, 8], 2).double()
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20_000, 2, dtype=torch.float64, generator=generator)
    numbers = torch.tensor([1, 8] * 10_000)
    features[numbers == 8] = features[numbers == 8] * torch.tensor([3.0, 0.5]) + torch.tensor([9.0, 0.0])
    domain.fit(features, numbers)
    novelty = domain(torch.tensor([[9.0, 0.0], [12.0, 0.0], [9.0, 0.5]]).double(), torch.tensor([8, 8, 8]))
    # The 0.9999 quantile of the length of a normal pair is √(-2 ln 0.0001) = 4.29.
    torch.testing.assert_close(novelty, torch.tensor([0.0, 1 / 4.29, 1 / 4.29]).double(), atol=0.03, rtol=0.0)
    assert domain(features, numbers).max() < 1.6


def test_an_element_that_is_always_alike_is_novel_elsewhere():
    # Ions beyond the reach of everything else: one environment, no spread.
    domain = FeatureDomain([8, 17], 3)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, 3, generator=generator)
    numbers = torch.tensor([8, 17] * 200)
    features[numbers == 17] = torch.tensor([0.3, -1.0, 2.0])
    domain.fit(features, numbers)
    assert bool(torch.isfinite(domain.whitening).all())
    near = torch.tensor([[0.3, -1.0, 2.0], [0.8, -1.0, 2.0]])
    known, moved = domain(near, torch.tensor([17, 17])).tolist()
    assert known < 0.1
    assert moved > NOVEL


def test_distorted_molecules_are_novel(model):
    usual = model.novelty(formamides(100, 0.05, seed=1))
    assert usual.median() < 0.5
    assert (usual > NOVEL).double().mean() < 0.01
    broken = formamides(20, 0.3, seed=2)
    largest = model.novelty(broken).view(20, -1).max(1).values
    assert (largest > NOVEL).all()


def test_an_unknown_element_is_measured_against_all(model):
    graph = formamides(5, 0.05)
    numbers = torch.where(graph.numbers == 7, 17, graph.numbers)  # no chlorine in the training data
    assert torch.isfinite(model.novelty(graph._replace(numbers=numbers))).all()


def test_files_keep_it_and_scripts_run_it(model, tmp_path):
    save_model(model, tmp_path / "with.safetensors")
    read = load_model(tmp_path / "with.safetensors")
    graph = formamides(3, 0.1)
    torch.testing.assert_close(read.novelty(graph), model.novelty(graph))
    torch.testing.assert_close(torch.jit.script(read).novelty(graph), model.novelty(graph))
    read.domain = None
    save_model(read, tmp_path / "without.safetensors")
    bare = load_model(tmp_path / "without.safetensors")
    assert bare.domain is None
    assert torch.isnan(bare.novelty(graph)).all()
    assert torch.isnan(torch.jit.script(bare).novelty(graph)).all()


def test_impossible_features_are_refused():
    domain = FeatureDomain([1, 8], 2)
    with pytest.raises(ValueError, match=r"must have shape \[n, 2\], got \[30, 3\]"):
        domain.fit(torch.zeros(30, 3), torch.ones(30, dtype=torch.int64))
    with pytest.raises(ValueError, match="3 atoms are too few"):
        domain.fit(torch.zeros(3, 2), torch.ones(3, dtype=torch.int64))
