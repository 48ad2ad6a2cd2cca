from __future__ import annotations

import pytest
import torch

from openmm_les.electrostatics import ewald_sum, pme_sum
from openmm_les.electrostatics.tuning import (
    good_size,
    mesh_force_error,
    mesh_sizes,
    relative_force_error,
    tune_mesh,
    widest_spacing,
)
from tests.electrostatics.systems import CELLS, KE, scattered_charges, water_box


def test_good_sizes():
    for least in range(1, 200):
        size = good_size(least)
        rest = size
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        assert rest == 1 and size >= least
        assert all(good_size(other) == size for other in range(least, size))
    # Powers of two alone would give 128.
    assert good_size(67) == 70


def test_mesh_follows_the_vectors():
    cell = torch.tensor([[10.0, 0.0, 0.0], [0.0, 0.0, 3.0], [0.0, 4.0, 3.0]], dtype=torch.float64)
    assert mesh_sizes(cell, 0.5, 6) == [20, 6, 10]
    assert mesh_sizes(cell, 0.5, 8) == [20, 8, 10]
    assert mesh_sizes(cell * 1.001, 0.5, 6) == [21, 7, 12]


@pytest.mark.parametrize("order", [4, 5, 6, 7, 8])
@pytest.mark.parametrize("ratio", [0.6, 0.35])
@pytest.mark.parametrize("cell", ["cubic", "triclinic"])
def test_estimate_of_the_error_between_scattered_charges(cell, ratio, order):
    positions, charges, box = scattered_charges(300, CELLS[cell])
    smearing = 1.2
    mesh = mesh_sizes(box, ratio * smearing, order)
    _, _, exact = ewald_sum(positions, charges, box, smearing, KE, tolerance=1e-12)
    _, _, gradient = pme_sum(positions, charges, box, smearing, KE, mesh, order)
    error = float((gradient - exact).square().sum(1).mean().sqrt())
    steps = box / torch.tensor(mesh, dtype=torch.float64).view(3, 1)
    density = 300 / float(torch.abs(torch.linalg.det(box)))
    estimate = mesh_force_error(float(charges.square().mean()), density, steps, order, smearing, KE)
    assert 0.7 * error < estimate < 1.4 * error


@pytest.mark.parametrize("smearing", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-4, 1e-6])
def test_tolerance_is_kept_in_a_liquid(smearing, tolerance):
    positions, charges, cell = water_box(64)
    order, spacing = tune_mesh(tolerance, smearing)
    energy, _, gradient = pme_sum(
        positions, charges, cell, smearing, KE, mesh_sizes(cell, spacing, order), order
    )
    exact, _, exact_gradient = ewald_sum(positions, charges, cell, smearing, KE, tolerance=1e-12)
    error = float(torch.linalg.norm(gradient - exact_gradient) / torch.linalg.norm(exact_gradient))
    # The liquid of the estimate is a model; real ones are met within a factor of three.
    assert tolerance / 8.0 < error < 3.0 * tolerance
    assert abs(float(energy / exact) - 1.0) < 0.01 * tolerance + 1e-9


def test_tighter_is_finer():
    for width in (0.5, 1.0, 2.0):
        spacings = [widest_spacing(6, tolerance, width) for tolerance in (1e-3, 1e-4, 1e-5, 1e-6)]
        assert spacings == sorted(spacings, reverse=True)
        for tolerance, spacing in zip((1e-3, 1e-4, 1e-5, 1e-6), spacings, strict=True):
            assert 0.8 * tolerance < relative_force_error(6, spacing, width) <= tolerance


def test_tuning_prefers_what_costs_less():
    order, spacing = tune_mesh(1e-4, 1.0)
    cost = order**3 + 1.0 / (0.1 * spacing**3)
    for other in (4, 5, 6, 7, 8):
        assert cost <= other**3 + 1.0 / (0.1 * widest_spacing(other, 1e-4, 1.0) ** 3)
