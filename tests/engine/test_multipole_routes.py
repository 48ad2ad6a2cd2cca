"""Latent dipoles and polarizabilities in Systems that OpenMM runs, by every route."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
from openmm import app, unit

from openmm_les.electrostatics import LatentCoulomb
from openmm_les.engine.reporters import DipoleReporter
from openmm_les.engine.system import create_system
from openmm_les.records import read_record
from openmm_les.units import ANGSTROM_PER_NM, KJ_PER_MOL_PER_EV
from tests.builders import multipole_model
from tests.engine.builders import (
    BOXES,
    ELEMENTS,
    FORMAMIDE_RESIDUE,
    ROUTES_HERE,
    WATER_RESIDUE,
    energy_of,
    forces_of,
    topology_of,
    water_and_formamide,
)

MODEL = multipole_model(
    electrostatics=LatentCoulomb(tolerance=1e-8), elements=ELEMENTS, n_layers=1, quadrupoles=True,
    polarizability="tensor",
)  # fmt: skip


@pytest.mark.parametrize("route", ROUTES_HERE)
def test_a_context_gives_the_models_energy_forces_and_dipole(route, tmp_path):
    box = BOXES["triclinic"]
    topology = topology_of([WATER_RESIDUE, FORMAMIDE_RESIDUE], box)
    system = create_system(topology, MODEL, route=route, precision="double")
    system = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    platform = openmm.Platform.getPlatform("Reference")
    simulation = app.Simulation(topology, system, openmm.VerletIntegrator(1e-5), platform)
    positions, numbers, molecules = water_and_formamide()
    simulation.context.setPositions(positions)
    exact = MODEL.evaluate(
        positions * ANGSTROM_PER_NM, np.array(numbers), box * ANGSTROM_PER_NM, molecules=np.array(molecules)
    )
    assert energy_of(simulation.context) == pytest.approx(exact.energy * KJ_PER_MOL_PER_EV, abs=1e-6)
    scale = KJ_PER_MOL_PER_EV * ANGSTROM_PER_NM
    np.testing.assert_allclose(forces_of(simulation.context), exact.forces * scale, atol=1e-5)
    simulation.reporters.append(DipoleReporter(tmp_path / "dipole.h5", 1))
    simulation.step(1)
    state = simulation.context.getState(getPositions=True)
    moved = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    found = MODEL.evaluate(moved, np.array(numbers), box * ANGSTROM_PER_NM, molecules=np.array(molecules))
    dipole = read_record(tmp_path / "dipole.h5", "observables/dipole").value[0]
    np.testing.assert_allclose(dipole, found.charges @ moved + found.dipoles.sum(0), atol=1e-5)
    assert np.linalg.norm(found.dipoles.sum(0)) > 1e-2
