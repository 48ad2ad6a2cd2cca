from __future__ import annotations

import math

import pytest
import torch

from openmm_les.electrostatics import ewald_sum, image_sum
from openmm_les.electrostatics.images import box_shifts
from openmm_les.electrostatics.isolated import isolated_sum
from tests.builders import TRICLINIC, random_rotation

KE = 14.399645
MADELUNG_CUBIC = -2.8372974794806  # of one point charge in a neutralising background, per 2L


def compact(seed: int = 2, n_atoms: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Points within 3 Å of each other, and charges with a net of about one."""
    generator = torch.Generator().manual_seed(seed)
    positions = 3.0 * torch.rand(n_atoms, 3, dtype=torch.float64, generator=generator)
    return positions, torch.randn(n_atoms, dtype=torch.float64, generator=generator) + 0.2


@pytest.mark.parametrize("length", [8.0, 30.0])
def test_one_charge_has_the_madelung_energy_of_its_images(length):
    cell = length * torch.eye(3, dtype=torch.float64)
    charge = torch.tensor([1.5], dtype=torch.float64)
    energy, gradient = image_sum(torch.zeros(1, 3, dtype=torch.float64), charge, cell, KE, 1e-9)
    assert float(energy) == pytest.approx(1.5**2 * KE * MADELUNG_CUBIC / (2.0 * length), rel=1e-8)
    assert float(gradient.abs().max()) < 1e-10


def test_the_rest_of_a_sum_over_narrow_gaussians():
    positions, charges = compact()
    cell = torch.tensor(TRICLINIC, dtype=torch.float64)
    # So narrow that Gaussians of different molecules act as points, whatever those of one do.
    width = 0.35
    whole, _, gradient = ewald_sum(positions, charges, cell, width, KE, tolerance=1e-11)
    near, _, near_gradient = isolated_sum(positions, charges, width, KE)
    background = math.pi * KE * width**2 * float(charges.sum()) ** 2 / float(torch.linalg.det(cell))
    energy, found = image_sum(positions, charges, cell, KE, 1e-9)
    assert float(energy) == pytest.approx(float(whole - near) - background, rel=1e-7)
    torch.testing.assert_close(found, gradient - near_gradient, atol=1e-7, rtol=0.0)


def test_the_gradient_is_that_of_the_energy():
    positions, charges = compact()
    cell = torch.tensor(TRICLINIC, dtype=torch.float64)
    _, gradient = image_sum(positions, charges, cell, KE)
    step = 1e-4
    for atom, axis in ((0, 0), (2, 1), (4, 2)):
        shift = torch.zeros_like(positions)
        shift[atom, axis] = step
        above, _ = image_sum(positions + shift, charges, cell, KE)
        below, _ = image_sum(positions - shift, charges, cell, KE)
        slope = float(above - below) / (2 * step)
        assert float(gradient[atom, axis]) == pytest.approx(slope, abs=1e-7)


def test_wrapping_and_turning_the_cell_change_nothing():
    positions, charges = compact()
    cell = torch.tensor(TRICLINIC, dtype=torch.float64)
    energy, gradient = image_sum(positions, charges, cell, KE)
    moved = positions.clone()
    moved[1] += cell[0] - 2.0 * cell[2]
    turned = cell @ random_rotation(4).t()
    others = [image_sum(moved, charges, cell, KE), image_sum(positions, charges, cell[[1, 0, 2]], KE)]
    energy_turned, _ = image_sum(positions @ random_rotation(4).t(), charges, turned, KE)
    assert float(energy_turned) == pytest.approx(float(energy), rel=1e-9)
    for other in others:
        assert float(other[0]) == pytest.approx(float(energy), rel=1e-9)
        torch.testing.assert_close(other[1], gradient, atol=1e-9, rtol=0.0)


def test_shifts_are_those_that_openmm_takes():
    cell = torch.tensor([[2.0, 0.0, 0.0], [0.5, 1.8, 0.0], [-0.7, 0.4, 1.9]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    vectors = 8.0 * torch.rand(200, 3, dtype=torch.float64, generator=generator) - 4.0
    rest = vectors.clone()
    for k in (2, 1, 0):
        rest = rest - torch.floor(rest[:, k] / cell[k, k] + 0.5).unsqueeze(1) * cell[k]
    torch.testing.assert_close(vectors - box_shifts(vectors, cell) @ cell, rest)
    nearest = vectors - torch.round(vectors @ torch.linalg.inv(cell)) @ cell
    assert not torch.allclose(nearest, rest)


def test_scripted_equals_eager():
    positions, charges = compact()
    cell = torch.tensor(TRICLINIC, dtype=torch.float64)
    expected = image_sum(positions, charges, cell, KE)
    torch.testing.assert_close(torch.jit.script(image_sum)(positions, charges, cell, KE), expected)
