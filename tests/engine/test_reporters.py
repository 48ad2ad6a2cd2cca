"""Reporters in running simulations: right numbers, reuse, continuation, and silence between reports."""

from __future__ import annotations

import functools

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from openmm_les.engine.files import system_from_xml
from openmm_les.engine.force_reader import MLForceReader
from openmm_les.engine.reporters import (
    DipoleReporter,
    EnergyTermReporter,
    LatentChargeReporter,
    NoveltyReporter,
)
from openmm_les.engine.system import create_system
from openmm_les.models.domain import FeatureDomain
from openmm_les.records import read_record, record_attributes
from tests.builders import make_graph
from tests.engine.builders import (
    BOXES,
    FORMAMIDE_RESIDUE,
    ROUTES_HERE,
    WATER_RESIDUE,
    quiet_model,
    topology_of,
    water_and_formamide,
)

MOLECULES = [WATER_RESIDUE, FORMAMIDE_RESIDUE]


@functools.cache
def system_xml(route: str, box: str) -> str:
    """A water beside a formamide, all ML, in double; made once, because its checks take seconds."""
    topology = topology_of(MOLECULES, BOXES[box])
    system = create_system(topology, quiet_model(), route=route, precision="double")
    return openmm.XmlSerializer.serialize(system)


def simulation_of(route: str, box: str = "isolated", seed: int = 3) -> app.Simulation:
    """The system of `system_xml` at 100 K."""
    topology = topology_of(MOLECULES, BOXES[box])
    system = system_from_xml(system_xml(route, box))
    integrator = openmm.LangevinMiddleIntegrator(100, 1, 0.2 * unit.femtosecond)
    integrator.setRandomNumberSeed(seed)
    simulation = app.Simulation(topology, system, integrator, openmm.Platform.getPlatform("Reference"))
    simulation.context.setPositions(water_and_formamide()[0])
    return simulation


def positions_of(simulation: app.Simulation) -> np.ndarray:
    """Positions in Å."""
    state = simulation.context.getState(getPositions=True)
    return state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)


def evaluated(positions: np.ndarray, box: np.ndarray | None):
    """What the model itself says of positions in Å, molecules as in the topology."""
    _, numbers, molecules = water_and_formamide()
    cell = None if box is None else 10 * box
    return quiet_model().evaluate(positions, np.array(numbers), cell, 0, np.array(molecules))


@pytest.mark.parametrize(
    ("route", "box"), [*((route, "triclinic") for route in ROUTES_HERE), (ROUTES_HERE[-1], "isolated")]
)
def test_reports_are_what_the_model_says(route, box, tmp_path):
    simulation = simulation_of(route, box)
    paths = [tmp_path / name for name in ("charge.h5", "dipole.h5", "energy.h5")]
    simulation.reporters += [
        LatentChargeReporter(paths[0], 4, positions=True),
        DipoleReporter(paths[1], 4),
        EnergyTermReporter(paths[2], 4),
    ]
    simulation.step(8)
    positions = positions_of(simulation)
    exact = evaluated(positions, BOXES[box])
    charges = read_record(paths[0], "particles/ml/charge")
    assert charges.step.tolist() == [4, 8]
    np.testing.assert_allclose(charges.time, [0.0008, 0.0016])
    np.testing.assert_allclose(charges.value[-1], exact.latent_charges, atol=1e-6)
    assert record_attributes(paths[0])["indices"].tolist() == list(range(9))
    written = read_record(paths[0], "particles/ml/position")
    np.testing.assert_allclose(written.value[-1], positions / 10, atol=1e-6)
    dipole = read_record(paths[1], "observables/dipole").value[-1]
    np.testing.assert_allclose(dipole, exact.latent_charges @ positions, atol=1e-5)
    short, long, total = (
        read_record(paths[2], f"observables/{name}").value[-1]
        for name in ("energy_short_range", "energy_long_range", "potential_energy")
    )
    kj = 96.48533212331
    assert short == pytest.approx(kj * exact.energy_short_range, abs=1e-3)
    assert long == pytest.approx(kj * exact.energy_long_range, abs=1e-3)
    assert total == pytest.approx(short + long, abs=1e-6)


def test_the_dipole_of_torn_molecules_is_that_of_whole_ones(tmp_path):
    box = BOXES["triclinic"]
    positions = water_and_formamide()[0]
    torn = positions.copy()
    torn[2] += box[0] - box[1]
    torn[6] += box[2]
    dipoles = []
    for k, places in enumerate((positions, torn)):
        simulation = simulation_of(ROUTES_HERE[-1], "triclinic")
        simulation.context.setPositions(places)
        simulation.reporters.append(DipoleReporter(tmp_path / f"{k}.h5", 1))
        simulation.step(1)
        dipoles.append(read_record(tmp_path / f"{k}.h5", "observables/dipole").value[0])
        volume = read_record(tmp_path / f"{k}.h5", "observables/volume").value[0]
        assert volume == pytest.approx(1000 * np.linalg.det(box))
    np.testing.assert_allclose(dipoles[1], dipoles[0], atol=1e-4)


def test_the_dipole_stays_on_its_branch_under_a_barostat(tmp_path):
    """Which puts molecules back into the first box, with them the charge of an ammonium ion."""
    ammonium = ("NH4", [7, 1, 1, 1, 1], [(0, 1), (0, 2), (0, 3), (0, 4)])
    positions = 0.1 + 0.059 * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    topology = topology_of([WATER_RESIDUE, ammonium], BOXES["triclinic"])
    system = create_system(
        topology, quiet_model(), total_charge=1.0, route=ROUTES_HERE[-1], precision="double"
    )
    system.addForce(openmm.MonteCarloBarostat(1.0, 300.0))
    integrator = openmm.VerletIntegrator(1e-6)
    simulation = app.Simulation(topology, system, integrator, openmm.Platform.getPlatform("Reference"))
    places = np.concatenate([water_and_formamide()[0][:3] + 0.6, positions])
    simulation.reporters.append(DipoleReporter(tmp_path / "dipole.h5", 1))
    for image in (0.0, 1.0, -1.0):
        moved = places.copy()
        moved[3:] += image * BOXES["triclinic"][1]
        simulation.context.setPositions(moved)
        simulation.step(1)
    dipoles = read_record(tmp_path / "dipole.h5", "observables/dipole").value
    np.testing.assert_allclose(dipoles[1:], dipoles[:1].repeat(2, 0), atol=1e-4)


@pytest.mark.skipif("python" not in ROUTES_HERE, reason="needs PythonForce")
def test_an_evaluation_of_the_force_is_taken_up(tmp_path):
    simulation = simulation_of("python")
    reader = MLForceReader(simulation.system)
    calls = []

    class Spy(torch.nn.Module):
        """Stands in for the module that would evaluate anew."""

        def moments(self, *arguments):
            calls.append(arguments)
            return torch.zeros(9, dtype=torch.float64), torch.zeros(9, 3, dtype=torch.float64)

    fresh = reader.module
    simulation.context.getState(getEnergy=True)
    positions = water_and_formamide()[0]
    reader.module = Spy()
    taken = reader.charges(positions, None)
    assert not calls
    np.testing.assert_allclose(taken, evaluated(10 * positions, None).latent_charges, atol=1e-10)
    reader.charges(positions + 1e-4, None)
    assert len(calls) == 1
    # A force that was switched off has seen the positions and not looked at them.
    simulation.context.setParameter("lambda_interpolate", 0.0)
    simulation.context.getState(getEnergy=True)
    reader.charges(positions, None)
    assert len(calls) == 2
    reader.module = fresh
    np.testing.assert_allclose(reader.charges(positions, None), taken, atol=1e-12)


def test_a_file_is_continued(tmp_path):
    path = tmp_path / "dipole.h5"
    whole = simulation_of(ROUTES_HERE[-1])
    whole.reporters.append(DipoleReporter(tmp_path / "whole.h5", 2))
    whole.step(4)
    whole.saveCheckpoint(str(tmp_path / "at4.chk"))
    whole.step(6)

    killed = simulation_of(ROUTES_HERE[-1])
    killed.reporters.append(DipoleReporter(path, 2))
    killed.step(8)  # and lost: the checkpoint is at step 4
    killed.reporters[-1].close()
    resumed = simulation_of(ROUTES_HERE[-1])
    resumed.loadCheckpoint(str(tmp_path / "at4.chk"))
    resumed.reporters.append(DipoleReporter(path, 2, append=True))
    resumed.step(6)
    record, expected = (read_record(p, "observables/dipole") for p in (path, tmp_path / "whole.h5"))
    assert record.step.tolist() == expected.step.tolist() == [2, 4, 6, 8, 10]
    np.testing.assert_allclose(record.value, expected.value, atol=1e-9)


def test_nothing_is_computed_between_reports(tmp_path):
    simulation = simulation_of(ROUTES_HERE[-1])
    reporter = LatentChargeReporter(tmp_path / "charge.h5", 100)
    simulation.reporters.append(reporter)
    simulation.step(99)
    assert not (tmp_path / "charge.h5").exists()
    assert reporter.describeNextReport(simulation)["steps"] == 1


def test_what_cannot_be_reported_is_said(tmp_path):
    with pytest.raises(ValueError, match="`interval` must be at least 1, got 0"):
        DipoleReporter(tmp_path / "x.h5", 0)
    with pytest.raises(FileNotFoundError, match="no such file to continue"):
        DipoleReporter(tmp_path / "x.h5", 1, append=True)
    system = openmm.System()
    system.addForce(openmm.HarmonicBondForce())
    with pytest.raises(ValueError, match="one LES force, this one has 0"):
        MLForceReader(system)


@pytest.mark.parametrize("route", ROUTES_HERE)
def test_a_region_of_a_larger_system(route, tmp_path):
    from openmm_les import create_mixed_system

    topology = topology_of([WATER_RESIDUE, FORMAMIDE_RESIDUE])
    mm_system = openmm.System()
    nonbonded = openmm.NonbondedForce()
    for atom in topology.atoms():
        mm_system.addParticle(atom.element.mass)
        nonbonded.addParticle(0.0, 0.3, 0.1)
    mm_system.addForce(nonbonded)
    system = create_mixed_system(
        topology, mm_system, list(range(3, 9)), quiet_model(), embedding="mechanical", route=route,
        precision="double",
    )  # fmt: skip
    positions = water_and_formamide()[0]
    reader = MLForceReader(system)
    assert reader.atoms.tolist() == list(range(3, 9))
    alone = quiet_model().evaluate(10 * positions[3:], np.array(water_and_formamide()[1][3:]))
    np.testing.assert_allclose(reader.charges(positions, None), alone.latent_charges, atol=1e-9)


@pytest.mark.parametrize("route", ROUTES_HERE)
def test_novelty_is_what_the_model_says(route, tmp_path):
    model = quiet_model()
    model.domain = FeatureDomain(model.elements, model.backbone.n_features).double()
    torch.nn.init.normal_(model.domain.whitening, generator=torch.Generator().manual_seed(0))
    topology = topology_of(MOLECULES, None)
    system = create_system(topology, model, route=route, precision="double")
    integrator = openmm.VerletIntegrator(0.0002)
    simulation = app.Simulation(topology, system, integrator, openmm.Platform.getPlatform("Reference"))
    simulation.context.setPositions(water_and_formamide()[0])
    simulation.reporters.append(NoveltyReporter(tmp_path / "novelty.h5", 2))
    simulation.step(2)
    numbers = water_and_formamide()[1]
    graph = make_graph([positions_of(simulation)], [numbers], cutoff=model.cutoff)
    written = read_record(tmp_path / "novelty.h5", "particles/ml/novelty").value[-1]
    np.testing.assert_allclose(written, model.novelty(graph).detach(), rtol=1e-5)
    assert MLForceReader(system).knows_domain
