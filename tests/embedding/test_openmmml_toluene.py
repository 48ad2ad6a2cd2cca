"""openmm-ml's own case of mechanical embedding, toluene in water, with a published MACE-LES model."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
from openmm import app, unit
from openmmml import MLPotential
from openmmml.mlpotential import MLPotentialImpl

from openmm_les.embedding.mixed import create_mixed_system
from openmm_les.exceptions import LicenseWarning
from openmm_les.units import ANGSTROM_PER_NM, KJ_PER_MOL_PER_EV
from tests.engine.builders import energy_of

ML_ATOMS = list(range(15))
NEW = hasattr(MLPotentialImpl, "getMLLongRange")

pytestmark = pytest.mark.filterwarnings("ignore:this model cuts its Coulomb sum sharply")


@pytest.fixture(scope="module")
def toluene(shared_data):
    prmtop = app.AmberPrmtopFile(str(shared_data / "systems" / "toluene-explicit.prm7"))
    inpcrd = app.AmberInpcrdFile(str(shared_data / "systems" / "toluene-explicit.rst7"))
    prmtop.topology.setPeriodicBoxVectors(inpcrd.boxVectors)
    mm_system = prmtop.createSystem(nonbondedMethod=app.PME, constraints=app.HBonds)
    return prmtop.topology, mm_system, inpcrd


@pytest.fixture(scope="module")
def potential(shared_data):
    path = shared_data / "models" / "maceles-dipeptides-r4.5.model"
    with pytest.warns(LicenseWarning):
        return MLPotential("les", modelPath=str(path), route="python", precision="double")


def context_of(system, toluene):
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("CPU"))
    context.setPeriodicBoxVectors(*toluene[2].boxVectors)
    context.setPositions(toluene[2].positions)
    return context


def test_mixed_system(toluene, potential):
    topology, mm_system, inpcrd = toluene
    mixed = context_of(potential.createMixedSystem(topology, mm_system, ML_ATOMS), toluene)
    model = potential._impl.model
    ours = create_mixed_system(topology, mm_system, ML_ATOMS, model, route="python", precision="double")
    context = context_of(ours, toluene)
    # Two Contexts on the CPU platform sum in different orders, in single precision.
    assert energy_of(mixed) == pytest.approx(energy_of(context), rel=1e-5)
    own = energy_of(context)
    context.setParameter("lambda_interpolate", 0.0)
    own -= energy_of(context)
    positions = inpcrd.getPositions(asNumpy=True).value_in_unit(unit.nanometer)[ML_ATOMS]
    numbers = [atom.element.atomic_number for atom in topology.atoms()][:15]
    cell = np.array(inpcrd.boxVectors.value_in_unit(unit.nanometer)) * ANGSTROM_PER_NM
    expected = model.evaluate(positions * ANGSTROM_PER_NM, numbers, cell, total_charge=[0.0])
    assert own == pytest.approx(expected.energy * KJ_PER_MOL_PER_EV, abs=0.5)


@pytest.mark.skipif(not NEW, reason="openmm-ml 1.7 cannot interpolate models with images of their own")
def test_interpolation_between_force_field_and_model(toluene, potential):
    topology, mm_system, _ = toluene
    mm_energy = energy_of(context_of(mm_system, toluene))
    mixed = context_of(potential.createMixedSystem(topology, mm_system, ML_ATOMS), toluene)
    with pytest.warns(UserWarning, match="8 bonds of the ML region are constraints"):
        system = potential.createMixedSystem(topology, mm_system, ML_ATOMS, interpolate=True)
    context = context_of(system, toluene)
    assert energy_of(context) == pytest.approx(energy_of(mixed), rel=1e-5)
    context.setParameter("lambda_interpolate", 0.0)
    assert energy_of(context) == pytest.approx(mm_energy, rel=1e-5)
    context.setParameter("lambda_interpolate", 0.5)
    assert energy_of(context) == pytest.approx(0.5 * (mm_energy + energy_of(mixed)), rel=1e-5)


def test_constraints_within_the_region_go_and_groups_are_kept(toluene, potential):
    topology, _, _ = toluene
    system = potential.createMixedSystem(topology, toluene[1], ML_ATOMS, forceGroup=5)
    pairs = [set(system.getConstraintParameters(k)[:2]) for k in range(system.getNumConstraints())]
    assert not any(pair <= set(ML_ATOMS) for pair in pairs) and pairs
    ml = [force for force in system.getForces() if force.getForceGroup() == 5]
    assert [force.getName() for force in ml] == ["LES"]
