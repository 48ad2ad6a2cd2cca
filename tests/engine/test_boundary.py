from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from openmm_les.electrostatics import LatentCoulomb, image_sum
from openmm_les.engine.boundary import IsolatedForce, PeriodicForce
from openmm_les.engine.compile import freeze
from openmm_les.exceptions import UnknownElementError
from openmm_les.pairs import DENSE_LIMIT, CellListPairs, DensePairs, make_pairs
from openmm_les.units import ANGSTROM_PER_NM, COULOMB_CONSTANT, KJ_PER_MOL_PER_EV
from tests.engine.builders import (
    BOXES,
    check_forces,
    quiet_model,
    run_module,
    water_and_formamide,
)

POSITIONS, NUMBERS, MOLECULES = water_and_formamide()
CHARGES = [0.0, 0.0]


def make_force(box, dtype=torch.float64, atoms=None, **settings):
    kind = IsolatedForce if box is None else PeriodicForce
    return kind(quiet_model(**settings), NUMBERS, MOLECULES, CHARGES, atoms, dtype)


@pytest.fixture(scope="module", params=BOXES)
def box(request):
    return BOXES[request.param]


@pytest.fixture(scope="module")
def frozen(box):
    """The double-precision module as OpenMM runs it."""
    return freeze(torch.jit.script(make_force(box)))


def test_units_and_numbers_are_those_of_the_model(box):
    energy, forces = run_module(make_force(box), POSITIONS, box)
    cell = None if box is None else box * ANGSTROM_PER_NM
    expected = quiet_model().evaluate(POSITIONS * ANGSTROM_PER_NM, np.array(NUMBERS), cell)
    assert energy == pytest.approx(expected.energy * KJ_PER_MOL_PER_EV, rel=1e-12)
    np.testing.assert_allclose(forces, expected.forces * KJ_PER_MOL_PER_EV * ANGSTROM_PER_NM, atol=1e-8)


def test_frozen_forces_are_the_derivative_of_the_frozen_energy(frozen, box):
    components = [(0, 0), (1, 1), (3, 2), (5, 0), (8, 1)]
    check_forces(lambda x: run_module(frozen, x, box), POSITIONS, components, 1e-5)
    # Charges move with the atoms, and this must be seen: without it the forces are far off.
    model = quiet_model()
    charges = model.evaluate(POSITIONS * 10, np.array(NUMBERS)).latent_charges
    assert np.std(charges) > 0.05


@pytest.mark.parametrize("name", ["cubic", "triclinic"])
def test_forces_are_the_derivative_on_a_mesh_too(name):
    box = 2.0 * BOXES[name]
    model = quiet_model()
    model.electrostatics = LatentCoulomb(method="pme", tolerance=1e-3)
    force = PeriodicForce(model, NUMBERS, MOLECULES, CHARGES, dtype=torch.float64)
    # The first atom is the one near which the origin is put.
    components = [(0, 0), (0, 1), (5, 2)]
    check_forces(lambda x: run_module(force, x, box), POSITIONS, components, 1e-6)


def test_frozen_equals_eager_over_repeated_calls(frozen, box):
    energy, forces = run_module(make_force(box), POSITIONS, box)
    for _ in range(4):  # TorchScript rewrites itself after the first two
        other, other_forces = run_module(frozen, POSITIONS, box)
        assert other == pytest.approx(energy, rel=1e-12)
        np.testing.assert_allclose(other_forces, forces, atol=1e-9 * np.abs(forces).max())
    assert frozen(*(torch.tensor(a) for a in (POSITIONS, box) if a is not None))[1].is_contiguous()


def test_a_subset_sees_only_its_atoms(box):
    places = [2, 3, 4, 7, 8, 9, 10, 11, 12]
    particles = np.random.default_rng(3).random((14, 3))
    particles[places] = POSITIONS
    energy, forces = run_module(make_force(box), POSITIONS, box)
    found, found_forces = run_module(make_force(box, atoms=places), particles, box)
    assert found == energy
    np.testing.assert_array_equal(found_forces[places], forces)
    others = sorted(set(range(14)) - set(places))
    assert (found_forces[others] == 0.0).all()
    particles[others] += 0.3
    assert run_module(make_force(box, atoms=places), particles, box)[0] == energy


@pytest.mark.parametrize("drift", [0.0, 500.0])
def test_single_precision_stays_close_however_far_atoms_drift(box, drift):
    energy, forces = run_module(make_force(box), POSITIONS, box)
    found, found_forces = run_module(make_force(box, torch.float32), POSITIONS + drift, box)
    # Single precision: 1e-7 of short-range energies of about 100 kJ/mol, after 2e6 of references.
    assert found == pytest.approx(energy, abs=1e-2)
    np.testing.assert_allclose(found_forces, forces, atol=2e-4 * np.abs(forces).max())


@pytest.mark.parametrize("name", ["cubic", "triclinic"])
def test_an_atom_moved_by_a_box_vector_changes_nothing(name):
    box = BOXES[name]
    force = make_force(box)
    energy, forces = run_module(force, POSITIONS, box)
    moved = POSITIONS.copy()
    moved[1] += box[0] - 2 * box[2]
    moved[6] -= box[1]
    found, found_forces = run_module(force, moved, box)
    assert found == pytest.approx(energy, rel=1e-12)
    np.testing.assert_allclose(found_forces, forces, atol=1e-7)


def test_lambda_scales_energy_and_forces(frozen, box):
    energy, forces = run_module(frozen, POSITIONS, box)
    quarter, quarter_forces = run_module(frozen, POSITIONS, box, torch.tensor(0.25))
    assert quarter == pytest.approx(0.25 * energy, rel=1e-12)
    np.testing.assert_allclose(quarter_forces, 0.25 * forces, rtol=1e-9, atol=1e-9)


def test_lambda_zero_takes_the_model_out_even_where_it_fails(frozen, box):
    energy, forces = run_module(frozen, np.zeros_like(POSITIONS), box, torch.tensor(0.0))
    assert energy == 0.0
    assert (forces == 0.0).all()


@pytest.mark.parametrize("name", ["cubic", "triclinic"])
def test_images_of_given_charges_are_subtracted_at_any_lambda(name):
    box = torch.tensor(BOXES[name])
    charges = np.linspace(-0.5, 0.7, 9)
    parts = (quiet_model(), NUMBERS, MOLECULES, CHARGES, None, torch.float64)
    without = run_module(PeriodicForce(*parts), POSITIONS, box)
    script = torch.jit.script(PeriodicForce(*parts, charges))
    expected, gradient = image_sum(
        torch.tensor(10 * POSITIONS), torch.tensor(charges), 10 * box, COULOMB_CONSTANT
    )
    for strength in (0.0, 0.5, 1.0):
        energy, forces = run_module(script, POSITIONS, box, torch.tensor(strength))
        assert energy == pytest.approx(
            strength * without[0] - float(expected) * KJ_PER_MOL_PER_EV, rel=1e-12, abs=1e-9
        )
        np.testing.assert_allclose(
            forces, strength * without[1] + gradient.numpy() * KJ_PER_MOL_PER_EV * 10, atol=1e-7
        )


@pytest.mark.parametrize(
    "value, message", [(np.nan, "positions hold NaN"), (POSITIONS[3], "ML energy is not finite")]
)
def test_a_bad_geometry_raises_inside_the_script(value, message):
    positions = POSITIONS.copy()
    positions[4] = value
    force = make_force(None)
    with pytest.raises(RuntimeError, match=message):
        run_module(force, positions)
    # At the first call, and when TorchScript has rewritten itself: a mistake here ends the process.
    form = freeze(torch.jit.script(force))
    for calls in (0, 3):
        for _ in range(calls):
            run_module(form, POSITIONS)
        with pytest.raises(torch.jit.Error, match=message):
            run_module(form, positions)


def test_unknown_elements_are_refused():
    with pytest.raises(UnknownElementError, match="does not know Fe"):
        IsolatedForce(quiet_model(), [26], [0], [0.0])


def test_the_given_model_stays_as_it_was():
    model = quiet_model()
    IsolatedForce(model, NUMBERS, MOLECULES, CHARGES, None, torch.float32)
    assert next(model.parameters()).dtype == torch.float64
    assert next(model.parameters()).requires_grad


def test_a_lone_ion_has_an_energy():
    force = freeze(torch.jit.script(PeriodicForce(quiet_model(), [11], [0], [1.0], dtype=torch.float64)))
    energy, forces = run_module(force, np.zeros((1, 3)), np.eye(3) * 2.0)
    expected = quiet_model().evaluate(np.zeros((1, 3)), np.array([11]), np.eye(3) * 20.0, 1.0)
    assert energy == pytest.approx(expected.energy * KJ_PER_MOL_PER_EV, rel=1e-12)
    assert np.abs(forces).max() < 1e-9


def cloud(n: int, box, seed: int = 5) -> np.ndarray:
    """Points in Å, within ``box`` (nm) or a sphere-like blob."""
    points = np.random.default_rng(seed).random((n, 3))
    return points * 12.0 if box is None else points @ box * 10.0


def pair_set(pairs, positions, cell):
    """Centre, neighbour and rounded vector of each pair: independent of order."""
    centers, neighbors, shifts = pairs(torch.tensor(positions), None if cell is None else torch.tensor(cell))
    assert (centers[1:] >= centers[:-1]).all()
    vectors = positions[neighbors] - positions[centers]
    if cell is not None:
        vectors = vectors + shifts.numpy() @ cell
    rows = zip(centers.tolist(), neighbors.tolist(), map(tuple, vectors.round(6)))
    return sorted(rows)


def test_the_cell_list_finds_the_pairs_of_the_dense_search_while_atoms_move(box):
    cell = None if box is None else box * 20.0
    script = torch.jit.freeze(torch.jit.script(CellListPairs(4.5, skin=1.0).eval()))
    dense = DensePairs(4.5)
    positions = cloud(60, None if box is None else box * 2.0)
    generator = np.random.default_rng(1)
    for step in range(5):
        assert pair_set(script, positions, cell) == pair_set(dense, positions, cell)
        positions = positions + generator.normal(scale=0.15, size=positions.shape)
        if step == 2 and cell is not None:
            positions[7] += cell[1]
            cell = cell * 1.03


def test_the_cell_list_survives_saving():
    archive = io.BytesIO()
    torch.jit.save(torch.jit.script(CellListPairs(3.0)), archive)
    archive.seek(0)
    positions = cloud(30, None)
    assert pair_set(torch.jit.load(archive), positions, None) == pair_set(DensePairs(3.0), positions, None)


def test_large_systems_get_the_cell_list():
    assert isinstance(make_pairs(4.5, DENSE_LIMIT), DensePairs)
    assert isinstance(make_pairs(4.5, DENSE_LIMIT + 1), CellListPairs)


def test_both_pair_searches_give_one_energy(box):
    force = make_force(box)
    energy, forces = run_module(force, POSITIONS, box)
    force.pairs = CellListPairs(force.pairs.cutoff)
    found, found_forces = run_module(force, POSITIONS, box)
    assert found == pytest.approx(energy, rel=1e-12)
    np.testing.assert_allclose(found_forces, forces, atol=1e-8)
