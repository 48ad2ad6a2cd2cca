"""Boxes that change: barostats, large steps, atoms far out, two Contexts in turn."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import openmm
import pytest
from openmm import unit

from openmm_les.electrostatics import LatentCoulomb
from openmm_les.engine.connectivity import CONNECTIVITY_NAME
from openmm_les.engine.files import save_system
from openmm_les.engine.system import create_system
from openmm_les.models.model import LESModel
from openmm_les.units import ANGSTROM_PER_NM, KJ_PER_MOL_PER_EV
from tests.engine.builders import (
    ROUTES_HERE,
    WATER_RESIDUE,
    energy_of,
    forces_of,
    make_context,
    quiet_model,
    topology_of,
    water_and_formamide,
)

SIDE = 3
CUBIC = np.eye(3) * 0.94
# Of OpenMM's reduced form.
TRICLINIC = np.array([[0.96, 0.0, 0.0], [0.2, 0.94, 0.0], [-0.3, 0.25, 0.93]])
BOXES = {"cubic": CUBIC, "triclinic": TRICLINIC}
# Room for the mesh's error, which depends on where the atoms lie: tolerance times energy per charge.
CLOSE = 2e-3  # kJ/mol


def waters(box: np.ndarray) -> np.ndarray:
    """Positions in nm of 27 waters on a lattice in a box (rows, nm)."""
    steps = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"), -1).reshape(-1, 3)
    molecule = water_and_formamide()[0][:3]
    return ((steps / SIDE) @ box)[:, None] + molecule[None] - molecule.mean(0)


def mesh_model(**settings) -> LESModel:
    model = quiet_model()
    model.electrostatics = LatentCoulomb(**{"method": "pme", "tolerance": 1e-5, **settings})
    return model


def water_system(box: np.ndarray, route: str, barostat: openmm.Force | None = None) -> openmm.System:
    topology = topology_of([WATER_RESIDUE] * SIDE**3, box)
    system = create_system(topology, mesh_model(), route, precision="double")
    if barostat is not None:
        system.addForce(barostat)
    return system


def expected_energy(positions: np.ndarray, box: np.ndarray) -> float:
    """kJ/mol of the eager model, its sum the exact one."""
    numbers = np.array([8, 1, 1] * (len(positions) // 3))
    cell = box * ANGSTROM_PER_NM
    return mesh_model(method="ewald").evaluate(positions * ANGSTROM_PER_NM, numbers, cell).energy * (
        KJ_PER_MOL_PER_EV
    )


def set_state(context: openmm.Context, positions: np.ndarray, box: np.ndarray) -> None:
    context.setPeriodicBoxVectors(*(openmm.Vec3(*row) for row in box))
    context.setPositions(positions)


@pytest.fixture(autouse=True)
def cell_list(monkeypatch):
    """The neighbour search of large systems, which remembers the state it was built for."""
    monkeypatch.setattr("openmm_les.pairs.DENSE_LIMIT", 0)


@pytest.fixture(scope="module", params=ROUTES_HERE)
def route(request):
    return request.param


@pytest.mark.parametrize("shape", BOXES)
def test_boxes_that_change_by_a_fifth(route, shape):
    box = BOXES[shape]
    context = make_context(water_system(box, route), waters(box).reshape(-1, 3))
    for scale in (1.0, 1.2, 0.9, 1.2, 1.0):
        positions = waters(scale * box).reshape(-1, 3)
        set_state(context, positions, scale * box)
        assert energy_of(context) == pytest.approx(expected_energy(positions, scale * box), abs=CLOSE)


@pytest.mark.parametrize("shape", BOXES)
def test_molecules_far_outside_the_box(route, shape):
    box = BOXES[shape]
    rng = np.random.default_rng(3)
    positions = waters(box)
    context = make_context(water_system(box, route), positions.reshape(-1, 3))
    energy, forces = energy_of(context), forces_of(context)
    drift = rng.integers(-2000, 2000, (len(positions), 1, 3)) @ box  # up to 2 µm
    context.setPositions((positions + drift).reshape(-1, 3))
    assert energy_of(context) == pytest.approx(energy, abs=CLOSE)
    np.testing.assert_allclose(forces_of(context), forces, atol=1e-4 * np.abs(forces).max())


def test_two_contexts_in_turn(route):
    """Each keeps what it stores of its own box; here both even stem from one System."""
    system = water_system(CUBIC, route)
    boxes = [CUBIC, 1.1 * CUBIC]
    states = [(waters(box).reshape(-1, 3), box) for box in boxes]
    alone = []
    for positions, box in states:
        context = make_context(system, positions)
        set_state(context, positions, box)
        alone.append((energy_of(context), forces_of(context)))
    contexts = [make_context(system, positions) for positions, _ in states]
    for context, (positions, box) in zip(contexts, states, strict=True):
        set_state(context, positions, box)
    for _ in range(3):
        for context, (positions, box), (energy, forces) in zip(contexts, states, alone, strict=True):
            set_state(context, positions, box)
            assert energy_of(context) == energy
            assert np.array_equal(forces_of(context), forces)


def test_a_saved_system_in_another_process(route, tmp_path):
    """With the mesh and the cell list: what both remember of a state is not part of it."""
    positions = waters(TRICLINIC).reshape(-1, 3)
    system = water_system(TRICLINIC, route)
    context = make_context(system, waters(1.1 * TRICLINIC).reshape(-1, 3))
    energy_of(context)
    save_system(system, tmp_path / "system.xml")
    np.save(tmp_path / "positions.npy", positions)
    code = (
        "import sys, numpy, openmm\n"
        "from openmm_les.engine.files import load_system\n"
        "context = openmm.Context(load_system(sys.argv[1] + '/system.xml'), openmm.VerletIntegrator(0.001),"
        " openmm.Platform.getPlatformByName('Reference'))\n"
        "context.setPositions(numpy.load(sys.argv[1] + '/positions.npy'))\n"
        "print(context.getState(getEnergy=True).getPotentialEnergy()._value)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(energy_of(make_context(system, positions)), rel=1e-13)


BAROSTATS = {
    "isotropic": lambda p, t: openmm.MonteCarloBarostat(p, t, 1),
    "anisotropic": lambda p, t: openmm.MonteCarloAnisotropicBarostat(
        openmm.Vec3(1.0, 1.0, 1.0) * p, t, True, True, True, 1
    ),
    "membrane": lambda p, t: openmm.MonteCarloMembraneBarostat(
        p,
        0.0 * unit.bar * unit.nanometer,
        t,
        openmm.MonteCarloMembraneBarostat.XYIsotropic,
        openmm.MonteCarloMembraneBarostat.ZFree,
        1,
    ),
}


@pytest.mark.parametrize("kind", [*BAROSTATS, "triclinic"])
def test_barostats(route, kind):
    """Boxes change, molecules stay whole, and the energy is a function of the state alone."""
    box = TRICLINIC if kind == "triclinic" else CUBIC
    make = BAROSTATS["isotropic" if kind == "triclinic" else kind]
    barostat = make(1.0 * unit.bar, 300.0 * unit.kelvin)
    barostat.setRandomNumberSeed(1)
    system = water_system(box, route, barostat)
    # So short a step that what changes is the box.
    integrator = openmm.VerletIntegrator(1e-9)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    start = waters(box)
    context.setPositions(start.reshape(-1, 3))
    volumes = []
    for _ in range(5):
        integrator.step(5)
        state = context.getState(positions=True, energy=True)
        volumes.append(state.getPeriodicBoxVolume()._value)
        positions = state.getPositions(asNumpy=True)._value
        found = state.getPeriodicBoxVectors(asNumpy=True)._value
        assert state.getPotentialEnergy()._value == pytest.approx(
            expected_energy(positions, found), abs=CLOSE
        )
    assert len(set(volumes)) > 2
    inside = np.linalg.norm(np.diff(positions.reshape(-1, 3, 3), axis=1), axis=2)
    np.testing.assert_allclose(inside, np.linalg.norm(np.diff(start, axis=1), axis=2), rtol=1e-5)


def test_bonds_of_zero_strength_make_molecules():
    system = water_system(CUBIC, "python")
    names = [force.getName() for force in system.getForces()]
    assert names == ["LES", CONNECTIVITY_NAME, "CMMotionRemover"]
    context = make_context(system, waters(CUBIC).reshape(-1, 3))
    assert [tuple(m) for m in context.getMolecules()] == [(3 * i, 3 * i + 1, 3 * i + 2) for i in range(27)]


def test_a_sharp_cut_warns_of_barostats():
    topology = topology_of([WATER_RESIDUE], CUBIC)
    with pytest.warns(UserWarning, match=r"jumps when the box changes.*with a barostat"):
        create_system(topology, mesh_model(k_cutoff=3.14), "python")
    create_system(topology_of([WATER_RESIDUE]), mesh_model(method="auto", k_cutoff=3.14), "python")
