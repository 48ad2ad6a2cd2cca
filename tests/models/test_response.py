from __future__ import annotations

import numpy as np
import pytest
import torch

from openmm_les.models.response import (
    born_charges,
    dipole,
    total_dipole,
    whole_positions,
)
from tests.builders import FORMAMIDE, FORMAMIDE_NUMBERS, WATER, WATER_NUMBERS, make_graph, small_model

CELL = np.array([[11.0, 0.3, -0.4], [2.5, 10.5, 0.6], [-1.8, 1.1, 10.5]])
NUMBERS = [*FORMAMIDE_NUMBERS, *WATER_NUMBERS]
MOLECULES = [0] * 6 + [1] * 3
TOGETHER = np.concatenate([FORMAMIDE, WATER + np.array([0.3, 0.2, 3.2])])
CHARGES = [1.0, 0.0]
MODEL = small_model()


def graph_of(positions, cell=None):
    return make_graph([positions], [NUMBERS], [cell], [MOLECULES], [CHARGES])


def torn(seed=3):
    """The molecules with every atom in some other image."""
    return TOGETHER + np.random.default_rng(seed).integers(-2, 3, TOGETHER.shape) @ CELL


def test_dipole_of_known_charges():
    graph = make_graph([WATER, WATER], [WATER_NUMBERS] * 2)
    charges = torch.tensor([-0.8, 0.4, 0.4] * 2, dtype=torch.float64)
    moment = total_dipole(charges, torch.zeros(6, 3, dtype=torch.float64), graph)
    expected = torch.tensor([[0.0, 0.4 * 2 * 0.586, 0.0]] * 2, dtype=torch.float64)
    torch.testing.assert_close(moment, expected)


@pytest.mark.parametrize("cell", [None, CELL], ids=["isolated", "periodic"])
def test_born_charges_are_slopes_of_the_dipole(cell):
    positions = TOGETHER if cell is None else torn()
    found = born_charges(MODEL, graph_of(positions, cell))
    assert not found.requires_grad
    step = 1e-4
    for atom in (0, 2, 7):
        for axis in range(3):
            moved = [np.array(positions), np.array(positions)]
            moved[0][atom, axis] -= step
            moved[1][atom, axis] += step
            low, high = (dipole(MODEL, graph_of(p, cell))[0] for p in moved)
            slope = ((high - low) / (2 * step)).detach()
            torch.testing.assert_close(found[atom, :, axis], slope, atol=1e-7, rtol=1e-7)


def test_born_charges_add_up_to_the_total_charge():
    model = small_model(charge_scale=-1.3)
    total = born_charges(model, graph_of(TOGETHER)).sum(0)
    torch.testing.assert_close(total, torch.eye(3, dtype=total.dtype))


def test_a_wide_cell_changes_nothing_however_it_is_torn():
    isolated, periodic = graph_of(TOGETHER), graph_of(torn(), CELL)
    torch.testing.assert_close(born_charges(MODEL, periodic), born_charges(MODEL, isolated))
    whole = whole_positions(periodic)
    for molecule in (slice(0, 6), slice(6, 9)):
        arms = torch.from_numpy(TOGETHER[molecule] - TOGETHER[molecule][0])
        torch.testing.assert_close(whole[molecule] - whole[molecule][0], arms)


def test_batches_equal_their_parts():
    parts = [make_graph([TOGETHER], [NUMBERS], None, [MOLECULES], [CHARGES]), graph_of(torn(), CELL)]
    batch = make_graph([TOGETHER, torn()], [NUMBERS] * 2, [None, CELL], [MOLECULES] * 2, [CHARGES] * 2)
    torch.testing.assert_close(born_charges(MODEL, batch), torch.cat([born_charges(MODEL, p) for p in parts]))
    torch.testing.assert_close(dipole(MODEL, batch), torch.cat([dipole(MODEL, p) for p in parts]))


def test_charges_are_the_model_s_own():
    graph = graph_of(torn(), CELL)
    charges, dipoles = MODEL.moments(graph)
    torch.testing.assert_close(charges, MODEL.physical_charges(MODEL(graph).latent_charges, graph))
    assert not dipoles.any()


def test_born_charges_teach():
    model = small_model()
    born_charges(model, graph_of(TOGETHER), differentiable=True).square().sum().backward()
    assert model.charge_head.hidden.weight.grad.abs().sum() > 0.0
