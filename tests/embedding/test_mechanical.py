from __future__ import annotations

from dataclasses import replace

import numpy as np
import openmm
import pytest
from openmm import app, unit

from openmm_les import create_mixed_system
from openmm_les.embedding.mechanical import images_of_region, is_periodic, remove_internal_terms
from openmm_les.embedding.regions import Region, find_region
from openmm_les.engine.connectivity import CONNECTIVITY_NAME
from openmm_les.engine.files import system_from_xml
from openmm_les.exceptions import EmbeddingError
from openmm_les.models.heads import NoCharges
from tests.embedding.conftest import create_mm_system
from tests.engine.builders import (
    KJ,
    ROUTES_HERE,
    energy_of,
    forces_of,
    make_context,
    quiet_model,
)

# Names of residues in the region and how many of each. Peptide and waters lie farther apart than
# half the box.
REGIONS = {
    "peptide": (("ACE", "ALA", "NME"), None),
    "cation": (("NA",), 1),
    "peptide and water": (("ACE", "ALA", "NME", "HOH"), 3),
}


def without_internal_terms(solvated, atoms):
    region = find_region(solvated.topology, solvated.mm_system, atoms, quiet_model())
    return remove_internal_terms(solvated.mm_system, region)


def system_of_the_region(solvated, atoms):
    """The region alone, in the same box, by the force field."""
    modeller = app.Modeller(solvated.topology, solvated.positions * unit.nanometer)
    chosen = set(atoms)
    modeller.delete([atom for atom in modeller.topology.atoms() if atom.index not in chosen])
    return create_mm_system(modeller.topology)


def plain(system):
    """Same system without the tail correction, which is an average over all atoms."""
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            force.setUseDispersionCorrection(False)
    return system


@pytest.mark.parametrize("region", REGIONS)
def test_what_is_left_is_the_force_field_less_its_terms_in_the_region(anywhere, region, model):
    names, count = REGIONS[region]
    atoms = anywhere.atoms_of(*names, count=count)
    if not atoms:
        pytest.skip("this cluster has no ion")
    whole = make_context(
        plain(system_from_xml(openmm.XmlSerializer.serialize(anywhere.mm_system))), anywhere.positions
    )
    inner = make_context(plain(system_of_the_region(anywhere, atoms)), anywhere.positions[atoms])
    parts = (anywhere.topology, anywhere.mm_system, atoms, model)
    left = make_context(plain(create_mixed_system(*parts, route="python")), anywhere.positions)
    left.setParameter("lambda_interpolate", 0.0)
    expected = energy_of(whole) - energy_of(inner)
    assert energy_of(left) == pytest.approx(expected, rel=1e-5, abs=0.01)
    expected_forces = forces_of(whole)
    expected_forces[atoms] -= forces_of(inner)
    np.testing.assert_allclose(forces_of(left), expected_forces, atol=1e-5 * np.abs(expected_forces).max())


def test_images_are_those_of_a_charged_region(solvated):
    # An ion's interaction with its own images is a hundred kJ/mol in such a box.
    ion = solvated.atoms_of("NA", count=1)
    assert images_of_region(solvated.mm_system, ion, quiet_model()) == [1.0]
    alone = make_context(system_of_the_region(solvated, ion), solvated.positions[ion])
    assert energy_of(alone) < -50.0
    without = create_mm_system(solvated.topology, nonbondedMethod=app.NoCutoff)
    assert images_of_region(without, ion, quiet_model()) is None
    # A model without charges has no images to put in their place.
    short = quiet_model()
    short.charge_head = NoCharges()
    assert images_of_region(solvated.mm_system, ion, short) is None
    twice = system_from_xml(openmm.XmlSerializer.serialize(solvated.mm_system))
    [first] = [f for f in twice.getForces() if isinstance(f, openmm.NonbondedForce)]
    twice.addForce(openmm.NonbondedForce(first))
    with pytest.raises(EmbeddingError, match="2 NonbondedForces of the system sum the periodic images"):
        images_of_region(twice, ion, quiet_model())


def test_an_uncharged_region_has_no_images(solvated):
    system = system_from_xml(openmm.XmlSerializer.serialize(solvated.mm_system))
    nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    water = solvated.atoms_of("HOH", count=1)
    for i in water:
        nonbonded.setParticleParameters(i, 0.0, *nonbonded.getParticleParameters(i)[1:])
    assert images_of_region(system, water, quiet_model()) is None
    charges = images_of_region(solvated.mm_system, water, quiet_model())
    assert sum(charges) == pytest.approx(0.0, abs=1e-9)


def test_a_restraint_over_periodic_distances_makes_no_box(solvated, model):
    """OpenMM then says that the system is periodic; a droplet in it has no images all the same."""
    droplet = create_mm_system(solvated.topology, nonbondedMethod=app.NoCutoff)
    restraint = openmm.CustomExternalForce("periodicdistance(x, y, z, 0, 0, 0)^2")
    restraint.addParticle(0)
    droplet.addForce(restraint)
    assert droplet.usesPeriodicBoundaryConditions() and not is_periodic(droplet)
    assert is_periodic(solvated.mm_system)
    mixed = create_mixed_system(solvated.topology, droplet, solvated.peptide, model, route="python")
    [force] = [f for f in mixed.getForces() if f.getName() == "LES"]
    assert not force.usesPeriodicBoundaryConditions()


def test_biases_on_the_region_do_not_go_in_silence(solvated, model):
    biased = system_from_xml(openmm.XmlSerializer.serialize(solvated.mm_system))
    umbrella = openmm.CustomTorsionForce("0.5*umbrella*(theta-1)^2")
    umbrella.addGlobalParameter("umbrella", 10.0)
    umbrella.addTorsion(*solvated.peptide[:4], [])
    biased.addForce(umbrella)
    with pytest.warns(UserWarning, match="1 terms of a CustomTorsionForce within the ML region .* be added"):
        without_internal_terms(replace(solvated, mm_system=biased), solvated.peptide)


def test_terms_and_constraints_of_the_region_go_and_no_others(solvated):
    before = openmm.XmlSerializer.serialize(solvated.mm_system)
    system = without_internal_terms(solvated, solvated.peptide)
    assert openmm.XmlSerializer.serialize(solvated.mm_system) == before
    chosen = set(solvated.peptide)
    constraints = [set(system.getConstraintParameters(k)[:2]) for k in range(system.getNumConstraints())]
    assert all(not pair & chosen for pair in constraints)
    waters = len(solvated.atoms_of("HOH")) // 3
    assert len(constraints) == 3 * waters
    counts = {}
    for force in system.getForces():
        for kind in ("Bonds", "Angles", "Torsions"):
            if hasattr(force, f"getNum{kind}"):
                counts[force.getName()] = getattr(force, f"getNum{kind}")()
    # All bonded terms were the peptide's: rigid water has none.
    assert counts == {
        "HarmonicBondForce": 0,
        "HarmonicAngleForce": 0,
        "PeriodicTorsionForce": 0,
        CONNECTIVITY_NAME: 21,
    }


def test_bonded_forces_of_every_kind_are_split():
    system = openmm.System()
    for _ in range(12):
        system.addParticle(12.0)
    kinds = {
        openmm.RBTorsionForce(): ("addTorsion", 4, [1.0] * 6),
        openmm.CustomBondForce("r"): ("addBond", 2, []),
        openmm.CustomAngleForce("theta"): ("addAngle", 3, []),
        openmm.CustomTorsionForce("theta"): ("addTorsion", 4, []),
        openmm.CustomCompoundBondForce(3, "distance(p1, p3)"): ("addBond", 3, None),
    }
    cmap = openmm.CMAPTorsionForce()
    cmap.addMap(3, [0.0] * 9)
    for force, (add, n, parameters) in kinds.items():
        for first in (0, 5, 3):  # inside, outside, across
            particles = list(range(first, first + n))
            if parameters is None:
                force.addBond(particles, [])
            else:
                arguments = parameters if isinstance(force, openmm.RBTorsionForce) else [parameters]
                getattr(force, add)(*particles, *arguments)
        system.addForce(force)
    for first in (0, 4, 2):
        cmap.addTorsion(0, *range(first, first + 4), *range(first + 1, first + 5))
    system.addForce(cmap)
    pairwise = openmm.CustomNonbondedForce("1/r")
    for _ in range(12):
        pairwise.addParticle([])
    pairwise.addExclusion(1, 0)
    system.addForce(pairwise)

    region = Region(list(range(5)), [6] * 5, [(0, 1)], [0] * 5, [0.0])
    left = remove_internal_terms(system, region)
    split = {force.getName(): force for force in left.getForces()}
    assert split["RBTorsionForce"].getTorsionParameters(0)[:4] == [5, 6, 7, 8]
    assert split["CustomCompoundBondForce"].getBondParameters(0)[0] == (5, 6, 7)
    assert split["CustomAngleForce"].getAngleParameters(0)[:3] == [5, 6, 7]
    assert split["CMAPTorsionForce"].getTorsionParameters(0)[1:] == [4, 5, 6, 7, 5, 6, 7, 8]
    for name in ("RBTorsionForce", "CustomTorsionForce", "CMAPTorsionForce"):
        assert split[name].getNumTorsions() == 2
    assert split["CustomAngleForce"].getNumAngles() == 2
    assert split["CustomCompoundBondForce"].getNumBonds() == 2
    assert split["CustomBondForce"].getNumBonds() == 1  # the one across, 3-4, lies inside
    pairs = {tuple(sorted(split["CustomNonbondedForce"].getExclusionParticles(k))) for k in range(10)}
    assert split["CustomNonbondedForce"].getNumExclusions() == len(pairs) == 10


@pytest.mark.parametrize(
    "force, message",
    [
        (openmm.GBSAOBCForce(), "GBSAOBCForce cannot be split"),
        (openmm.CustomGBForce(), "CustomGBForce cannot be split"),
        (openmm.AmoebaMultipoleForce(), "AmoebaMultipoleForce cannot be split"),
    ],
)
def test_forces_without_separate_terms_are_refused(force, message):
    system = openmm.System()
    system.addForce(force)
    region = Region([0], [6], [], [0], [0.0])
    with pytest.raises(EmbeddingError, match=message):
        remove_internal_terms(system, region)


def test_exceptions_that_depend_on_a_parameter_are_refused(solvated, model):
    system = openmm.XmlSerializer.clone(solvated.mm_system)
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    inside = next(
        k
        for k in range(force.getNumExceptions())
        if set(force.getExceptionParameters(k)[:2]) <= set(solvated.peptide)
        and force.getExceptionParameters(k)[4]._value > 0.0
    )
    force.addGlobalParameter("softened", 0.0)
    force.addExceptionParameterOffset("softened", inside, 0.1, 0.0, 0.0)
    with pytest.raises(
        EmbeddingError, match="exceptions of ML atoms depend on the global parameter 'softened'"
    ):
        create_mixed_system(solvated.topology, system, solvated.peptide, model)


def test_charges_that_depend_on_a_parameter_are_refused(solvated):
    system = system_from_xml(openmm.XmlSerializer.serialize(solvated.mm_system))
    nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    nonbonded.addGlobalParameter("scale", 0.0)
    nonbonded.addParticleParameterOffset("scale", solvated.peptide[2], 1.0, 0.0, 0.0)
    region = find_region(solvated.topology, system, solvated.peptide, quiet_model())
    with pytest.raises(EmbeddingError, match="depend on the global parameter 'scale'"):
        remove_internal_terms(system, region)


@pytest.fixture(scope="module", params=ROUTES_HERE)
def mixed(request, anywhere, model):
    """Peptide as ML region, in double, and a context of it; not to be changed."""
    system = create_mixed_system(
        anywhere.topology,
        anywhere.mm_system,
        anywhere.peptide,
        model,
        route=request.param,
        precision="double",
    )
    return anywhere, system, make_context(system, anywhere.positions)


def test_the_model_adds_its_energy_and_nothing_else(mixed, model):
    solvated, _, context = mixed
    context.setPositions(solvated.positions)
    full, full_forces = energy_of(context), forces_of(context)
    context.setParameter("lambda_interpolate", 0.0)
    rest, rest_forces = energy_of(context), forces_of(context)
    context.setParameter("lambda_interpolate", 0.25)
    quarter = energy_of(context)
    context.setParameter("lambda_interpolate", 1.0)
    atoms = solvated.peptide
    numbers = np.array([atom.element.atomic_number for atom in solvated.topology.atoms()])[atoms]
    cell = None if solvated.box is None else 10 * solvated.box
    expected = model.evaluate(10 * solvated.positions[atoms], numbers, cell)
    assert full - rest == pytest.approx(expected.energy * KJ, rel=1e-9)
    assert quarter - rest == pytest.approx(0.25 * expected.energy * KJ, rel=1e-9)
    ml_forces = np.zeros_like(full_forces)
    ml_forces[atoms] = expected.forces * 10 * KJ
    np.testing.assert_allclose(full_forces - rest_forces, ml_forces, atol=1e-5)


def test_the_system_survives_xml(mixed):
    solvated, system, context = mixed
    context.setPositions(solvated.positions)
    copy = system_from_xml(openmm.XmlSerializer.serialize(system))
    assert energy_of(make_context(copy, solvated.positions)) == pytest.approx(energy_of(context), rel=1e-12)


def test_an_ml_atom_moved_by_a_box_vector_changes_nothing(mixed):
    solvated, _, context = mixed
    if solvated.box is None:
        pytest.skip("isolated: there are no images")
    context.setPositions(solvated.positions)
    energy = energy_of(context)
    moved = solvated.positions.copy()
    moved[solvated.peptide[4]] += solvated.box[1] - solvated.box[2]
    context.setPositions(moved)
    assert energy_of(context) == pytest.approx(energy, abs=1e-4)


def test_the_region_stays_whole_under_a_barostat(solvated, model):
    system = create_mixed_system(
        solvated.topology, solvated.mm_system, solvated.peptide, model, route="python"
    )
    barostat = openmm.MonteCarloBarostat(3000.0 * unit.bar, 300.0 * unit.kelvin, 1)
    integrator = openmm.LangevinMiddleIntegrator(300.0, 10.0, 0.0001)
    for source in (barostat, integrator):
        source.setRandomNumberSeed(3)
    system.addForce(barostat)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("CPU"))
    molecules = [set(molecule) for molecule in context.getMolecules()]
    assert set(solvated.peptide) in molecules
    context.setPositions(solvated.positions)
    context.setParameter("lambda_interpolate", 0.0)  # nothing but the bonds' record holds it together
    integrator.step(12)
    state = context.getState(getPositions=True)
    box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
    assert np.abs(box - solvated.box).max() > 1e-3
    after = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)[solvated.peptide]
    before = solvated.positions[solvated.peptide]
    extent = np.linalg.norm(after - after[0], axis=1) - np.linalg.norm(before - before[0], axis=1)
    # Scaled apart atom by atom it would have shrunk with the box; free atoms move far less in 1.2 fs.
    assert np.abs(extent).max() < 2e-3


def test_forces_keep_their_groups_and_settings(solvated, model):
    system = create_mixed_system(
        solvated.topology,
        solvated.mm_system,
        solvated.peptide,
        model,
        "mechanical",
        0,
        "python",
        force_group=7,
    )
    ml = next(f for f in system.getForces() if f.getName() == "LES")
    assert ml.getForceGroup() == 7
    assert system.getNumParticles() == solvated.mm_system.getNumParticles()
    masses = [system.getParticleMass(i) for i in range(system.getNumParticles())]
    assert masses == [solvated.mm_system.getParticleMass(i) for i in range(system.getNumParticles())]
    nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    original = next(f for f in solvated.mm_system.getForces() if isinstance(f, openmm.NonbondedForce))
    i = solvated.peptide[0]
    assert nonbonded.getParticleParameters(i) == original.getParticleParameters(i)
    assert nonbonded.getExceptionsUsePeriodicBoundaryConditions()


def test_ewald_is_treated_as_pme_is(solvated, model):
    atoms = solvated.atoms_of("NA", count=1)
    energies = []
    for method in (app.Ewald, app.PME):
        mm_system = create_mm_system(solvated.topology, nonbondedMethod=method)
        system = create_mixed_system(solvated.topology, mm_system, atoms, model, route="python")
        energies.append(energy_of(make_context(system, solvated.positions)))
    assert energies[0] == pytest.approx(energies[1], abs=0.05)
