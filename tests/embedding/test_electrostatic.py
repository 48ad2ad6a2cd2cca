from __future__ import annotations

import copy
import random

import numpy as np
import openmm
import pytest
from openmm import app, unit

from openmm_les import create_mixed_system, create_system
from openmm_les.embedding.electrostatic import coupling_settings, find_surroundings
from openmm_les.embedding.regions import find_region
from openmm_les.engine.files import system_from_xml
from openmm_les.engine.routes import available_routes
from openmm_les.engine.surroundings import CouplingSettings
from openmm_les.exceptions import EmbeddingError, RouteError
from tests.embedding.conftest import create_mm_system, solvate
from tests.embedding.pinned import charges_of, nonbonded_only, part_of, pinned_model
from tests.engine.builders import (
    KJ,
    ROUTES_HERE,
    check_forces,
    energy_of,
    evaluation,
    forces_of,
    make_context,
    topology_of,
)

TIGHT = CouplingSettings(tolerance=1e-10)


def region_of(topology, system, atoms, periodic=True):
    """Pinned model of a region and what `create_mixed_system` needs to know of its charges."""
    charges = charges_of(system, atoms)
    model = pinned_model(charges, periodic=periodic)
    molecules = find_region(topology, system, atoms, model).molecules
    totals = np.bincount(molecules, weights=charges).tolist()
    return model, molecules, totals


def compare(topology, system, positions, atoms, coupling=TIGHT, platform="Reference", **options):
    """Energies and forces of the force field, and of the hybrid with the region's own terms put back."""
    periodic = system.usesPeriodicBoundaryConditions()
    model, molecules, totals = region_of(topology, system, atoms, periodic)
    box = None
    if periodic:
        box = np.array([v.value_in_unit(unit.angstrom) for v in system.getDefaultPeriodicBoxVectors()])
    hybrid = create_mixed_system(
        topology, system, atoms, model, "electrostatic", totals, coupling=coupling, **options
    )
    whole = make_context(system, positions, platform)
    inner = make_context(part_of(system, atoms), positions[atoms], "Reference")
    expected, expected_forces = energy_of(whole), forces_of(whole)
    every = np.array([0 if a.element is None else a.element.atomic_number for a in topology.atoms()])
    alone = model.evaluate(10 * positions[atoms], every[atoms], box, totals, np.array(molecules))
    context = make_context(hybrid, positions, platform)
    found = energy_of(context) - alone.energy * KJ + energy_of(inner)
    found_forces = forces_of(context)
    found_forces[atoms] += forces_of(inner) - alone.forces * 10 * KJ
    return (expected, expected_forces), (found, found_forces)


def check_same(expected, found, relative=1e-9, forces=1e-9):
    assert found[0] == pytest.approx(expected[0], rel=relative)
    assert np.abs(found[1] - expected[1]).max() < forces * np.abs(expected[1]).max()


REGIONS = {
    "peptide": (("ACE", "ALA", "NME"), None),
    "cation": (("NA",), 1),
    "peptide, anion and waters": (("ACE", "ALA", "NME", "CL", "HOH"), 1),
    "all water": (("HOH",), None),  # the roles swapped
}


@pytest.mark.parametrize(
    ("shape", "region"),
    [("cubic", name) for name in REGIONS if name != "all water"]
    + [("triclinic", name) for name in ("peptide", "cation")]
    + [("isolated", name) for name in ("peptide", "all water")],
)
def test_with_the_force_fields_charges_it_is_the_force_field(shape, region):
    """Charges pinned, σ → 0: nothing but the region's own terms tells hybrid and force field apart."""
    solvated = solvate(shape)
    names, count = REGIONS[region]
    atoms = sorted(solvated.atoms_of(*names, count=count))
    system = nonbonded_only(solvated.mm_system)
    expected, found = compare(
        solvated.topology, system, solvated.positions, atoms, route="python", precision="double"
    )
    # In tilted boxes OpenMM has no exact Ewald sum; its mesh of order 5 leaves 1e-8 or so.
    tolerance = 1e-7 if shape == "triclinic" else 1e-9
    check_same(expected, found, tolerance, tolerance)


@pytest.mark.parametrize("route", ROUTES_HERE)
def test_so_it_is_on_the_cpu_platform_with_pme_in_single_precision(route):
    solvated = solvate("cubic")
    system = nonbonded_only(solvated.mm_system, tolerance=None)
    expected, found = compare(
        solvated.topology,
        system,
        solvated.positions,
        solvated.peptide,
        CouplingSettings(tolerance=1e-5),
        "CPU",
        route=route,
    )
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    assert np.abs(found[1] - expected[1]).max() < 1e-4 * np.abs(expected[1]).max()


def test_virtual_sites_are_mm_charges():
    field = app.ForceField("amber14/tip4pew.xml")
    modeller = app.Modeller(app.Topology(), [])
    random.seed(2)  # which waters become ions
    modeller.addSolvent(
        field, "tip4pew", boxSize=openmm.Vec3(1.9, 1.9, 1.9) * unit.nanometer, ionicStrength=0.5 * unit.molar
    )
    full = field.createSystem(
        modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.7 * unit.nanometer
    )
    system = nonbonded_only(full)
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer))
    ion = [atom.index for atom in modeller.topology.atoms() if atom.residue.name == "NA"][:1]
    expected, found = compare(modeller.topology, system, positions, ion, route="python", precision="double")
    check_same(expected, found, 1e-8)
    sites = [i for i in range(system.getNumParticles()) if system.isVirtualSite(i)]
    assert len(sites) > 100
    assert not set(
        find_surroundings(system, find_region(modeller.topology, system, ion, pinned_model([1.0]))).atoms
    ) & {
        site - 3
        for site in sites  # oxygens of such water have no charge
    }


def test_exceptions_over_the_border_keep_their_share():
    solvated = solvate("cubic")
    system = nonbonded_only(solvated.mm_system)
    force = system.getForce(0)
    force.setExceptionsUsePeriodicBoundaryConditions(True)
    charges = charges_of(system, range(system.getNumParticles()))
    ion, waters = solvated.atoms_of("NA", count=1)[0], solvated.atoms_of("HOH", count=3)
    for atom, share in zip(waters, (0.0, 0.5, 1.0, 1.3)):
        force.addException(ion, atom, share * charges[ion] * charges[atom], 0.31, 0.2)
    region = find_region(solvated.topology, system, [ion], pinned_model([1.0]))
    found = find_surroundings(system, region)
    assert found.excluded_shares == pytest.approx([1.0, 0.5, -0.3])
    check_same(
        *compare(solvated.topology, system, solvated.positions, [ion], route="python", precision="double")
    )


def test_an_exception_that_is_no_share_is_refused():
    solvated = solvate("cubic")
    system = nonbonded_only(solvated.mm_system)
    ion, water = solvated.atoms_of("NA", count=1)[0], solvated.atoms_of("HOH", count=1)[0]
    force = system.getForce(0)
    force.setParticleParameters(water, 0.0, 0.3, 0.1)
    force.addException(ion, water, 0.25, 0.3, 0.1)
    region = find_region(solvated.topology, system, [ion], pinned_model([1.0]))
    with pytest.raises(EmbeddingError, match="no share of the pair's interaction"):
        find_surroundings(system, region)


SHARED = {
    "phenol": ("phenol_water2.4nm.pdb", "phenol_gaff.xml", 13),
    "toluene": ("toluene-explicit.prm7", "toluene-explicit.rst7", 15),
    "cb7 host": ("cb7-1.prmtop", "cb7-1.rst7", 126),
    "cb7 guest": ("cb7-1.prmtop", "cb7-1.rst7", range(126, 161)),
    "ion": ("nacl_0.5M_tip3p_2.2nm.pdb", None, None),
}


@pytest.mark.parametrize("name", SHARED)
def test_so_it_is_for_ligands_and_hosts(shared_data, name):
    first, second, atoms = SHARED[name]
    folder = shared_data / "systems"
    if first.endswith("pdb"):
        files = ("amber14/tip3p.xml", *(() if second is None else (str(folder / second),)))
        structure = app.PDBFile(str(folder / first))
        topology, positions = structure.topology, structure.positions
        settings = {"nonbondedMethod": app.PME, "nonbondedCutoff": 0.9 * unit.nanometer}
        full = app.ForceField(*files).createSystem(topology, **settings)
    else:
        structure = app.AmberInpcrdFile(str(folder / second))
        prmtop = app.AmberPrmtopFile(str(folder / first), periodicBoxVectors=structure.boxVectors)
        topology, positions = prmtop.topology, structure.positions
        full = prmtop.createSystem(nonbondedMethod=app.PME, nonbondedCutoff=0.9 * unit.nanometer)
    if atoms is None:
        atoms = [atom.index for atom in topology.atoms() if atom.residue.name == "NA"][:1]
    atoms = list(range(atoms)) if isinstance(atoms, int) else list(atoms)
    positions = np.array(positions.value_in_unit(unit.nanometer))
    system = nonbonded_only(full, 1e-8)
    expected, found = compare(
        topology,
        system,
        positions,
        atoms,
        CouplingSettings(tolerance=1e-8),
        route="python",
        precision="double",
    )
    # OpenMM's mesh of order 5 leaves 1e-6 in forces; by its exact sum (minutes) they agree to 1e-7.
    check_same(expected, found, 1e-8, 2e-6)


CASES = [(shape, "python") for shape in ("cubic", "triclinic", "isolated")]
CASES += [(shape, "torchforce") for shape in ("triclinic", "isolated") if "torchforce" in ROUTES_HERE]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def embedded(request, model):
    """Peptide with charges that respond, in double, and a context of it."""
    shape, route = request.param
    anywhere = solvate(shape)
    system = create_mixed_system(
        anywhere.topology,
        anywhere.mm_system,
        anywhere.peptide,
        model,
        "electrostatic",
        route=route,
        precision="double",
        coupling=CouplingSettings(tolerance=1e-5),
    )
    return anywhere, system, make_context(system, anywhere.positions)


def test_forces_are_the_derivative_of_the_energy_on_ml_and_mm_atoms(embedded):
    solvated, system, context = embedded
    group = 17
    for force in system.getForces():
        force.setForceGroup(group if force.getName() in ("LES", "TorchForce") else 0)
    context = make_context(system, solvated.positions)
    water = solvated.atoms_of("HOH", count=2)
    components = [(solvated.peptide[0], 0), (solvated.peptide[8], 2), (water[0], 1), (water[4], 2)]
    check_forces(evaluation(context, {group}), solvated.positions, components, 1e-5)


def test_without_coupling_the_model_stands_alone(embedded, model):
    solvated, _, context = embedded
    context.setPositions(solvated.positions)
    full = energy_of(context)
    context.setParameter("lambda_electrostatics", 0.5)
    half = energy_of(context)
    context.setParameter("lambda_electrostatics", 0.0)
    none = energy_of(context)
    context.setParameter("lambda_electrostatics", 1.0)
    assert half - none == pytest.approx(0.5 * (full - none), rel=1e-6)
    # Without charges in the force field, what remains is Lennard-Jones over the border.
    atoms = solvated.peptide
    bare = nonbonded_only(solvated.mm_system, None)
    force = bare.getForce(0)
    for i in atoms:
        force.setParticleParameters(i, 0.0, *force.getParticleParameters(i)[1:])
    inner = part_of(bare, atoms)
    for k in range(inner.getForce(0).getNumExceptions()):
        i, j, _, sigma, epsilon = inner.getForce(0).getExceptionParameters(k)
        inner.getForce(0).setExceptionParameters(k, i, j, 0.0, sigma, epsilon)
    for k in range(force.getNumExceptions()):
        i, j, _, sigma, epsilon = force.getExceptionParameters(k)
        if {i, j} <= set(atoms):
            force.setExceptionParameters(k, i, j, 0.0, sigma, epsilon)
    border = energy_of(make_context(bare, solvated.positions)) - energy_of(
        make_context(inner, solvated.positions[atoms])
    )
    numbers = np.array([a.element.atomic_number for a in solvated.topology.atoms()])[atoms]
    cell = None if solvated.box is None else 10 * solvated.box
    alone = model.evaluate(10 * solvated.positions[atoms], numbers, cell).energy * KJ
    tail = 0.0 if solvated.box is None else tail_correction(solvated)
    assert none - alone - tail == pytest.approx(border, abs=1e-4)


def tail_correction(solvated):
    """Energy of the Lennard-Jones tail beyond the cutoff, kJ/mol."""
    values = []
    for used in (False, True):
        system = system_from_xml(openmm.XmlSerializer.serialize(solvated.mm_system))
        for k in reversed(range(system.getNumForces())):
            if isinstance(system.getForce(k), openmm.NonbondedForce):
                system.getForce(k).setUseDispersionCorrection(used)
            else:
                system.removeForce(k)
        values.append(energy_of(make_context(system, solvated.positions)))
    return values[1] - values[0]


def test_a_model_region_of_everything_is_the_ml_system(model):
    solvated = solvate("cubic")
    numbers = [8, 1, 1]
    topology = topology_of([("HOH", numbers, [(0, 1), (0, 2)])] * 3, solvated.box)
    water = solvated.atoms_of("HOH", count=3)
    mm_system = create_mm_system(topology, rigidWater=False, constraints=None)
    mixed = create_mixed_system(
        topology, mm_system, range(9), model, "electrostatic", route="python", precision="double"
    )
    for force in mixed.getForces():
        if isinstance(force, openmm.NonbondedForce):
            force.setUseDispersionCorrection(False)
    whole = create_system(topology, model, "python", precision="double")
    one, other = (make_context(system, solvated.positions[water]) for system in (mixed, whole))
    assert energy_of(one) == pytest.approx(energy_of(other), abs=1e-6)
    np.testing.assert_allclose(forces_of(one), forces_of(other), atol=1e-6)


def test_the_system_survives_xml_and_keeps_the_region_whole(embedded):
    solvated, system, context = embedded
    context.setPositions(solvated.positions)
    copy = make_context(system_from_xml(openmm.XmlSerializer.serialize(system)), solvated.positions)
    assert energy_of(copy) == pytest.approx(energy_of(context), rel=1e-12)
    assert set(solvated.peptide) in [set(molecule) for molecule in context.getMolecules()]
    assert "lambda_interpolate" not in context.getParameters()


def with_nonbonded(change):
    """The cubic box's system with its NonbondedForce changed."""
    system = system_from_xml(openmm.XmlSerializer.serialize(solvate("cubic").mm_system))
    change(system, next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce)))
    return system


def nothing_left(system, force):
    for k in reversed(range(system.getNumForces())):
        system.removeForce(k)


def offset(system, force):
    force.addGlobalParameter("scale", 0.0)
    force.addParticleParameterOffset("scale", solvate("cubic").atoms_of("HOH", count=1)[0], 1.0, 0.0, 0.0)


def exception_offset(system, force):
    force.addGlobalParameter("scale", 0.0)
    force.addExceptionParameterOffset("scale", 0, 1.0, 0.0, 0.0)


def same_name(system, force):
    other = openmm.CustomBondForce("lambda_electrostatics*r")
    other.addGlobalParameter("lambda_electrostatics", 1.0)
    system.addForce(other)


def no_core(system, force):
    atoms = list(solvate("cubic").topology.atoms())
    carbon = next(i for i in solvate("cubic").peptide if atoms[i].element.symbol == "C")
    charge, sigma, _ = force.getParticleParameters(carbon)
    force.setParticleParameters(carbon, charge, sigma, 0.0)


def reaction_field(system, force):
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)


@pytest.mark.parametrize(
    "change, message",
    [
        (reaction_field, r"cuts electrostatics off"),
        (offset, "depends on the global parameter 'scale'"),
        (exception_offset, "exceptions of ML atoms depend on the global parameter 'scale'"),
        (same_name, "global parameter 'lambda_electrostatics' of its own"),
        (no_core, r"ML atom \d has no Lennard-Jones term"),
        (lambda system, force: system.addForce(openmm.NonbondedForce(force)), "the system has 2"),
        (nothing_left, "the system has 0"),
    ],
)
def test_what_cannot_be_embedded_is_refused(change, message, model):
    solvated = solvate("cubic")
    with pytest.raises(EmbeddingError, match=message):
        create_mixed_system(
            solvated.topology,
            with_nonbonded(change),
            solvated.peptide,
            model,
            "electrostatic",
            route="python",
        )


def test_faded_parameters_must_stay_as_they_are(model):
    solvated = solvate("cubic")

    def lennard_jones(system, force):
        force.addGlobalParameter("lambda_sterics", 1.0)
        force.addParticleParameterOffset("lambda_sterics", solvated.peptide[0], 0.0, 0.0, 0.1)

    parts = (solvated.topology, with_nonbonded(lennard_jones), solvated.peptide, model, "electrostatic")
    for interpolate in (False, True):
        with pytest.raises(EmbeddingError, match="depend on the global parameter 'lambda_sterics'"):
            create_mixed_system(*parts, route="python", interpolate=interpolate)


def test_charges_of_unknown_sign_do_not_meet_a_force_field_in_silence(model):
    solvated = solvate("cubic")
    unsure = copy.deepcopy(model)
    unsure.metadata = {"charge_sign": {"ambiguous": True}}
    parts = (solvated.topology, solvated.mm_system, solvated.atoms_of("HOH", count=1), unsure)
    with pytest.warns(UserWarning, match="the sign of the model's latent charges could not be told"):
        create_mixed_system(*parts, "electrostatic", route="python")


def test_a_narrow_box_shortens_the_cutoff_or_is_refused(model):
    solvated = solvate("cubic")
    system = with_nonbonded(lambda system, force: force.setCutoffDistance(0.4))
    system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*row) for row in np.diag([0.9, 1.9, 1.9])))
    periodic, settings = coupling_settings(solvated.mm_system, CouplingSettings(cutoff=12.0))
    assert periodic and 8.0 < settings.cutoff < 9.5  # of a box of 19 Å
    with pytest.raises(
        EmbeddingError, match=r"the box is 9\.0 Å wide; electrostatic embedding needs 10\.6 Å"
    ):
        create_mixed_system(
            solvated.topology, system, solvated.peptide, model, "electrostatic", route="python"
        )


def test_mechanical_embedding_takes_none_of_its_options(solvated, model):
    parts = (solvated.topology, solvated.mm_system, solvated.peptide, model)
    for options in ({"interpolate": True}, {"coupling": CouplingSettings()}):
        with pytest.raises(ValueError, match="belong to embedding='electrostatic'"):
            create_mixed_system(*parts, "mechanical", **options)
    with pytest.raises(ValueError, match="must be one of mechanical, electrostatic"):
        create_mixed_system(*parts, "electric")


def test_an_unknown_route_is_refused(solvated, model):
    parts = (solvated.topology, solvated.mm_system, solvated.peptide, model, "electrostatic")
    absent = [name for name, status in available_routes().items() if not status.available]
    for route in absent:
        with pytest.raises(RouteError):
            create_mixed_system(*parts, route=route)
    with pytest.raises(ValueError, match="`precision` must be one of"):
        create_mixed_system(*parts, precision="half")
