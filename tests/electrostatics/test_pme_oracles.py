"""The mesh against other people's codes: OpenMM's PME, torch-pme's P3M and Ewald sum."""

from __future__ import annotations

import math

import openmm
import pytest
import torch
from openmm import unit

from openmm_les.electrostatics import ParticleMesh, ewald_sum, pme_sum
from tests.electrostatics.systems import CELLS, scattered_charges

KE = 14.399645


@pytest.mark.parametrize("shape", ["cubic", "reduced"])
@pytest.mark.parametrize("net_charge", [0.0, 2.0])
def test_reciprocal_part_of_openmm(shape, net_charge):
    """Same α, same mesh, same order; OpenMM adds the background that we leave out with k = 0."""
    smearing, mesh = 1.0, 60
    positions, charges, cell = scattered_charges(60, CELLS[shape], net_charge)
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(0.1 * cell).tolist())
    force = openmm.NonbondedForce()
    for charge in charges.tolist():
        system.addParticle(1.0)
        force.addParticle(charge, 1.0, 0.0)
    force.setNonbondedMethod(openmm.NonbondedForce.PME)
    force.setCutoffDistance(0.3)
    alpha = 1.0 / (math.sqrt(2.0) * smearing)
    force.setPMEParameters(10.0 * alpha, mesh, mesh, mesh)
    force.setReciprocalSpaceForceGroup(1)
    system.addForce(force)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions((0.1 * positions).tolist())
    state = context.getState(getEnergy=True, getForces=True, groups=2)
    expected = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    expected_forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom)

    ke = 1389.3545764438198  # OpenMM's constant, kJ/mol·Å/e²
    energy, _, gradient = pme_sum(positions, charges, cell, smearing, ke, [mesh] * 3, 5)
    volume = float(torch.abs(torch.linalg.det(cell)))
    background = math.pi * ke * net_charge**2 / (2.0 * volume * alpha**2)
    # OpenMM's influence function and its self forces make the difference.
    scale = ke * float(charges.square().sum())
    assert float(energy) - background == pytest.approx(expected, abs=2e-6 * scale)
    error = torch.linalg.norm(gradient + torch.tensor(expected_forces, dtype=torch.float64))
    assert float(error / torch.linalg.norm(gradient)) < 1e-4


def reciprocal_part(calculator, positions, charges, cell):
    """Energy (self term included) and gradient of a torch-pme calculator's k-space part."""
    places = positions.clone().requires_grad_()
    potentials = calculator._compute_kspace(charges.unsqueeze(1), cell, places)
    energy = (charges.unsqueeze(1) * potentials).sum()
    (gradient,) = torch.autograd.grad(energy, places)
    return float(energy.detach()), gradient


@pytest.fixture
def gaussian_charges(monkeypatch):
    """torch-pme and its potential of σ = 1 Å without the background, which ours leaves out with k = 0."""
    torchpme = pytest.importorskip("torchpme", reason="torch-pme is an extra (`dev`)")
    potential = torchpme.potentials.CoulombPotential(smearing=1.0, prefactor=KE).double()
    monkeypatch.setattr(potential, "background_correction", lambda: 0.0)
    return torchpme, potential


# Its P3M takes Cartesian components of k where those along the cell's vectors belong (0.5.0), so in
# tilted cells it is 0.3 % off its own Ewald sum: there the latter is the reference.
@pytest.mark.parametrize("shape", ["cubic", "orthorhombic"])
def test_p3m_of_torch_pme(shape, gaussian_charges):
    torchpme, potential = gaussian_charges
    positions, charges, cell = scattered_charges(60, CELLS[shape], 1.5)
    calculator = torchpme.P3MCalculator(potential, mesh_spacing=0.8, interpolation_nodes=5).double()
    expected, slope = reciprocal_part(calculator, positions, charges, cell)
    mesh = [int(size) for size in calculator.mesh_interpolator.ns_mesh]
    energy, _, gradient = pme_sum(positions, charges, cell, 1.0, KE, mesh, 6)
    scale = KE * float(charges.square().sum())
    assert float(energy) == pytest.approx(expected, abs=2e-6 * scale)
    assert float(torch.linalg.norm(gradient - slope) / torch.linalg.norm(gradient)) < 3e-4


@pytest.mark.parametrize("shape", sorted(CELLS))
def test_ewald_sum_of_torch_pme(shape, gaussian_charges):
    torchpme, potential = gaussian_charges
    positions, charges, cell = scattered_charges(60, CELLS[shape], 1.5)
    # It sums waves up to half of 2π over its wavelength: exp(-31) of the sum is left out.
    calculator = torchpme.EwaldCalculator(potential, lr_wavelength=0.4).double()
    expected, slope = reciprocal_part(calculator, positions, charges, cell)
    scale = KE * float(charges.square().sum())
    exact, _, exact_gradient = ewald_sum(positions, charges, cell, 1.0, KE)
    assert float(exact) == pytest.approx(expected, abs=1e-9 * scale)
    assert float(torch.linalg.norm(exact_gradient - slope) / torch.linalg.norm(slope)) < 1e-8
    energy, _, gradient = ParticleMesh(1.0, KE, tolerance=1e-6)(positions, charges, cell)
    assert float(energy) == pytest.approx(expected, abs=1e-7 * scale)
    assert float(torch.linalg.norm(gradient - slope) / torch.linalg.norm(slope)) < 2e-5
