from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from openmm_les.electrostatics import LatentCoulomb
from openmm_les.exceptions import UnknownElementError
from openmm_les.models.evaluation import Evaluation
from openmm_les.models.heads import NoCharges
from tests.builders import WATER, WATER_NUMBERS, make_graph, small_model
from tests.models.test_model import CELL, MODEL, TWO_WATERS, energy_and_forces


@pytest.mark.parametrize("cell", [None, CELL], ids=["isolated", "periodic"])
def test_evaluate_equals_forward(cell):
    graph = make_graph([TWO_WATERS], [WATER_NUMBERS * 2], [cell], [[0] * 3 + [1] * 3], [[0.0, 0.0]])
    energy, forces = energy_and_forces(MODEL, graph)
    output = MODEL(graph)
    found = MODEL.evaluate(TWO_WATERS, np.array(WATER_NUMBERS * 2), cell)
    assert isinstance(found, Evaluation)
    assert found.energy == pytest.approx(float(energy), rel=1e-12)
    assert found.energy == pytest.approx(found.energy_short_range + found.energy_long_range, rel=1e-12)
    assert found.energy_long_range == pytest.approx(float(output.energy_long_range.detach()), rel=1e-12)
    assert isinstance(found.energy, float)
    assert found.forces.dtype == found.latent_charges.dtype == np.float64
    np.testing.assert_allclose(found.forces, forces.numpy(), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.latent_charges, output.latent_charges.detach().numpy(), atol=1e-12)


def test_a_field_needs_charges():
    model = copy.deepcopy(MODEL)
    model.charge_head = NoCharges()
    assert np.isfinite(model.evaluate(WATER, WATER_NUMBERS).energy)
    with pytest.raises(ValueError, match="acts on charges, which the model does not have"):
        model.evaluate(WATER, WATER_NUMBERS, electric_field=(0.0, 0.0, 0.1))


def test_evaluate_takes_plain_lists_and_leaves_its_input_alone():
    positions = WATER.copy()
    found = MODEL.evaluate(positions.tolist(), WATER_NUMBERS)
    assert found.energy == MODEL.evaluate(positions, np.array(WATER_NUMBERS, dtype=np.int32)).energy
    MODEL.evaluate(positions, WATER_NUMBERS, CELL)
    assert np.array_equal(positions, WATER)


def test_evaluate_without_gradients_enabled():
    with torch.no_grad():
        found = MODEL.evaluate(WATER, WATER_NUMBERS)
    assert np.abs(found.forces).max() > 0.0


def test_evaluate_in_float32():
    exact = MODEL.evaluate(TWO_WATERS, WATER_NUMBERS * 2, CELL)
    single = copy.deepcopy(MODEL).float().evaluate(TWO_WATERS, WATER_NUMBERS * 2, CELL)
    assert single.energy == pytest.approx(exact.energy, rel=1e-5)
    assert np.abs(single.forces - exact.forces).max() < 1e-4 * np.abs(exact.forces).max()


@pytest.mark.parametrize("solver", ["ewald", "pme", "sharp"])
def test_stress_is_the_slope_over_strained_cells(solver):
    sharp = solver == "sharp"
    electrostatics = LatentCoulomb(
        0.9, method="ewald" if sharp else solver, tolerance=1e-6, k_cutoff=3.1 if sharp else None
    )
    model = small_model(electrostatics=electrostatics)
    numbers = WATER_NUMBERS * 2
    found = model.evaluate(TWO_WATERS, numbers, CELL, stress=True)
    volume = abs(np.linalg.det(CELL))
    step = 2e-4

    def energy(strain):
        shape = np.eye(3) + strain
        return model.evaluate(TWO_WATERS @ shape, numbers, CELL @ shape).energy

    for a in range(3):
        for b in range(3):
            strain = np.zeros((3, 3))
            strain[a, b] = step  # not symmetric: turning the whole changes no energy
            four = [energy(k * strain) for k in (-2, -1, 1, 2)]
            slope = (four[0] - 8.0 * four[1] + 8.0 * four[2] - four[3]) / (12.0 * step)
            assert found.stress[a, b] == pytest.approx(slope / volume, abs=1e-9)
    plain = model.evaluate(TWO_WATERS, numbers, CELL)
    assert plain.stress is None
    assert found.energy == pytest.approx(plain.energy, rel=1e-12)
    np.testing.assert_allclose(found.forces, plain.forces, atol=1e-7)
    assert np.abs(found.stress).max() > 1e-4


def test_evaluate_finds_molecules_and_their_charges():
    # Water and chloride: the total belongs to the ion.
    positions = np.concatenate([WATER, [[3.2, 0.0, 0.0]]])
    charges = MODEL.evaluate(positions, [*WATER_NUMBERS, 17], total_charge=-1).latent_charges
    assert charges[:3].sum() == pytest.approx(0.0, abs=1e-12)
    assert charges[3] == pytest.approx(-1.0)


def test_evaluate_takes_molecules_and_one_charge_each():
    # One molecule by decree shares its charge; two keep theirs apart.
    charges = MODEL.evaluate(TWO_WATERS, WATER_NUMBERS * 2, total_charge=[0.5, -0.5]).latent_charges
    assert charges[:3].sum() == pytest.approx(0.5)
    assert charges[3:].sum() == pytest.approx(-0.5)
    together = MODEL.evaluate(TWO_WATERS, WATER_NUMBERS * 2, molecules=np.zeros(6, dtype=int))
    assert together.latent_charges.sum() == pytest.approx(0.0, abs=1e-12)
    assert abs(together.latent_charges[:3].sum()) > 1e-4
    # Indices of a topology of which only a part is looked at.
    part = MODEL.evaluate(WATER, WATER_NUMBERS, molecules=[5, 5, 5])
    assert part.energy == MODEL.evaluate(WATER, WATER_NUMBERS).energy


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"positions": WATER[:, :2]}, ValueError, r"`positions` must have shape \[n, 3\], got \[3, 2\]"),
        ({"positions": np.zeros((0, 3))}, ValueError, r"`positions` must have shape \[n, 3\], got \[0, 3\]"),
        ({"positions": WATER * np.nan}, ValueError, "`positions` holds NaN or infinite values"),
        ({"positions": np.zeros((3, 3))}, ValueError, "not finite: do atoms of `positions` coincide"),
        ({"atomic_numbers": [8, 1]}, ValueError, r"`atomic_numbers` must be 3 integers, got shape \[2\]"),
        ({"atomic_numbers": [8.0, 1.0, 1.0]}, ValueError, "`atomic_numbers` must be 3 integers"),
        ({"atomic_numbers": [8, 1, 35]}, UnknownElementError, "does not know Br; it knows H, C, N, O, Cl"),
        ({"atomic_numbers": [8, 1, 0]}, UnknownElementError, "does not know Z=0"),
        ({"atomic_numbers": [8, 1, 200]}, UnknownElementError, "does not know Z=200"),
        ({"cell": np.eye(2)}, ValueError, r"`cell` must have shape \[3, 3\], got \[2, 2\]"),
        ({"cell": np.ones((3, 3))}, ValueError, "`cell` has no volume"),
        ({"cell": np.nan * CELL}, ValueError, "`cell` holds NaN or infinite values"),
        ({"stress": True}, ValueError, "`stress=True` needs a `cell`"),
        ({"total_charge": [0.0, 0.0]}, ValueError, r"`total_charge` must be one number or one per molecule"),
        ({"total_charge": math.nan}, ValueError, "`total_charge` holds NaN or infinite values"),
        ({"molecules": [0, 0]}, ValueError, r"`molecules` must be 3 indices from 0, got shape \[2\]"),
        ({"molecules": [0, 0, -1]}, ValueError, "`molecules` must be 3 indices from 0"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_evaluate_refuses(change, error, message):
    arguments = {"positions": WATER, "atomic_numbers": WATER_NUMBERS, **change}
    with pytest.raises(error, match=message):
        MODEL.evaluate(**arguments)


def test_evaluate_refuses_a_total_that_fits_no_molecule():
    with pytest.raises(ValueError, match="cannot be shared among 2 molecules"):
        MODEL.evaluate(TWO_WATERS, WATER_NUMBERS * 2, total_charge=1)
