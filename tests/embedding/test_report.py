from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import openmm
import pytest
from openmm import app

from openmm_les import create_mixed_system
from openmm_les.embedding.report import COLUMNS, MixedEnergies, MixedEnergyReporter
from tests.embedding.conftest import solvate
from tests.engine.builders import KJ, ROUTES_HERE, energy_of, make_context


def embedded(solvated, model, route="python", **options):
    return create_mixed_system(
        solvated.topology,
        solvated.mm_system,
        solvated.peptide,
        model,
        "electrostatic",
        route=route,
        precision="double",
        **options,
    )


@pytest.mark.parametrize("route", ROUTES_HERE)
@pytest.mark.parametrize("shape", ["triclinic", "isolated"])
def test_terms_are_what_they_say(shape, route, model):
    solvated = solvate(shape)
    system = embedded(solvated, model, route)
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            force.setUseDispersionCorrection(False)
    context = make_context(system, solvated.positions)
    terms = MixedEnergies(system).terms(context)
    numbers = np.array([a.element.atomic_number for a in solvated.topology.atoms()])[solvated.peptide]
    cell = None if solvated.box is None else 10 * solvated.box
    alone = model.evaluate(10 * solvated.positions[solvated.peptide], numbers, cell)
    assert terms.short_range == pytest.approx(alone.energy_short_range * KJ, rel=1e-9)
    assert terms.latent == pytest.approx(alone.energy_long_range * KJ, rel=1e-6, abs=1e-6)
    total = terms.mm + terms.short_range + terms.latent + terms.electrostatics + terms.lennard_jones
    assert total == pytest.approx(energy_of(context), rel=1e-12)
    context.setParameter("lambda_electrostatics", 0.25)
    change = energy_of(context) - total
    assert change == pytest.approx(-0.75 * terms.electrostatics, rel=1e-6)
    fewer = MixedEnergies(system).terms(context)
    assert fewer.electrostatics == pytest.approx(terms.electrostatics, rel=1e-9)
    assert fewer.mm == pytest.approx(terms.mm, abs=1e-5)
    # Lennard-Jones over the border: what depths of zero on the ML side take away.
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            for i in solvated.peptide:
                charge, sigma, _ = force.getParticleParameters(i)
                force.setParticleParameters(i, charge, sigma, 0.0)
    bare = make_context(system, solvated.positions)
    bare.setParameter("lambda_electrostatics", 0.25)
    assert MixedEnergies(system).terms(bare).lennard_jones == 0.0
    assert terms.lennard_jones == pytest.approx(energy_of(context) - energy_of(bare), abs=1e-3)


def test_no_number_where_another_force_may_hold_cores(model):
    """As with CHARMM36, whose Lennard-Jones terms stand in a CustomNonbondedForce."""
    solvated = solvate("isolated")
    plain = MixedEnergies(embedded(solvated, model)).terms(
        make_context(embedded(solvated, model), solvated.positions)
    )
    custom = openmm.CustomNonbondedForce("0")
    for _ in range(solvated.mm_system.getNumParticles()):
        custom.addParticle([])
    mm_system = openmm.XmlSerializer.clone(solvated.mm_system)
    mm_system.addForce(custom)
    nonbonded = next(f for f in mm_system.getForces() if isinstance(f, openmm.NonbondedForce))
    for k in range(nonbonded.getNumExceptions()):
        custom.addExclusion(*nonbonded.getExceptionParameters(k)[:2])
    system = embedded(replace(solvated, mm_system=mm_system), model)
    terms = MixedEnergies(system).terms(make_context(system, solvated.positions))
    assert np.isnan(terms.lennard_jones) and np.isnan(terms.closest)
    assert terms.mm == pytest.approx(plain.mm + plain.lennard_jones, abs=1e-3)


def test_the_closest_bare_charge(model):
    solvated = solvate("cubic")
    system = embedded(solvated, model)
    hydrogens = [
        atom.index
        for atom in solvated.topology.atoms()
        if atom.residue.name == "HOH" and atom.element.symbol == "H"
    ]
    vectors = solvated.positions[solvated.peptide][:, None] - solvated.positions[hydrogens]
    vectors -= np.round(vectors / 1.9) * 1.9
    context = make_context(system, solvated.positions)
    expected = np.linalg.norm(vectors, axis=-1).min()
    assert MixedEnergies(system).terms(context).closest == pytest.approx(expected, rel=1e-6)


def test_the_reporter_writes_rows(model, tmp_path):
    solvated = solvate("isolated")
    simulation = app.Simulation(
        solvated.topology,
        embedded(solvated, model),
        openmm.VerletIntegrator(0.0001),
        openmm.Platform.getPlatformByName("Reference"),
    )
    simulation.context.setPositions(solvated.positions)
    reporter = MixedEnergyReporter(tmp_path / "terms.csv", 2)
    simulation.reporters.append(reporter)
    simulation.step(5)
    reporter.close()
    with open(tmp_path / "terms.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4"]
    assert list(rows[0]) == ["step", "time (ps)", *COLUMNS]
    assert np.isfinite([float(row["ML-MM electrostatics (kJ/mol)"]) for row in rows]).all()
    with pytest.raises(ValueError, match="`interval` must be at least 1"):
        MixedEnergyReporter(tmp_path / "other.csv", 0)


def test_other_systems_have_no_such_terms(solvated, model):
    mechanical = create_mixed_system(
        solvated.topology, solvated.mm_system, solvated.peptide, model, route="python"
    )
    with pytest.raises(ValueError, match="not embedded electrostatically"):
        MixedEnergies(mechanical)
    with pytest.raises(ValueError, match="one LES force"):
        MixedEnergies(solvated.mm_system)
