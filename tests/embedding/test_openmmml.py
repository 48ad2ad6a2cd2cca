from __future__ import annotations

import copy
import subprocess
import sys
from importlib.metadata import entry_points

import numpy as np
import openmm
import pytest
from openmm import app, unit
from openmmml import MLPotential
from openmmml.mlpotential import MLPotentialImpl

from openmm_les import create_mixed_system, create_system
from openmm_les.embedding import openmmml_entry
from openmm_les.embedding.openmmml_potential import LESPotentialImpl
from openmm_les.engine.surroundings import CouplingSettings
from openmm_les.exceptions import CheckpointError, EmbeddingError
from openmm_les.models.checkpoint import list_models, save_model
from tests.engine.builders import energy_of, forces_of, make_context

NEW = hasattr(MLPotentialImpl, "getMLLongRange")
new_only = pytest.mark.skipif(not NEW, reason="openmm-ml 1.7 has no embeddings of its own")
old_only = pytest.mark.skipif(NEW, reason="openmm-ml 1.8 is installed")


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    """The small model as a file."""
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_model(model, path)
    return path


@pytest.fixture(scope="module")
def potential(path):
    return MLPotential("les", modelPath=str(path), precision="double", route="python")


def difference(first, second, positions):
    """Differences of energies (kJ/mol) and of forces relative to the largest."""
    one, other = make_context(first, positions), make_context(second, positions)
    forces = forces_of(one)
    relative = np.abs(forces - forces_of(other)).max() / np.abs(forces).max()
    return energy_of(one) - energy_of(other), relative


def test_mixed_systems_are_ours_on_either_version(anywhere, model, potential):
    parts = (anywhere.topology, anywhere.mm_system, anywhere.peptide)
    ours = create_mixed_system(*parts, model, route="python", precision="double")
    theirs = potential.createMixedSystem(*parts, forceGroup=4)
    energy, forces = difference(ours, theirs, anywhere.positions)
    assert abs(energy) < 1e-6
    assert forces < 1e-9
    assert theirs.getNumConstraints() == ours.getNumConstraints()
    ml = next(force for force in theirs.getForces() if force.getName() in ("LES", "PythonForce"))
    assert ml.getForceGroup() == 4
    context = make_context(theirs, anywhere.positions)
    assert set(anywhere.peptide) in [set(molecule) for molecule in context.getMolecules()]
    assert "lambda_interpolate" not in context.getParameters()


@new_only
def test_openmm_mls_own_mechanical_embedding_gives_the_same(anywhere, potential, model):
    from openmmml.embeddings.mechanicalembedding import MechanicalEmbedding

    for atoms in (anywhere.peptide, anywhere.atoms_of("ACE", "ALA", "NME", "HOH", count=2)):
        parts = (anywhere.topology, anywhere.mm_system)
        theirs = MechanicalEmbedding().createMixedSystem(potential._impl, *parts, atoms, 0, False)
        for k in reversed(range(theirs.getNumConstraints())):
            if set(theirs.getConstraintParameters(k)[:2]) <= set(atoms):
                theirs.removeConstraint(k)
        ours = create_mixed_system(*parts, atoms, model, route="python", precision="double")
        energy, forces = difference(ours, theirs, anywhere.positions)
        # They keep ML-ML pairs in both sums, cut off in one of them: erfc(α r) beyond 0.7 nm remains.
        assert abs(energy) < 0.02
        assert forces < 1e-4


@new_only
def test_interpolation_reaches_both_ends(solvated, potential, model):
    parts = (solvated.topology, solvated.mm_system, solvated.peptide)
    with pytest.warns(UserWarning, match="12 bonds of the ML region are constraints without a bond term"):
        system = potential.createMixedSystem(*parts, interpolate=True, removeConstraints=False)
    assert system.getNumConstraints() == solvated.mm_system.getNumConstraints()
    context = make_context(system, solvated.positions)
    ours = create_mixed_system(*parts, model, route="python", precision="double")
    assert energy_of(context) == pytest.approx(energy_of(make_context(ours, solvated.positions)), abs=0.02)
    context.setParameter("lambda_interpolate", 0.0)
    plain = energy_of(make_context(solvated.mm_system, solvated.positions))
    assert energy_of(context) == pytest.approx(plain, abs=0.02)
    assert set(solvated.peptide) in [set(molecule) for molecule in context.getMolecules()]


@new_only
def test_electrostatic_embedding_is_ours(solvated, potential, model):
    assert potential._impl.getSupportedEmbeddings() == ["mechanical", "electrostatic"]
    parts = (solvated.topology, solvated.mm_system, solvated.peptide)
    coupling = CouplingSettings(tolerance=1e-5)
    with pytest.warns(UserWarning, match="given removeConstraints=False: below"):
        theirs = potential.createMixedSystem(
            *parts, embedding="electrostatic", interpolate=True, coupling=coupling
        )
    ours = create_mixed_system(
        *parts, model, "electrostatic", route="python", precision="double", coupling=coupling
    )
    energy, forces = difference(ours, theirs, solvated.positions)
    assert abs(energy) < 1e-6
    assert forces < 1e-9
    context = make_context(theirs, solvated.positions)
    assert set(context.getParameters()) == {"lambda_electrostatics", "lambda_interpolate"}
    context.setParameter("lambda_interpolate", 0.0)
    plain = energy_of(make_context(solvated.mm_system, solvated.positions))
    assert energy_of(context) == pytest.approx(plain, rel=1e-10)


@new_only
def test_interpolation_keeps_hydrogens_where_constraints_stay(solvated, potential):
    """A force field with HBonds has no terms for them: without constraints they would come off at 0."""
    parts = (solvated.topology, solvated.mm_system, solvated.peptide)
    with pytest.warns(UserWarning, match="constraints without a bond term"):
        system = potential.createMixedSystem(
            *parts, embedding="electrostatic", interpolate=True, removeConstraints=False
        )
    context = make_context(system, solvated.positions)
    context.setParameter("lambda_interpolate", 0.0)
    context.setVelocitiesToTemperature(300, 1)
    context.getIntegrator().step(20)
    positions = context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    for k in range(solvated.mm_system.getNumConstraints()):
        i, j, length = solvated.mm_system.getConstraintParameters(k)
        distance = np.linalg.norm(positions[i] - positions[j])
        assert distance == pytest.approx(length.value_in_unit(unit.nanometer), rel=1e-3)


@new_only
def test_interpolation_asks_topology_and_system_for_the_same(solvated, potential):
    topology = copy.deepcopy(solvated.topology)
    topology.setPeriodicBoxVectors(None)
    ions = solvated.atoms_of("NA")
    with pytest.raises(EmbeddingError, match="`system` is periodic, `topology` is not; openmm-ml goes by"):
        potential.createMixedSystem(topology, solvated.mm_system, ions, interpolate=True)


@old_only
def test_electrostatic_embedding_is_refused_by_the_old_version(solvated, potential):
    with pytest.raises(EmbeddingError, match=r"openmm-ml 1\.7 embeds mechanically only"):
        potential.createMixedSystem(
            solvated.topology, solvated.mm_system, solvated.peptide, embedding="electrostatic"
        )


@old_only
def test_interpolation_of_a_periodic_system_is_refused_by_the_old_version(solvated, potential):
    with pytest.raises(EmbeddingError, match=r"openmm-ml 1\.7 cannot interpolate"):
        potential.createMixedSystem(solvated.topology, solvated.mm_system, solvated.peptide, interpolate=True)


def test_all_ml_systems(solvated, potential, model):
    modeller = app.Modeller(solvated.topology, solvated.positions * unit.nanometer)
    modeller.delete([r for r in modeller.topology.residues() if r.name in ("HOH", "NA", "CL")])
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer))
    theirs = potential.createSystem(modeller.topology, total_charge=0)
    ours = create_system(modeller.topology, model, "python", precision="double")
    energy, forces = difference(ours, theirs, positions)
    assert abs(energy) < 1e-6
    assert forces < 1e-9
    molecules = [make_context(system, positions).getMolecules() for system in (ours, theirs)]
    assert [list(m) for m in molecules[0]] == [list(m) for m in molecules[1]]
    assert len(molecules[1]) == 1
    assert potential.createSystem(modeller.topology, coupling=CouplingSettings()).getNumParticles() == 22


def test_regions_are_checked_on_either_version(solvated, potential):
    parts = (solvated.topology, solvated.mm_system)
    with pytest.raises(EmbeddingError, match="cuts covalent bonds"):
        potential.createMixedSystem(*parts, solvated.peptide[:-1])
    with pytest.raises(EmbeddingError, match=r"`total_charge` \+2 of molecule 0 .* sum to \+0"):
        potential.createMixedSystem(*parts, solvated.peptide, total_charge=2)


def test_options_that_nobody_reads_are_refused(solvated, potential, path):
    with pytest.raises(TypeError, match="unknown option percision; known are route, precision"):
        potential.createMixedSystem(
            solvated.topology, solvated.mm_system, solvated.peptide, percision="double"
        )
    with pytest.raises(TypeError, match="unknown option cutoff"):
        MLPotential("les", modelPath=str(path), cutoff=1.0)


def test_names(path):
    with pytest.raises(ValueError, match=r"MLPotential\('les'\) needs `modelPath`"):
        MLPotential("les")
    with pytest.raises(CheckpointError, match=r"no model 'nowhere\.pt'"):
        MLPotential("les", modelPath="nowhere.pt")
    assert isinstance(MLPotential("les", modelPath=str(path))._impl, LESPotentialImpl)


@pytest.mark.parametrize("name", list_models())
def test_shipped_models_have_names(name):
    impl = MLPotential(f"les-{name}")._impl
    assert impl.model.metadata["name"] == name


def test_a_new_shipped_model_is_found_by_its_folder(monkeypatch, tmp_path):
    (tmp_path / "newest").mkdir()
    (tmp_path / "notes.txt").write_text("")
    monkeypatch.setattr(openmmml_entry, "_PRETRAINED", tmp_path)
    registered = {}
    monkeypatch.setattr(MLPotential, "_implFactories", registered)
    factory = openmmml_entry.LESPotentialImplFactory()
    assert registered == {"les-newest": factory}
    monkeypatch.setattr(openmmml_entry, "_PRETRAINED", tmp_path / "absent")
    openmmml_entry.LESPotentialImplFactory()


def test_the_entry_point_is_installed():
    (ours,) = (e for e in entry_points(group="openmmml.potentials") if e.name == "les")
    assert ours.load() is openmmml_entry.LESPotentialImplFactory


@pytest.mark.parametrize(
    "code",
    [
        # Nothing heavy comes with the entry point, which every user of openmm-ml loads.
        "import openmm_les.embedding.openmmml_entry as e; e.LESPotentialImplFactory();"
        "import sys; heavy = {'torch', 'openmm', 'openmmml', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy",
        # Whichever of the two comes first.
        "import openmm_les.embedding.openmmml_potential; from openmmml import MLPotential;"
        "assert 'les' in MLPotential._implFactories",
    ],
)
def test_imports_in_a_fresh_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_openmm_systems_are_not_changed(solvated, potential):
    before = openmm.XmlSerializer.serialize(solvated.mm_system)
    potential.createMixedSystem(solvated.topology, solvated.mm_system, solvated.peptide)
    assert openmm.XmlSerializer.serialize(solvated.mm_system) == before
