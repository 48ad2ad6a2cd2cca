"""Normal modes and intensities: Hessian against finite differences, a diatomic by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from openmm_les.analysis.charges import ChargeModel
from openmm_les.analysis.harmonic import (
    KM_PER_MOL,
    energy_derivatives,
    harmonic_spectrum,
    relax,
    vibrational_space,
)
from openmm_les.electrostatics import LatentCoulomb
from openmm_les.exceptions import OpenMMLESError
from openmm_les.graph import Graph, pair_vectors
from openmm_les.models.backbone import BackboneOutput
from openmm_les.models.model import LESModel
from openmm_les.units import DALTON, SPEED_OF_LIGHT
from tests.analysis.systems import bound_model, places_of


class Spring(nn.Module):
    """Backbone of a diatomic: E = k/2 (r - r0)²; the feature is r - r0."""

    cutoff = 6.0
    n_features = 1

    def __init__(self, stiffness: float, length: float) -> None:
        super().__init__()
        self.stiffness, self.length = stiffness, length
        self.anchor = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, graph: Graph) -> BackboneOutput:
        stretch = pair_vectors(graph).norm(dim=1) - self.length
        energies = torch.zeros(len(graph.positions), dtype=graph.positions.dtype)
        # Both directions of the pair add a half each.
        energies = energies.index_add(0, graph.centers, 0.25 * self.stiffness * stretch**2)
        features = torch.zeros_like(energies).index_add(0, graph.centers, stretch)
        return BackboneOutput(energies, features.unsqueeze(1))


class StretchCharges(nn.Module):
    """q = ±(q0 + s (r - r0)), oxygen negative."""

    def __init__(self, charge: float, slope: float) -> None:
        super().__init__()
        self.charge, self.slope = charge, slope

    def forward(self, features: Tensor, numbers: Tensor, molecules: Tensor, charges: Tensor) -> Tensor:
        signs = torch.where(numbers == 8, -1.0, 1.0).to(features.dtype)
        return signs * (self.charge + self.slope * features[:, 0])


def test_a_diatomic_by_hand():
    stiffness, length, charge, slope = 115.0, 1.128, 0.1, 0.4
    no_coulomb = LatentCoulomb(coulomb_constant=1e-12)
    les_model = LESModel(
        Spring(stiffness, length), StretchCharges(charge, slope), no_coulomb, [6, 8]
    ).double()
    model = ChargeModel(les_model, [6, 8], np.array([[0, 1]]), precision="double")
    start = np.array([[0.3, 0.1, 0.0], [0.9, 0.8, 0.7]])
    minimum = relax(model, start)
    assert np.linalg.norm(minimum[1] - minimum[0]) == pytest.approx(length, abs=1e-5)
    found = harmonic_spectrum(model, minimum)
    mass = 12.011 * 15.999 / (12.011 + 15.999)
    frequency = np.sqrt(stiffness / (mass * DALTON)) / (2 * np.pi * SPEED_OF_LIGHT * 1e-8)
    assert found.wavenumbers == pytest.approx([frequency], rel=1e-4)
    # μ = q(r) r from C to O, reversed: |dμ/dr| = q0 + s r0.
    exact = KM_PER_MOL * (charge + slope * length) ** 2 / mass
    assert found.intensities == pytest.approx([exact], rel=1e-4)
    broad = found.broadened(20.0)
    assert broad.peaks() == pytest.approx([frequency], abs=0.5)
    assert broad.integral() == pytest.approx(exact, rel=1e-3)


def test_hessian_is_the_derivative_of_the_gradient():
    model = bound_model(["FOR"])
    places = places_of(["FOR"])
    _, _, hessian = energy_derivatives(model, places)
    step = 1e-4
    for column in (0, 7, 13):
        moved = np.repeat(places.reshape(1, -1), 2, axis=0)
        moved[:, column] += [step, -step]
        up, down = (energy_derivatives(model, x.reshape(-1, 3), hessian=False)[1].ravel() for x in moved)
        np.testing.assert_allclose(hessian[column], (up - down) / (2 * step), atol=1e-5)


def test_modes_neither_shift_nor_turn():
    model = bound_model(["HOH"])
    places = places_of(["HOH"])
    space = vibrational_space(places, model.masses)
    assert space.shape == (9, 3)
    np.testing.assert_allclose(space.T @ space, np.eye(3), atol=1e-12)
    line = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.2], [0.0, 0.0, -1.2]])
    assert vibrational_space(line, np.array([12.0, 16.0, 16.0])).shape == (9, 4)
    assert harmonic_spectrum(model, places).modes.shape == (3, 3, 3)


def test_a_relaxation_that_fails_says_so():
    les_model = LESModel(
        Spring(115.0, 1.128), StretchCharges(0.1, 0.0), LatentCoulomb(coulomb_constant=1e-12), [6, 8]
    ).double()
    model = ChargeModel(les_model, [6, 8], np.array([[0, 1]]), precision="double")
    with pytest.raises(OpenMMLESError, match="stopped at a force of"):
        relax(model, np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.6]]), max_force=1e-18)
