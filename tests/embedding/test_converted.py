"""A converted MACE-LES in OpenMM: whole systems and regions, by each route, through openmm-ml."""

from __future__ import annotations

import copy

import numpy as np
import openmm
import pytest
from openmmml import MLPotential

from openmm_les.embedding.mixed import create_mixed_system
from openmm_les.engine.files import system_from_xml
from openmm_les.engine.system import create_system
from openmm_les.exceptions import EmbeddingError, LicenseWarning
from openmm_les.models.adapters.convert import convert_mace
from openmm_les.units import ANGSTROM_PER_NM, KJ_PER_MOL_PER_EV
from tests.engine.builders import (
    ROUTES_HERE,
    energy_of,
    forces_of,
    make_context,
    numerical_forces,
    topology_of,
)
from tests.models.adapters.files import REFERENCES, unpack

ETHANOL = ("EOH", REFERENCES["maceles"]["molecule"]["numbers"], [])
BOX = ("BOX", REFERENCES["maceles"]["box"]["numbers"], [])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return unpack("maceles", tmp_path_factory.mktemp("mace"))


@pytest.fixture(scope="module")
def converted(path):
    return convert_mace(path)


pytestmark = pytest.mark.filterwarnings("ignore:this model cuts its Coulomb sum sharply")


@pytest.mark.parametrize("route", ROUTES_HERE)
@pytest.mark.parametrize(("structure", "precision"), [("molecule", "single"), ("box", "double")])
def test_numbers_of_the_original_in_openmm(converted, route, precision, structure):
    reference = REFERENCES["maceles"][structure]
    positions = np.array(reference["positions"]) / ANGSTROM_PER_NM
    box = None
    if reference["cell"] is not None:
        # OpenMM wants its reduced form: lattice and atoms turned alike.
        rows = np.linalg.qr(np.array(reference["cell"]).T)
        turn = rows.Q * np.sign(np.diag(rows.R))
        box = np.array(reference["cell"]) @ turn / ANGSTROM_PER_NM
        positions = positions @ turn
        # The original's sum to the last digit: on a GPU "auto" is always the mesh.
        converted = copy.deepcopy(converted)
        converted.electrostatics.method = "ewald"
    topology = topology_of([("ALL", reference["numbers"], [])], box)
    n = len(reference["numbers"])
    system = create_system(
        topology, converted, route, molecules=[0] * n, total_charge=[0.0], precision=precision
    )
    context = make_context(system_from_xml(openmm.XmlSerializer.serialize(system)), positions)
    tolerance = 1e-10 if precision == "double" else 1e-6
    energy = energy_of(context) / KJ_PER_MOL_PER_EV
    assert energy == pytest.approx(reference["energy"], abs=tolerance * n)
    forces = forces_of(context) / (KJ_PER_MOL_PER_EV * ANGSTROM_PER_NM)
    if box is not None:
        forces = forces @ turn.T
    np.testing.assert_allclose(forces, reference["forces"], atol=20 * tolerance)


@pytest.mark.parametrize("route", ROUTES_HERE)
def test_region_in_a_force_field(solvated, path, converted, route):
    atoms = solvated.atoms_of("HOH", count=2)
    parts = (solvated.topology, solvated.mm_system, atoms)
    ours = create_mixed_system(*parts, converted, route=route, precision="double")
    with pytest.warns(LicenseWarning):
        potential = MLPotential("les", modelPath=str(path), route=route, precision="double")
    theirs = potential.createMixedSystem(*parts)
    first, second = make_context(ours, solvated.positions), make_context(theirs, solvated.positions)
    assert energy_of(first) == pytest.approx(energy_of(second), abs=1e-6)
    # The region's own energy, by difference: images in a box of 19 Å are far.
    first.setParameter("lambda_interpolate", 0.0)
    own = energy_of(second) - energy_of(first)
    expected = converted.evaluate(
        solvated.positions[atoms] * ANGSTROM_PER_NM,
        np.array([8, 1, 1, 8, 1, 1]),
        solvated.box * ANGSTROM_PER_NM,
        molecules=np.array([0, 0, 0, 1, 1, 1]),
    )
    assert own == pytest.approx(expected.energy * KJ_PER_MOL_PER_EV, abs=1e-4)


@pytest.mark.parametrize("route", ROUTES_HERE)
def test_region_that_feels_its_surroundings(solvated, converted, route):
    atoms = solvated.atoms_of("HOH", count=1)
    system = create_mixed_system(
        solvated.topology,
        solvated.mm_system,
        atoms,
        converted,
        embedding="electrostatic",
        route=route,
        precision="double",
    )
    context = make_context(system, solvated.positions)
    forces = forces_of(context)

    def energy(positions):
        context.setPositions(positions)
        return energy_of(context)

    components = [(atoms[0], 0), (atoms[1], 2), (atoms[2], 1)]
    expected = numerical_forces(energy, solvated.positions, components)
    found = np.array([forces[i, k] for i, k in components])
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(forces[atoms]).max())


def test_models_without_charges_are_refused_where_charges_meet(solvated, tmp_path):
    plain = convert_mace(unpack("plain", tmp_path))
    atoms = solvated.atoms_of("HOH", count=1)
    with pytest.raises(EmbeddingError, match="no latent charges to meet the MM charges"):
        create_mixed_system(
            solvated.topology, solvated.mm_system, atoms, plain, embedding="electrostatic", route="python"
        )
