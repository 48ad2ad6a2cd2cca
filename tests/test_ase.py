"""The calculator against ASE's own checks: finite differences, caching, files, dynamics."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from openmm_les.ase import LESCalculator
from openmm_les.exceptions import UnknownElementError
from openmm_les.models.checkpoint import save_model
from tests.builders import TRICLINIC
from tests.engine.builders import quiet_model

MODEL = quiet_model()


def ethanol(periodic: bool = False) -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    if periodic:
        atoms.set_cell(TRICLINIC)
        atoms.pbc = True
    return atoms


@pytest.fixture
def calculator() -> LESCalculator:
    return LESCalculator(MODEL)


@pytest.mark.parametrize("periodic", [False, True])
def test_forces_are_finite_differences(calculator, periodic):
    atoms = ethanol(periodic)
    atoms.calc = calculator
    numerical = calculate_numerical_forces(atoms, eps=1e-4)
    np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-6)
    assert np.abs(numerical).max() > 1e-2


def test_stress_is_a_finite_difference(calculator):
    atoms = ethanol(periodic=True)
    atoms.calc = calculator
    numerical = calculate_numerical_stress(atoms, eps=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-8)
    np.testing.assert_allclose(atoms.get_stress(voigt=False)[0, 1], numerical[5], atol=1e-8)
    assert np.abs(numerical).max() > 1e-5


def test_numbers_are_the_models(calculator):
    atoms = ethanol()
    atoms.calc = calculator
    expected = MODEL.evaluate(atoms.positions, atoms.numbers)
    assert atoms.get_potential_energy() == pytest.approx(expected.energy, abs=1e-10)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_charges(), expected.charges, atol=1e-12)
    np.testing.assert_allclose(atoms.get_dipole_moment(), expected.charges @ atoms.positions, atol=1e-12)
    single = LESCalculator(MODEL, precision="single")
    assert single.get_potential_energy(atoms) == pytest.approx(expected.energy, abs=1e-3)


def test_dipole_does_not_depend_on_where_the_cell_cuts(calculator):
    atoms = ethanol(periodic=True)
    atoms.calc = calculator
    before = atoms.get_dipole_moment()
    atoms.translate([4.0, 3.0, 5.0])
    atoms.wrap()
    assert np.ptp(atoms.positions, axis=0).max() > 5.0  # it is torn
    np.testing.assert_allclose(atoms.get_dipole_moment(), before, atol=1e-9)


def test_results_follow_changes_and_are_kept_without(calculator, monkeypatch):
    atoms = ethanol()
    atoms.calc = calculator
    calls = []
    original = calculator.model.evaluate
    monkeypatch.setattr(calculator.model, "evaluate", lambda *a, **k: calls.append(1) or original(*a, **k))
    for _ in range(2):
        atoms.get_potential_energy(), atoms.get_forces(), atoms.get_charges(), atoms.get_dipole_moment()
    assert len(calls) == 1
    first = atoms.get_potential_energy()
    atoms.positions[0, 0] += 0.1
    assert atoms.get_potential_energy() != first
    atoms.set_atomic_numbers([14 if z == 99 else z for z in atoms.numbers])
    assert len(calls) == 2
    assert not calculator.calculation_required(atoms, ["energy", "forces"])


def test_molecules_are_kept_while_a_bond_stretches(calculator):
    atoms = molecule("H2O")
    atoms.calc = calculator
    atoms.get_charges()
    atoms.positions[1] += 3.0
    assert abs(atoms.get_charges()[1]) < 0.9
    calculator.reset()
    assert atoms.get_charges()[1] == pytest.approx(1.0, abs=1e-12)  # OH- and H+ now
    given = LESCalculator(MODEL, molecules=[0, 0, 0], total_charge=1)
    assert given.get_property("charges", atoms).sum() == pytest.approx(1.0)


def test_what_it_cannot_do(calculator):
    atoms = ethanol()
    atoms.calc = calculator
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_magnetic_moment()
    atoms.cell = [9, 9, 9]
    atoms.pbc = [True, True, False]
    with pytest.raises(ValueError, match=r"all axes or none, got pbc=\[True, True, False\]"):
        atoms.get_potential_energy()
    gold = Atoms("Au", calculator=calculator)
    with pytest.raises(UnknownElementError, match="does not know Au"):
        gold.get_potential_energy()
    with pytest.raises(ValueError, match="`precision` must be"):
        LESCalculator(MODEL, precision="half")
    with pytest.raises(TypeError, match="unknown argument charge of LESCalculator"):
        LESCalculator(MODEL, charge=1)


def test_results_go_into_files(calculator, tmp_path):
    atoms = ethanol(periodic=True)
    atoms.calc = calculator
    atoms.get_stress()
    for name in ("a.traj", "a.extxyz"):
        write(tmp_path / name, atoms)
        again = read(tmp_path / name)
        assert again.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(again.get_forces(), atoms.get_forces(), atol=1e-6)
        np.testing.assert_allclose(again.get_stress(), atoms.get_stress(), atol=1e-6)


def test_a_model_may_be_a_file_and_is_not_changed(tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(MODEL, path)
    atoms = molecule("H2O")
    assert LESCalculator(path).get_potential_energy(atoms) == pytest.approx(
        LESCalculator(MODEL).get_potential_energy(atoms), abs=1e-9
    )
    LESCalculator(MODEL, precision="single")
    assert next(MODEL.parameters()).requires_grad and next(MODEL.parameters()).dtype.itemsize == 8


def test_dynamics_and_optimiser(calculator):
    atoms = molecule("H2O")
    atoms.calc = calculator
    BFGS(atoms, logfile=None).run(fmax=0.05, steps=100)
    assert np.abs(atoms.get_forces()).max() < 0.05
    atoms.rattle(0.02, seed=3)
    start = atoms.get_total_energy()
    VelocityVerlet(atoms, timestep=0.25 * units.fs).run(40)
    assert atoms.get_kinetic_energy() > 0.0
    assert atoms.get_total_energy() == pytest.approx(start, abs=2e-3)
