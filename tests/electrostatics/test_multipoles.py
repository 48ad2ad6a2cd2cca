from __future__ import annotations

import math

import pytest
import torch

from openmm_les.electrostatics import (
    ewald_multipole_sum,
    ewald_sum,
    isolated_multipole_sum,
    isolated_sum,
)
from openmm_les.electrostatics.multipole_pairs import smeared_derivatives
from tests.electrostatics.systems import CELLS, KE, scattered_charges

SUMS = pytest.mark.parametrize("periodic", [False, True], ids=["isolated", "periodic"])
# Smearing that leaves the reciprocal sum alone, and one that adds pairs, in the cells below.
SMEARINGS = pytest.mark.parametrize("smearing", [1.6, 0.5], ids=["whole", "split"])


def scattered_multipoles(n_atoms: int = 8, shape: str = "triclinic", net_charge: float = 0.7):
    """Positions, charges, dipoles, quadrupoles and a cell."""
    positions, charges, cell = scattered_charges(n_atoms, CELLS[shape], net_charge)
    generator = torch.Generator().manual_seed(11)
    dipoles = 0.3 * torch.randn(n_atoms, 3, dtype=torch.float64, generator=generator)
    quadrupoles = 0.3 * torch.randn(n_atoms, 3, 3, dtype=torch.float64, generator=generator)
    return positions, charges, dipoles, quadrupoles + quadrupoles.transpose(1, 2), cell


def summed(periodic, smearing, positions, charges, dipoles, quadrupoles, cell, **arguments):
    if periodic:
        return ewald_multipole_sum(
            positions, charges, dipoles, quadrupoles, cell, smearing, KE, **{"tolerance": 1e-12, **arguments}
        )
    return isolated_multipole_sum(positions, charges, dipoles, quadrupoles, smearing, KE)


def as_charges(positions, charges, dipoles, quadrupoles, step):
    """Clouds of point charges with these moments, up to step²: 19 per atom."""
    axes = torch.eye(3, dtype=torch.float64)
    places, values = [], []
    for r, q, u, quadrupole in zip(positions, charges, dipoles, quadrupoles, strict=True):
        left = q
        for a in range(3):
            second = quadrupole[a, a] / (2.0 * step * step)
            for sign in (1.0, -1.0):
                places.append(r + sign * step * axes[a])
                values.append(second + sign * u[a] / (2.0 * step))
            left = left - 2.0 * second
        for a, b in ((0, 1), (0, 2), (1, 2)):
            for first in (1.0, -1.0):
                for other in (1.0, -1.0):
                    places.append(r + step * (first * axes[a] + other * axes[b]))
                    values.append(first * other * quadrupole[a, b] / (4.0 * step * step))
        places.append(r)
        values.append(left)
    return torch.stack(places), torch.stack(values)


@pytest.mark.parametrize("distance", [0.0, 1e-3, 0.2, 1.0, 1.9, 2.1, 7.0])
def test_derivatives_of_the_kernel(distance):
    """Against differentiation, and against the series at zero."""
    width = 0.97
    found = smeared_derivatives(torch.tensor([distance], dtype=torch.float64), width, 5)
    if distance == 0.0:
        for n, value in enumerate(found):
            expected = 2.0 / (math.sqrt(math.pi) * width) * (2.0 / width**2) ** n / (2 * n + 1)
            assert float(value) == pytest.approx(expected, rel=1e-14)
        return
    assert float(found[0]) == pytest.approx(math.erf(distance / width) / distance, rel=1e-14)
    for n in range(5):
        r = torch.tensor([distance], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(smeared_derivatives(r, width, 5)[n], r)
        assert float(found[n + 1]) == pytest.approx(-float(slope) / distance, rel=1e-9)


def test_derivatives_are_accurate_in_single_precision():
    distances = torch.logspace(-3, 1, 200, dtype=torch.float64)
    exact = smeared_derivatives(distances, 1.4, 5)
    single = smeared_derivatives(distances.float(), 1.4, 5)
    for one, other in zip(single, exact, strict=True):
        assert float((one.double() / other - 1.0).abs().max()) < 2e-5


@SUMS
@SMEARINGS
def test_charges_alone(periodic, smearing):
    positions, charges, dipoles, _, cell = scattered_multipoles()
    found = summed(periodic, smearing, positions, charges, 0.0 * dipoles, None, cell)
    if periodic:
        expected = ewald_sum(positions, charges, cell, smearing, KE, tolerance=1e-12)
    else:
        expected = isolated_sum(positions, charges, smearing, KE)
    for one, other in zip(found[:3], expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@SUMS
@SMEARINGS
def test_multipoles_are_limits_of_point_charges(periodic, smearing):
    """Clouds of charges, interactions within each cloud taken off; errors fall as the square of the step."""
    positions, charges, dipoles, quadrupoles, cell = scattered_multipoles(4)
    found = summed(periodic, smearing, positions, charges, dipoles, quadrupoles, cell)
    energies = []
    for step in (0.02, 0.04):
        places, values = as_charges(positions, charges, dipoles, quadrupoles, step)
        if periodic:
            total = ewald_sum(places, values, cell, smearing, KE, tolerance=1e-13)[0]
        else:
            total = isolated_sum(places, values, smearing, KE)[0]
        for cloud in range(4):
            part = slice(19 * cloud, 19 * cloud + 19)
            total = total - isolated_sum(places[part], values[part], smearing, KE)[0]
        energies.append(float(total))
    extrapolated = (4.0 * energies[0] - energies[1]) / 3.0
    assert float(found.energy) == pytest.approx(extrapolated, abs=2e-6 * KE)


@SUMS
@SMEARINGS
def test_outputs_are_the_derivatives_of_the_energy(periodic, smearing):
    positions, charges, dipoles, quadrupoles, cell = scattered_multipoles()
    arguments = [value.requires_grad_() for value in (positions, charges, dipoles, quadrupoles)]
    found = summed(periodic, smearing, *arguments, cell)
    gradient, potential, minus_field, half = torch.autograd.grad(found.energy, arguments)
    symmetric = half + half.transpose(1, 2)
    torch.testing.assert_close(found.curvature, symmetric, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.gradient, gradient, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.potential, potential, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.field, -minus_field, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("net_charge", [0.0, 2.0])
def test_energy_does_not_depend_on_alpha(net_charge):
    arguments = scattered_multipoles(20, "skewed", net_charge)
    arguments = (arguments[0], *arguments[1:4], arguments[4])
    whole = summed(True, 0.5, *arguments, alpha=0.0)
    split = summed(True, 0.5, *arguments)
    for one, other in zip(whole, split, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@SUMS
def test_laws(periodic):
    """Turning, permuting and moving whole; atoms by cell vectors."""
    positions, charges, dipoles, quadrupoles, cell = scattered_multipoles()
    energy = summed(periodic, 0.5, positions, charges, dipoles, quadrupoles, cell).energy
    turn, _ = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    )
    order = torch.randperm(len(charges), generator=torch.Generator().manual_seed(3))
    moved = (positions @ turn.t() + 0.3)[order]
    if periodic:
        moved = moved + torch.arange(len(charges)).view(-1, 1) * (cell @ turn.t())[1]
    turned = summed(
        periodic,
        0.5,
        moved,
        charges[order],
        (dipoles @ turn.t())[order],
        (turn @ quadrupoles @ turn.t())[order],
        cell @ turn.t(),
    ).energy
    assert float(turned) == pytest.approx(float(energy), rel=1e-10)


@SUMS
@SMEARINGS
def test_gradchecks(periodic, smearing):
    positions, charges, dipoles, quadrupoles, cell = scattered_multipoles(3)
    inputs = [value.requires_grad_() for value in (positions, charges, dipoles, quadrupoles, cell)]

    def energy(*values):
        return summed(periodic, smearing, *values, tolerance=1e-6).energy

    assert torch.autograd.gradcheck(energy, inputs)
    assert torch.autograd.gradgradcheck(energy, inputs, atol=1e-4)


@SUMS
def test_scripted_is_eager(periodic):
    positions, charges, dipoles, quadrupoles, cell = scattered_multipoles()
    if periodic:
        scripted = torch.jit.script(ewald_multipole_sum)
        found = scripted(positions, charges, dipoles, quadrupoles, cell, 0.5, KE, None, 1e-12)
    else:
        scripted = torch.jit.script(isolated_multipole_sum)
        found = scripted(positions, charges, dipoles, quadrupoles, 0.5, KE)
    expected = summed(periodic, 0.5, positions, charges, dipoles, quadrupoles, cell)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
