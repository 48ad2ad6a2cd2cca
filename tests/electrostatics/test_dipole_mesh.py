from __future__ import annotations

import pytest
import torch

from openmm_les.electrostatics import (
    DipoleMesh,
    LatentMultipoles,
    ParticleMesh,
    ewald_multipole_sum,
    isolated_multipole_sum,
    latent_ewald,
)
from openmm_les.electrostatics.multipoles import multipole_self_sum
from tests.electrostatics.systems import CELLS, KE, scattered_charges, water_box


def dipoles_of(n_atoms: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    return 0.3 * torch.randn(n_atoms, 3, dtype=torch.float64, generator=generator)


def relative(found, expected) -> float:
    return float(torch.linalg.norm(found - expected) / torch.linalg.norm(expected))


def summed(solver, *arguments):
    with torch.no_grad():
        return solver(*arguments)


@pytest.mark.parametrize("shape", CELLS)
@pytest.mark.parametrize(("tolerance", "bound", "energies"), [(1e-4, 5e-4, 1e-6), (1e-6, 2e-5, 1e-8)])
@pytest.mark.parametrize("scale", [0.0, 1.0], ids=["dipoles", "charges and dipoles"])
def test_mesh_agrees_with_the_exact_sum(shape, tolerance, bound, energies, scale):
    positions, charges, cell = scattered_charges(192, CELLS[shape], 2.0)
    charges, dipoles = scale * charges, dipoles_of(192)
    exact = ewald_multipole_sum(positions, charges, dipoles, None, cell, 1.0, KE, tolerance=1e-10)
    found = summed(DipoleMesh(1.0, KE, tolerance=tolerance), positions, charges, dipoles, cell)
    for name in ("gradient", "field", "potential"):
        assert relative(getattr(found, name), getattr(exact, name)) < bound
    size = KE * float(charges.square().sum() + dipoles.square().sum())
    assert abs(float(found.energy - exact.energy)) < energies * size


@pytest.mark.parametrize("smearing", [0.5, 2.0])
def test_other_widths(smearing):
    positions, charges, cell = water_box(27)
    dipoles = dipoles_of(81)
    exact = ewald_multipole_sum(positions, charges, dipoles, None, cell, smearing, KE, tolerance=1e-10)
    found = summed(DipoleMesh(smearing, KE), positions, charges, dipoles, cell)
    assert relative(found.gradient, exact.gradient) < 5e-4
    assert relative(found.field, exact.field) < 5e-4


@pytest.mark.parametrize("shape", ["cubic", "skewed"])
def test_without_dipoles_it_is_the_charges_mesh(shape):
    positions, charges, cell = scattered_charges(60, CELLS[shape], 1.0)
    found = summed(DipoleMesh(1.0, KE, tolerance=1e-6), positions, charges, torch.zeros(60, 3).double(), cell)
    expected = summed(ParticleMesh(1.0, KE, tolerance=1e-6), positions, charges, cell)
    assert abs(float(found.energy - expected[0])) < 1e-8 * KE * float(charges.square().sum())
    assert relative(found.potential, expected[1]) < 1e-5
    assert relative(found.gradient, expected[2]) < 1e-5


@pytest.mark.parametrize("shape", ["cubic", "skewed"])
def test_written_derivatives_are_those_of_the_energy(shape):
    """Coarse on purpose: what the mesh gets wrong must have the same derivatives."""
    positions, charges, cell = scattered_charges(40, CELLS[shape], 0.5)
    dipoles = dipoles_of(40)
    solver = DipoleMesh(1.0, KE, tolerance=1e-1)
    written = summed(solver, positions, charges, dipoles, cell)
    inputs = [value.requires_grad_() for value in (positions, charges, dipoles)]
    recorded = solver(*inputs, cell)
    gradient, potential, minus_field = torch.autograd.grad(recorded.energy, inputs)
    for found in (written, recorded):
        torch.testing.assert_close(found.energy, recorded.energy, rtol=1e-11, atol=1e-10)
        torch.testing.assert_close(found.gradient, gradient, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.potential, potential, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.field, -minus_field, rtol=1e-9, atol=1e-9)


def test_gradchecks():
    positions, charges, cell = scattered_charges(4, CELLS["triclinic"], 0.3)
    solver = DipoleMesh(1.0, KE, tolerance=1e-1)
    inputs = [value.requires_grad_() for value in (positions, charges, dipoles_of(4), cell)]
    assert torch.autograd.gradcheck(lambda *values: solver(*values).energy, inputs)
    assert torch.autograd.gradgradcheck(lambda *values: solver(*values).energy, inputs, atol=1e-4)


def test_scripted_and_frozen_are_eager():
    positions, charges, cell = scattered_charges(40, CELLS["skewed"], 0.5)
    arguments = (positions, charges, dipoles_of(40), cell)
    expected = summed(DipoleMesh(1.0, KE), *arguments)
    frozen = torch.jit.freeze(torch.jit.script(DipoleMesh(1.0, KE).eval()))
    for _ in range(3):
        for found, value in zip(summed(frozen, *arguments), expected, strict=True):
            torch.testing.assert_close(found, value)
    single = summed(DipoleMesh(1.0, KE), *(value.float() for value in arguments))
    assert relative(single.gradient.double(), expected.gradient) < 1e-4


# --- the door ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["auto", "ewald", "pme"])
def test_methods_agree(method):
    positions, charges, cell = water_box(27)
    dipoles = dipoles_of(81)
    exact = ewald_multipole_sum(positions, charges, dipoles, None, cell, 1.0, KE)
    found = latent_ewald(positions, charges, cell, method=method, dipoles=dipoles)
    assert relative(found.gradient, exact.gradient) < 1e-4
    assert relative(found.field, exact.field) < 1e-4


def test_auto_takes_the_exact_sum_for_quadrupoles():
    positions, charges, cell = water_box(27)
    quadrupoles = torch.diag(torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)).expand(81, 3, 3)
    dipoles = dipoles_of(81)
    found = latent_ewald(positions, charges, cell, dipoles=dipoles, quadrupoles=quadrupoles)
    exact = ewald_multipole_sum(positions, charges, dipoles, quadrupoles, cell, 1.0, KE)
    torch.testing.assert_close(found.gradient, exact.gradient, rtol=1e-6, atol=1e-6)
    alone = latent_ewald(positions, charges, dipoles=dipoles, quadrupoles=quadrupoles)
    expected = isolated_multipole_sum(positions, charges, dipoles, quadrupoles, 1.0, KE)
    torch.testing.assert_close(alone.energy, expected.energy)


@pytest.mark.parametrize("periodic", [False, True])
def test_self_interaction_and_scripted_form(periodic):
    positions, charges, cell = water_box(27)
    box = cell if periodic else None
    solver = LatentMultipoles(self_interaction=True)
    found = solver(positions, charges, dipoles_of(81), None, box)
    less = LatentMultipoles()(positions, charges, dipoles_of(81), None, box)
    own = multipole_self_sum(charges, dipoles_of(81), None, 2.0**0.5, KE)
    torch.testing.assert_close(found.energy - less.energy, own.energy)
    torch.testing.assert_close(found.field - less.field, own.field)
    scripted = torch.jit.script(solver)(positions, charges, dipoles_of(81), None, box)
    torch.testing.assert_close(scripted.energy, found.energy)
