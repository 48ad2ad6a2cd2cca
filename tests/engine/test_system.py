from __future__ import annotations

import numpy as np
import openmm
import pytest
from openmm import unit

from openmm_les.engine.files import load_system, system_from_xml
from openmm_les.engine.system import create_system
from openmm_les.exceptions import UnknownElementError
from openmm_les.units import ANGSTROM_PER_NM, KJ_PER_MOL_PER_EV
from tests.engine.builders import (
    BOXES,
    FORMAMIDE_RESIDUE,
    ROUTES_HERE,
    WATER_RESIDUE,
    check_forces,
    energy_in_another_process,
    energy_of,
    evaluation,
    forces_of,
    make_context,
    quiet_model,
    topology_of,
    water_and_formamide,
)

POSITIONS, NUMBERS, MOLECULES = water_and_formamide()
RESIDUES = [WATER_RESIDUE, FORMAMIDE_RESIDUE]


@pytest.fixture(scope="module", params=BOXES)
def box(request):
    return BOXES[request.param]


@pytest.fixture(scope="module", params=ROUTES_HERE)
def route(request):
    return request.param


@pytest.fixture(scope="module")
def system(box, route):
    """All-ML system in double; not to be changed."""
    return create_system(topology_of(RESIDUES, box), quiet_model(), route, precision="double")


@pytest.fixture(scope="module")
def context(system):
    return make_context(system, POSITIONS)


def test_energy_and_forces_are_those_of_the_eager_model(context, box):
    context.setPositions(POSITIONS)
    cell = None if box is None else box * ANGSTROM_PER_NM
    expected = quiet_model().evaluate(POSITIONS * ANGSTROM_PER_NM, np.array(NUMBERS), cell)
    assert energy_of(context) == pytest.approx(expected.energy * KJ_PER_MOL_PER_EV, rel=1e-10)
    np.testing.assert_allclose(
        forces_of(context), expected.forces * KJ_PER_MOL_PER_EV * ANGSTROM_PER_NM, atol=1e-6
    )


def test_forces_are_the_derivative_of_the_energy_in_openmm(context):
    components = [(0, 0), (2, 1), (4, 2), (8, 0)]
    check_forces(evaluation(context), POSITIONS, components, 1e-5)


def test_lambda_interpolate_scales_the_energy(context):
    context.setPositions(POSITIONS)
    full = energy_of(context)
    context.setParameter("lambda_interpolate", 0.5)
    half = energy_of(context)
    context.setParameter("lambda_interpolate", 0.0)
    none = energy_of(context)
    context.setParameter("lambda_interpolate", 1.0)
    assert half == pytest.approx(0.5 * full, rel=1e-9)
    assert none == 0.0


def test_lying_atoms_and_nan_raise_instead_of_passing(context):
    positions = POSITIONS.copy()
    positions[1] = positions[0]
    context.setPositions(positions)
    with pytest.raises(openmm.OpenMMException, match="ML energy is not finite"):
        energy_of(context)
    positions[1] = np.nan
    context.setPositions(positions)
    with pytest.raises(openmm.OpenMMException, match=r"NaN|not finite"):
        energy_of(context)


def test_xml_round_trip(system):
    copy = system_from_xml(openmm.XmlSerializer.serialize(system))
    assert energy_of(make_context(copy, POSITIONS)) == energy_of(make_context(system, POSITIONS))


def test_a_saved_system_runs_in_another_process(route, tmp_path):
    box = BOXES["triclinic"]
    system = create_system(topology_of(RESIDUES, box), quiet_model(), route, precision="double")
    found = energy_in_another_process(system, POSITIONS, tmp_path)
    assert found == pytest.approx(energy_of(make_context(system, POSITIONS)), rel=1e-12)
    assert energy_of(make_context(load_system(tmp_path / "system.xml"), POSITIONS)) == found


def test_single_precision_on_the_cpu_platform(route):
    box = BOXES["cubic"]
    model = quiet_model()
    double = make_context(
        create_system(topology_of(RESIDUES, box), model, route, precision="double"), POSITIONS
    )
    single = make_context(create_system(topology_of(RESIDUES, box), model, route), POSITIONS, "CPU")
    assert energy_of(single) == pytest.approx(energy_of(double), abs=0.02)
    scale = np.abs(forces_of(double)).max()
    np.testing.assert_allclose(forces_of(single), forces_of(double), atol=3e-4 * scale)


@pytest.mark.skipif(len(ROUTES_HERE) < 2, reason="only one route is installed")
def test_both_routes_give_one_energy():
    topology = topology_of(RESIDUES, BOXES["triclinic"])
    contexts = [
        make_context(create_system(topology, quiet_model(), name, precision="double"), POSITIONS)
        for name in ROUTES_HERE
    ]
    energies = [energy_of(c) for c in contexts]
    assert energies[0] == pytest.approx(energies[1], rel=1e-9)
    np.testing.assert_allclose(forces_of(contexts[0]), forces_of(contexts[1]), atol=1e-7)


def test_a_box_of_water_runs_with_the_cell_list():
    side, spacing = 5, 0.31
    box = np.eye(3) * side * spacing
    corners = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3) * spacing
    water, _, _ = water_and_formamide()
    positions = (corners[:, None] + water[None, :3]).reshape(-1, 3)
    topology = topology_of([WATER_RESIDUE] * side**3, box)
    system = create_system(topology, quiet_model(), precision="double")
    context = make_context(system, positions, "CPU")
    check_forces(evaluation(context), positions, [(0, 0), (200, 2)], 1e-4)


def test_what_a_system_is_made_of():
    topology = topology_of(RESIDUES, BOXES["triclinic"])
    system = create_system(topology, quiet_model(), "python")
    names = [force.getName() for force in system.getForces()]
    assert names == ["LES", "ML connectivity", "CMMotionRemover"]
    masses = [system.getParticleMass(i)._value for i in range(9)]
    assert masses == [atom.element.mass._value for atom in topology.atoms()]
    assert system.getNumConstraints() == 0
    assert system.usesPeriodicBoundaryConditions()
    np.testing.assert_allclose(
        [v.value_in_unit(unit.nanometer) for v in system.getDefaultPeriodicBoxVectors()], BOXES["triclinic"]
    )
    free = create_system(topology_of(RESIDUES), quiet_model(), "python", remove_cm_motion=False)
    assert [force.getName() for force in free.getForces()] == ["LES"]
    assert not free.usesPeriodicBoundaryConditions()


def test_charges_reach_the_model():
    topology = topology_of([("NA", [11], []), WATER_RESIDUE])
    positions = np.concatenate([[[0.4, 0.0, 0.0]], POSITIONS[:3]])
    energies = []
    for charges in (1, [1.0, 0.0]):
        system = create_system(topology, quiet_model(), "python", total_charge=charges, precision="double")
        energies.append(energy_of(make_context(system, positions)))
    expected = quiet_model().evaluate(positions * 10, np.array([11, 8, 1, 1]), total_charge=[1.0, 0.0])
    assert energies[0] == energies[1] == pytest.approx(expected.energy * KJ_PER_MOL_PER_EV, rel=1e-10)


def test_molecules_may_be_given_for_a_topology_without_bonds():
    name, numbers, _ = FORMAMIDE_RESIDUE
    topology = topology_of([(name, numbers, [])])
    with pytest.raises(ValueError, match=r"no bond to C0 of FOR 1 \(index 0\), a C atom"):
        create_system(topology, quiet_model(), "python")
    system = create_system(
        topology, quiet_model(), "python", molecules=[0] * 6, total_charge=[0.0], precision="double"
    )
    bonded = create_system(topology_of([FORMAMIDE_RESIDUE]), quiet_model(), "python", precision="double")
    positions = POSITIONS[3:]
    assert energy_of(make_context(system, positions)) == energy_of(make_context(bonded, positions))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"route": "fast"}, "`route` must be one of auto, torchforce, python, got 'fast'"),
        ({"precision": "mixed"}, "`precision` must be one of single, double, got 'mixed'"),
        ({"total_charge": 1}, r"`total_charge` \+1 cannot be shared among 2 molecules"),
        ({"total_charge": [0, 0, 0]}, "one number or one per molecule"),
        ({"molecules": [0, 1]}, "`molecules` must be 9 indices from 0"),
        ({"molecules": [0.5] * 9}, "`molecules` must be 9 indices from 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_system(topology_of(RESIDUES), quiet_model(), **{"route": "python", **arguments})


def test_empty_topologies_and_unknown_elements():
    with pytest.raises(ValueError, match="`topology` has no atoms"):
        create_system(topology_of([]), quiet_model())
    with pytest.raises(UnknownElementError, match="does not know Fe"):
        create_system(topology_of([("FE", [26], [])]), quiet_model())
    topology = topology_of([WATER_RESIDUE])
    topology.addAtom("M", None, next(topology.residues()))
    with pytest.raises(UnknownElementError, match=r"atom M of HOH 1 \(index 3\) has no element"):
        create_system(topology, quiet_model())
