from __future__ import annotations

import pytest
import torch

from openmm_les.electrostatics import (
    LatentMultipoles,
    MultipoleMesh,
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


def quadrupoles_of(n_atoms: int, size: float = 0.1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(13)
    halves = size * torch.randn(n_atoms, 3, 3, dtype=torch.float64, generator=generator)
    return halves + halves.transpose(1, 2)


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
    found = summed(MultipoleMesh(1.0, KE, tolerance=tolerance), positions, charges, dipoles, None, cell)
    for name in ("gradient", "field", "potential"):
        assert relative(getattr(found, name), getattr(exact, name)) < bound
    size = KE * float(charges.square().sum() + dipoles.square().sum())
    assert abs(float(found.energy - exact.energy)) < energies * size


@pytest.mark.parametrize("shape", CELLS)
@pytest.mark.parametrize(("tolerance", "bound"), [(1e-3, 8e-3), (1e-4, 8e-4), (1e-5, 5e-4)])
@pytest.mark.parametrize("scale", [0.0, 1.0], ids=["quadrupoles", "all moments"])
def test_mesh_of_quadrupoles_agrees_with_the_exact_sum(shape, tolerance, bound, scale):
    """Traces included, which Gaussians see; the bounds are those of the most skewed cell."""
    positions, charges, cell = scattered_charges(100, CELLS[shape], 2.0)
    charges, dipoles, quadrupoles = scale * charges, scale * dipoles_of(100), quadrupoles_of(100)
    exact = ewald_multipole_sum(positions, charges, dipoles, quadrupoles, cell, 1.0, KE, tolerance=1e-10)
    solver = MultipoleMesh(1.0, KE, tolerance=tolerance, quadrupoles=True)
    found = summed(solver, positions, charges, dipoles, quadrupoles, cell)
    for name in ("gradient", "field", "potential", "curvature"):
        assert relative(getattr(found, name), getattr(exact, name)) < bound
    size = KE * float(charges.square().sum() + dipoles.square().sum() + quadrupoles.square().sum())
    assert abs(float(found.energy - exact.energy)) < 0.01 * bound * size


@pytest.mark.parametrize("smearing", [0.5, 2.0])
def test_other_widths(smearing):
    positions, charges, cell = water_box(27)
    dipoles = dipoles_of(81)
    exact = ewald_multipole_sum(positions, charges, dipoles, None, cell, smearing, KE, tolerance=1e-10)
    found = summed(MultipoleMesh(smearing, KE), positions, charges, dipoles, None, cell)
    assert relative(found.gradient, exact.gradient) < 5e-4
    assert relative(found.field, exact.field) < 5e-4


@pytest.mark.parametrize("shape", ["cubic", "skewed"])
def test_without_dipoles_it_is_the_charges_mesh(shape):
    positions, charges, cell = scattered_charges(60, CELLS[shape], 1.0)
    found = summed(
        MultipoleMesh(1.0, KE, tolerance=1e-6), positions, charges, torch.zeros(60, 3).double(), None, cell
    )
    expected = summed(ParticleMesh(1.0, KE, tolerance=1e-6), positions, charges, cell)
    assert abs(float(found.energy - expected[0])) < 1e-8 * KE * float(charges.square().sum())
    assert relative(found.potential, expected[1]) < 1e-5
    assert relative(found.gradient, expected[2]) < 1e-5


@pytest.mark.parametrize("shape", ["cubic", "skewed"])
@pytest.mark.parametrize("rank", [1, 2])
def test_written_derivatives_are_those_of_the_energy(shape, rank):
    """Coarse on purpose: what the mesh gets wrong must have the same derivatives."""
    positions, charges, cell = scattered_charges(40, CELLS[shape], 0.5)
    quadrupoles = quadrupoles_of(40) if rank == 2 else None
    solver = MultipoleMesh(1.0, KE, tolerance=1.0 if rank == 2 else 1e-1, quadrupoles=rank == 2)
    written = summed(solver, positions, charges, dipoles_of(40), quadrupoles, cell)
    inputs = [value.requires_grad_() for value in (positions, charges, dipoles_of(40))]
    if quadrupoles is not None:
        inputs.append(quadrupoles.requires_grad_())
    recorded = solver(*inputs[:3], quadrupoles, cell)
    gradient, potential, minus_field, *rest = torch.autograd.grad(recorded.energy, inputs)
    for found in (written, recorded):
        if rank == 2:
            torch.testing.assert_close(found.curvature, 2.0 * rest[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.energy, recorded.energy, rtol=1e-11, atol=1e-10)
        torch.testing.assert_close(found.gradient, gradient, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.potential, potential, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.field, -minus_field, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rank", [1, 2])
def test_gradchecks(rank):
    positions, charges, cell = scattered_charges(4, CELLS["triclinic"], 0.3)
    solver = MultipoleMesh(1.0, KE, tolerance=1.0 if rank == 2 else 1e-1, quadrupoles=rank == 2)
    inputs = [value.requires_grad_() for value in (positions, charges, dipoles_of(4), cell)]
    if rank == 2:
        inputs.append(quadrupoles_of(4).requires_grad_())

    def energy(positions, charges, dipoles, cell, quadrupoles=None):
        return solver(positions, charges, dipoles, quadrupoles, cell).energy

    assert torch.autograd.gradcheck(energy, inputs)
    assert torch.autograd.gradgradcheck(energy, inputs, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 2])
def test_scripted_and_frozen_are_eager(rank):
    positions, charges, cell = scattered_charges(40, CELLS["skewed"], 0.5)
    quadrupoles = quadrupoles_of(40) if rank == 2 else None
    solver = MultipoleMesh(1.0, KE, quadrupoles=rank == 2)
    arguments = (positions, charges, dipoles_of(40), quadrupoles, cell)
    expected = summed(solver, *arguments)
    frozen = torch.jit.freeze(torch.jit.script(MultipoleMesh(1.0, KE, quadrupoles=rank == 2).eval()))
    for _ in range(3):
        for found, value in zip(summed(frozen, *arguments), expected, strict=True):
            torch.testing.assert_close(found, value)
    single = summed(solver, *(value if value is None else value.float() for value in arguments))
    assert relative(single.gradient.double(), expected.gradient) < (1e-4 if rank == 1 else 5e-4)


# --- the door ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("method", ["auto", "ewald", "pme"])
def test_methods_agree(method, rank):
    positions, charges, cell = water_box(27)
    dipoles, quadrupoles = dipoles_of(81), quadrupoles_of(81) if rank == 2 else None
    exact = ewald_multipole_sum(positions, charges, dipoles, quadrupoles, cell, 1.0, KE)
    found = latent_ewald(positions, charges, cell, method=method, dipoles=dipoles, quadrupoles=quadrupoles)
    assert relative(found.gradient, exact.gradient) < 1e-4
    assert relative(found.field, exact.field) < 1e-4


def test_quadrupoles_alone():
    positions, charges, _ = water_box(27)
    dipoles, quadrupoles = dipoles_of(81), quadrupoles_of(81)
    alone = latent_ewald(positions, charges, dipoles=dipoles, quadrupoles=quadrupoles)
    expected = isolated_multipole_sum(positions, charges, dipoles, quadrupoles, 1.0, KE)
    torch.testing.assert_close(alone.energy, expected.energy)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("periodic", [False, True])
def test_self_interaction_and_scripted_form(periodic, rank):
    positions, charges, cell = water_box(27)
    quadrupoles = quadrupoles_of(81) if rank == 2 else None
    arguments = (positions, charges, dipoles_of(81), quadrupoles, cell if periodic else None)
    solver = LatentMultipoles(self_interaction=True)
    found = solver(*arguments)
    less = LatentMultipoles()(*arguments)
    own = multipole_self_sum(charges, dipoles_of(81), quadrupoles, 2.0**0.5, KE)
    torch.testing.assert_close(found.energy - less.energy, own.energy)
    torch.testing.assert_close(found.field - less.field, own.field)
    if rank == 2:
        torch.testing.assert_close(found.curvature - less.curvature, own.curvature)
    scripted = torch.jit.script(solver)(*arguments)
    torch.testing.assert_close(scripted.energy, found.energy)
