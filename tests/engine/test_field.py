"""A uniform field on systems of ML atoms alone."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from openmm import app

from openmm_les import LESModel, create_system
from openmm_les.electrostatics import LatentCoulomb
from openmm_les.engine.compile import freeze
from openmm_les.engine.field import FIELD_PARAMETERS
from openmm_les.engine.field_forces import IsolatedFieldForce, PeriodicFieldForce
from openmm_les.engine.files import save_system
from openmm_les.engine.force_reader import MLForceReader
from openmm_les.engine.references import MoleculeReferences
from openmm_les.engine.reporters import DipoleReporter, EnergyTermReporter
from openmm_les.models.equilibration import ChargeEquilibration
from openmm_les.models.heads import NoCharges
from openmm_les.models.multipole_sources import MultipoleSources
from openmm_les.models.response import born_charges, dipole
from openmm_les.records import read_record
from tests.embedding.pinned import pinned_model
from tests.engine.builders import (
    BOXES,
    FORMAMIDE_RESIDUE,
    KJ,
    ROUTES_HERE,
    WATER_RESIDUE,
    check_forces,
    energy_of,
    evaluation,
    forces_of,
    make_context,
    numerical_forces,
    quiet_model,
    topology_of,
    water_and_formamide,
)
from tests.engine.toy_sources import ToyResponse, responding_model

POSITIONS, NUMBERS, MOLECULES = water_and_formamide()
RESIDUES = [WATER_RESIDUE, FORMAMIDE_RESIDUE]
MOLECULES_ARE = np.array(MOLECULES)
BONDS = [(0, 1), (0, 2), (3, 4), (3, 5), (3, 6), (5, 7), (5, 8)]
FIELD = np.array([0.4, -1.1, 2.3])  # V/nm


def moving_model():
    """`quiet_model` whose charges change with the geometry, which untrained ones do not."""
    model = quiet_model()
    weights = torch.randn(model.charge_head.output.weight.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        model.charge_head.output.weight.copy_(3.0 * weights)
    return model


def with_sources(kind, **settings):
    """`moving_model` with a source module of the package, its weights random."""
    model = moving_model()
    sizes = (model.elements, model.backbone.n_features)
    coulomb = model.electrostatics
    with torch.random.fork_rng():
        torch.manual_seed(4)
        if kind is MultipoleSources:
            backbone = quiet_model(equivariants=1).backbone
            sources = kind(*sizes, backbone.n_equivariants, electrostatics=coulomb, **settings)
        else:
            backbone = model.backbone
            sources = kind(*sizes, electrostatics=coulomb, **settings)
        for name, parameter in sources.named_parameters():
            if "output" in name or "gate" in name:  # silent at the start
                torch.nn.init.normal_(parameter, std=2.0)
    return LESModel(backbone, model.charge_head, coulomb, model.elements, sources=sources).double()


MODELS = {
    "charges": moving_model(),
    "responding": responding_model(),
    "equilibrated": with_sources(ChargeEquilibration, solver="dense"),
    "polarizable": with_sources(MultipoleSources, polarizability="isotropic"),
    "dipoles": with_sources(MultipoleSources),
}

CASES = [("charges", name) for name in BOXES] + [(kind, "triclinic") for kind in MODELS if kind != "charges"]
CASES.append(("responding", "isolated"))


def field_system(model, box=None, route="python", residues=RESIDUES, field=FIELD, **options):
    return create_system(
        topology_of(residues, box), model, route, precision="double", electric_field=field, **options
    )


def set_field(context, field):
    for name, value in zip(FIELD_PARAMETERS, field):
        context.setParameter(name, value)


@functools.cache
def frozen(kind_of_model, box_name, dtype=torch.float64):
    model, box = MODELS[kind_of_model], BOXES[box_name]
    kind = IsolatedFieldForce if box is None else PeriodicFieldForce
    force = kind(model, NUMBERS, MOLECULES, [0.0, 0.0], None, dtype, None, BONDS)
    return freeze(torch.jit.script(force))


def run(form, positions, box, field=FIELD):
    """Energy and forces, kJ/mol and nm."""
    arguments = [torch.tensor(positions)] if box is None else [torch.tensor(positions), torch.tensor(box)]
    energy, forces = form(*arguments, *(torch.tensor(value) for value in field))
    return float(energy.detach()), forces.detach().numpy()


@pytest.mark.parametrize("route", ROUTES_HERE)
@pytest.mark.parametrize("name", ["isolated", "cubic"])
def test_two_charges_in_a_field_have_the_energy_of_their_dipole(route, name):
    model = pinned_model([0.7, -0.7], periodic=name != "isolated")
    positions = np.array([[0.1, 0.2, 0.0], [0.3, -0.1, 0.15]])
    topology = topology_of([("NACL", [11, 17], [(0, 1)])], BOXES[name])
    context = make_context(
        create_system(topology, model, route, precision="double", electric_field=FIELD), positions
    )
    energy, forces = energy_of(context), forces_of(context)
    set_field(context, [0.0, 0.0, 0.0])
    moment = 0.7 * (positions[0] - positions[1])
    assert energy - energy_of(context) == pytest.approx(-KJ * moment @ FIELD, rel=1e-9)
    expected = KJ * np.array([[0.7], [-0.7]]) * FIELD
    np.testing.assert_allclose(forces - forces_of(context), expected, atol=1e-7)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_frozen_forces_are_the_derivative_of_the_frozen_energy(kind, name):
    model, box = MODELS[kind], BOXES[name]
    form = frozen(kind, name)
    components = [(0, 0), (1, 2), (3, 1), (5, 0), (8, 1)]
    with torch.jit.optimized_execution(False):
        expected = numerical_forces(lambda x: run(form, x, box)[0], POSITIONS, components)
    for _ in range(3):  # TorchScript rewrites itself after the first two; for other models that takes long
        with torch.jit.optimized_execution(kind == "charges"):
            _, forces = run(form, POSITIONS, box)
        found = np.array([forces[i, k] for i, k in components])
        assert np.abs(found - expected).max() < 1e-5 * np.abs(forces).max()
    # The charges' response is in there: fixed charges would give other forces.
    if not model.responds:
        born = born_charges(model, graph_of(model, box)).numpy()
        charges = model.moments(graph_of(model, box))[0].detach().numpy()
        assert np.abs(born - charges[:, None, None] * np.eye(3)).max() > 0.05


def graph_of(model, box):
    cell = None if box is None else 10 * box
    return model.make_graph(10 * POSITIONS, np.array(NUMBERS), cell, 0.0, np.array(MOLECULES))


@pytest.mark.parametrize("route", ROUTES_HERE)
@pytest.mark.parametrize("name", ["isolated", "triclinic"])
def test_slope_of_the_energy_is_the_dipole_and_forces_are_born_charges_times_field(route, name):
    model, box = MODELS["charges"], BOXES[name]
    context = make_context(field_system(model, box, route), POSITIONS)
    forces = forces_of(context)
    moment = dipole(model, graph_of(model, box))[0].detach().numpy()  # e·Å
    for axis in range(3):
        energies = []
        for step in (-0.5, 0.5):
            set_field(context, FIELD + step * np.eye(3)[axis])
            energies.append(energy_of(context))
        assert energies[1] - energies[0] == pytest.approx(-KJ * 0.1 * moment[axis], abs=1e-7)
    set_field(context, [0.0, 0.0, 0.0])
    born = born_charges(model, graph_of(model, box)).numpy()  # [atom, polarisation, displacement]
    np.testing.assert_allclose(
        forces - forces_of(context), KJ * np.einsum("apd,p->ad", born, FIELD), atol=1e-7
    )


def test_a_responding_model_gains_what_its_moments_say():
    """Field on field: the second derivative of the energy is the polarizability of the closed form."""
    form = frozen("responding", "isolated")
    energies = [run(form, POSITIONS, None, s * np.array([0.0, 0.0, 1.0]))[0] for s in (-1.0, 0.0, 1.0)]
    toy = ToyResponse()
    z = 10 * POSITIONS[:, 2]
    within = sum(((z[MOLECULES_ARE == m] - z[MOLECULES_ARE == m].mean()) ** 2).sum() for m in (0, 1))
    alpha = within / toy.hardness + len(NUMBERS) * toy.polarizability  # e²Å²/eV
    curvature = (energies[0] - 2 * energies[1] + energies[2]) / KJ
    assert curvature == pytest.approx(-alpha * 0.1**2, rel=1e-6)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_evaluate_is_the_simulation(kind, name):
    model, box = MODELS[kind], BOXES[name]
    cell = None if box is None else 10 * box
    found = model.evaluate(10 * POSITIONS, np.array(NUMBERS), cell, electric_field=FIELD / 10)
    energy, forces = run(frozen(kind, name), POSITIONS, box)
    assert found.energy * KJ == pytest.approx(energy, rel=1e-12)
    np.testing.assert_allclose(found.forces * KJ * 10, forces, atol=1e-8)
    off = model.evaluate(10 * POSITIONS, np.array(NUMBERS), cell, electric_field=[0.0, 0.0, 0.0])
    plain = model.evaluate(10 * POSITIONS, np.array(NUMBERS), cell)
    assert off.energy == pytest.approx(plain.energy, abs=1e-10) and off.energy_field == 0.0
    np.testing.assert_allclose(off.forces, plain.forces, atol=1e-10)
    assert found.energy_field != 0.0 and plain.energy_field == 0.0


@pytest.mark.parametrize(("kind", "name"), [case for case in CASES if case[1] == "triclinic"])
def test_images_of_atoms_change_nothing(kind, name):
    box = BOXES[name]
    form = frozen(kind, name)
    with torch.jit.optimized_execution(False):
        energy, forces = run(form, POSITIONS, box)
    moved = POSITIONS + np.random.default_rng(1).integers(-2, 3, POSITIONS.shape) @ box
    with torch.jit.optimized_execution(False):
        other, other_forces = run(form, moved, box)
    assert other == pytest.approx(energy, rel=1e-12)
    np.testing.assert_allclose(other_forces, forces, atol=1e-6)


def test_energy_goes_on_while_an_ion_and_a_water_drift_through_the_wall():
    box = BOXES["triclinic"]
    residues = [("NA", [11], []), WATER_RESIDUE]
    positions = np.concatenate([[[0.45, 0.1, 0.1]], POSITIONS[:3] + 0.35])
    system = field_system(MODELS["charges"], box, residues=residues, total_charge=1)
    context = make_context(system, positions)
    still = energy_of(context), forces_of(context)
    shifts = np.linspace(0.0, 2.0, 5)
    for shift in shifts:
        # All atoms together: nothing but the ion's energy in the field may change, and not jump.
        context.setPositions(positions + shift * np.array([0.9, 0.5, -0.3]))
        expected = still[0] - KJ * shift * np.array([0.9, 0.5, -0.3]) @ FIELD
        assert energy_of(context) == pytest.approx(expected, abs=1e-5)
        np.testing.assert_allclose(forces_of(context), still[1], atol=1e-5)
    # Moved by a box vector the ion is on another branch, and feels the same.
    positions[0] += box[1]
    context.setPositions(positions)
    assert energy_of(context) - still[0] == pytest.approx(-KJ * box[1] @ FIELD, abs=1e-6)
    np.testing.assert_allclose(forces_of(context), still[1], atol=1e-6)


def test_single_precision_far_out():
    for name in ("isolated", "cubic"):
        box = BOXES[name]
        energy, forces = run(frozen("charges", name), POSITIONS, box)
        single, single_forces = run(frozen("charges", name, torch.float32), POSITIONS + 500.0, box)
        assert single == pytest.approx(energy, abs=1e-2)
        np.testing.assert_allclose(single_forces, forces, atol=2e-4 * np.abs(forces).max())


def test_molecules_of_any_shape_are_made_whole():
    generator = np.random.default_rng(0)
    n, cell = 40, 12.0 * np.eye(3) + generator.normal(size=(3, 3))
    steps = generator.normal(size=(n, 3))
    parents = np.array([max(0, k - 1 - int(generator.integers(0, 3))) for k in range(n)])
    whole = np.zeros((n, 3))
    for k in range(1, n):
        whole[k] = whole[parents[k]] + steps[k]
    order = generator.permutation(n)  # bonds in any order, any numbering
    place = np.argsort(order)
    bonds = [(int(place[parents[k]]), int(place[k])) for k in range(1, n)]
    torn = whole[order] + generator.integers(-3, 4, (n, 3)) @ cell
    references = torch.jit.script(MoleculeReferences([0] * n, bonds))
    places, moment = references(torch.tensor(torn), torch.tensor(cell), torch.tensor([2.0]))
    np.testing.assert_allclose(places.numpy(), whole[order] - whole[order[0]], atol=1e-9)
    np.testing.assert_allclose(moment.numpy(), 2.0 * torn[0])


@pytest.mark.parametrize("route", ROUTES_HERE)
def test_parameters_act_at_once_scale_with_lambda_and_have_no_derivative(route):
    context = make_context(field_system(MODELS["charges"], None, route), POSITIONS)
    assert [context.getParameter(name) for name in FIELD_PARAMETERS] == FIELD.tolist()
    full = energy_of(context)
    context.setParameter("electric_field_z", -FIELD[2])
    turned = energy_of(context)
    fresh = make_context(field_system(MODELS["charges"], None, route, field=FIELD * [1, 1, -1]), POSITIONS)
    assert turned == energy_of(fresh) != full
    context.setParameter("lambda_interpolate", 0.25)
    assert energy_of(context) == pytest.approx(0.25 * turned, rel=1e-12)
    context.setParameter("lambda_interpolate", 0.0)
    assert energy_of(context) == 0.0
    derivatives = dict(fresh.getState(parameterDerivatives=True).getEnergyParameterDerivatives())
    assert set(derivatives) == {*FIELD_PARAMETERS, "lambda_interpolate"}
    assert np.isnan(list(derivatives.values())).all()


def test_without_a_field_nothing_is_there():
    system = create_system(topology_of(RESIDUES), quiet_model(), "python")
    context = make_context(system, POSITIONS)
    assert list(context.getParameters()) == ["lambda_interpolate"]
    assert [force.getName() for force in system.getForces()] == ["LES", "CMMotionRemover"]


@pytest.mark.parametrize("route", ROUTES_HERE)
def test_a_saved_system_keeps_its_field_in_another_process(route, tmp_path):
    system = field_system(MODELS["charges"], BOXES["triclinic"], route)
    save_system(system, tmp_path / "system.xml")
    np.save(tmp_path / "positions.npy", POSITIONS)
    code = """
import numpy as np
from openmm_les.engine.files import load_system
from tests.engine.builders import energy_of, make_context
context = make_context(load_system("system.xml"), np.load("positions.npy"))
print([context.getParameter("electric_field_" + axis) for axis in "xyz"])
print(repr(energy_of(context)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    field, energy = done.stdout.splitlines()[-2:]
    assert field == str(FIELD.tolist())
    assert float(energy) == energy_of(make_context(system, POSITIONS))


@pytest.mark.parametrize("route", ROUTES_HERE)
def test_energy_is_conserved_in_a_field(route):
    water = POSITIONS[:3]
    system = field_system(MODELS["charges"], None, route, residues=[WATER_RESIDUE], remove_cm_motion=False)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.00005), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(water)
    context.setVelocitiesToTemperature(300.0, 1)
    totals, in_field = [], []
    reader = MLForceReader(system)
    for _ in range(15):
        context.getIntegrator().step(20)
        state = context.getState(energy=True, positions=True)
        totals.append((state.getPotentialEnergy() + state.getKineticEnergy())._value)
        positions = state.getPositions(asNumpy=True)._value
        in_field.append(reader.energy_terms(positions, None, context.getParameters())["electric_field"])
    assert np.ptp(in_field) > 1.0  # kJ/mol: the field works on the molecule
    assert np.ptp(totals) < 0.02 * np.ptp(in_field)


@pytest.mark.parametrize("route", ROUTES_HERE)
def test_reporters_see_the_field(route, tmp_path):
    model = MODELS["responding"]
    topology = topology_of(RESIDUES)
    system = field_system(model, None, route)
    simulation = app.Simulation(
        topology, system, openmm.VerletIntegrator(1e-7), openmm.Platform.getPlatformByName("Reference")
    )
    simulation.context.setPositions(POSITIONS)
    simulation.reporters += [
        EnergyTermReporter(tmp_path / "terms.h5", 1),
        DipoleReporter(tmp_path / "dipole.h5", 1),
    ]
    simulation.step(1)
    for reporter in simulation.reporters:
        reporter.close()
    positions = simulation.context.getState(positions=True).getPositions(asNumpy=True)._value
    expected = model.evaluate(10 * positions, np.array(NUMBERS), electric_field=FIELD / 10)
    found = read_record(tmp_path / "terms.h5", "observables/energy_electric_field").value[0]
    assert found == pytest.approx(expected.energy_field * KJ, rel=1e-6)
    charges = MLForceReader(system).charges(positions, None, simulation.context.getParameters())
    np.testing.assert_allclose(charges, expected.charges, atol=1e-12)
    with pytest.raises(ValueError, match="takes an electric field: give `parameters`"):
        MLForceReader(system).charges(positions, None)


@pytest.mark.parametrize("field", [[1.0, 2.0], [0.0, np.nan, 1.0], 3.0])
def test_fields_that_are_none(field):
    with pytest.raises(ValueError, match="`electric_field` must be three numbers in V/nm"):
        field_system(quiet_model(), field=field)
    with pytest.raises(ValueError, match="`electric_field` must be three numbers in V/Å"):
        quiet_model().evaluate(10 * POSITIONS, np.array(NUMBERS), electric_field=field)


def test_charge_that_flows_between_molecules_has_no_dipole_in_a_box():
    model = with_sources(ChargeEquilibration, conserve="configuration", solver="dense")
    with pytest.raises(ValueError, match="equilibrates charge over several molecules"):
        field_system(model, BOXES["cubic"])
    with pytest.raises(ValueError, match="equilibrates charge over several molecules"):
        model.evaluate(10 * POSITIONS, np.array(NUMBERS), 20 * np.eye(3), electric_field=FIELD)
    # Isolated it may flow: all molecules share one reference.
    context = make_context(field_system(model), POSITIONS)
    components = [(0, 0), (4, 2)]
    check_forces(evaluation(context), POSITIONS, components, 1e-5)


def test_what_a_field_needs():
    model = quiet_model()
    bare = LESModel(model.backbone, NoCharges(), LatentCoulomb(), model.elements)
    with pytest.raises(ValueError, match="no latent charges for an electric field"):
        field_system(bare)
    name, numbers, _ = FORMAMIDE_RESIDUE
    with pytest.raises(ValueError, match="the bonds leave molecule 0 in several parts"):
        create_system(
            topology_of([(name, numbers, [])], BOXES["cubic"]),
            model,
            "python",
            molecules=[0] * 6,
            total_charge=[0.0],
            electric_field=FIELD,
        )
    with pytest.raises(ValueError, match="`stress=True` is not given in an `electric_field`"):
        model.evaluate(10 * POSITIONS, np.array(NUMBERS), 20 * np.eye(3), stress=True, electric_field=FIELD)
