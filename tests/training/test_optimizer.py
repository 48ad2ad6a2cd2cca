from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from openmm_les.training.optimizer import MuonAdamW, learning_rate_factor, orthogonalize, split_parameters


def _network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(32, 32), nn.Linear(32, 48), nn.Tanh(), nn.Linear(48, 1))


def _step(network, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    optimizer.zero_grad()
    loss = (network(torch.randint(0, 32, (64,), generator=generator)) - 1.0).square().mean()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("shape", [(3, 20, 50), (2, 50, 20), (1, 32, 32)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrices))
    # The quintic iteration of Muon ends between 0.7 and 1.2 by design.
    assert values.min() > 0.6 and values.max() < 1.3
    # Directions stay: the result is U f(S) V^T with f > 0.
    assert (torch.einsum("mij,mij->m", matrices, orthogonalize(matrices)) > 0).all()


def test_matrices_go_to_muon_and_tables_and_biases_do_not():
    network = _network()
    matrices, others = split_parameters(network)
    assert [p is network[1].weight for p in matrices] == [True]
    assert {id(p) for p in others} == {
        id(p) for p in (network[0].weight, network[1].bias, network[3].weight, network[3].bias)
    }


def test_rest_follows_torch_adamw():
    ours, theirs = _network(), _network()
    mine = MuonAdamW([], ours.parameters(), learning_rate=1e-2)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(5):
        _step(ours, mine, step)
        _step(theirs, reference, step)
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_matrices_follow_torch_muon():
    ours, theirs = _network(), _network()
    settings = {"weight_decay": 0.1, "momentum": 0.95}
    mine = MuonAdamW([ours[1].weight], [], learning_rate=1e-3, **settings)
    reference = torch.optim.Muon([theirs[1].weight], lr=1e-3, adjust_lr_fn="match_rms_adamw", **settings)
    for step in range(3):
        _step(ours, mine, step)
        _step(theirs, reference, step)
    start = _network()[1].weight
    moved, expected = ours[1].weight - start, theirs[1].weight - start
    # torch iterates in bfloat16, hence the few per cent.
    assert float(((moved - expected).norm() / expected.norm()).detach()) < 0.05


def test_state_survives_saving():
    first, second = _network(), _network()
    a = MuonAdamW(*split_parameters(first), learning_rate=1e-2)
    for step in range(3):
        _step(first, a, step)
    second.load_state_dict(first.state_dict())
    b = MuonAdamW(*split_parameters(second), learning_rate=1e-2)
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    for step in range(3, 6):
        assert _step(first, a, step) == _step(second, b, step)


def test_learning_rate_rises_then_falls():
    factors = [learning_rate_factor(step, step / 1000, warm_up=100) for step in range(1001)]
    assert factors[0] == pytest.approx(0.01, rel=1e-3)
    assert np.argmax(factors) == 99
    assert (np.diff(factors[100:]) < 0).all()
    assert factors[-1] == pytest.approx(0.01)
