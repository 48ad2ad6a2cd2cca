"""A uniform field through openmm-ml: what `create_system` and `create_mixed_system` give."""

from __future__ import annotations

import numpy as np
import pytest
from openmm import app, unit
from openmmml import MLPotential
from openmmml.mlpotential import MLPotentialImpl

from openmm_les import create_mixed_system, create_system
from openmm_les.embedding.electrostatic import nonbonded_force, nonbonded_parameters
from openmm_les.engine.field import FIELD_PARAMETERS
from openmm_les.engine.surroundings import CouplingSettings
from openmm_les.exceptions import EmbeddingError
from openmm_les.models.checkpoint import save_model
from tests.embedding.conftest import solvate
from tests.engine.builders import KJ, ROUTES_HERE, energy_of, forces_of, make_context
from tests.engine.test_field import set_field

NEW = hasattr(MLPotentialImpl, "getMLLongRange")
FIELD = np.array([0.4, -1.1, 2.3])  # V/nm
OTHER = np.array([-2.0, 0.3, 0.7])


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    """The small model as a file."""
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_model(model, path)
    return str(path)


def check_equal(theirs, ours, positions):
    """Energies and forces in two fields; derivatives by the field are NaN, not a part of the truth."""
    first, second = make_context(theirs, positions), make_context(ours, positions)
    energies = []
    for field in (FIELD, OTHER):
        for context in (first, second):
            if field is OTHER:
                set_field(context, field)
        energies.append(energy_of(first))
        assert energies[-1] == pytest.approx(energy_of(second), abs=1e-5)
        forces = forces_of(second)
        np.testing.assert_allclose(forces_of(first), forces, atol=1e-7 * np.abs(forces).max())
    assert abs(energies[0] - energies[1]) > 0.1
    derivatives = dict(first.getState(parameterDerivatives=True).getEnergyParameterDerivatives())
    assert np.isnan([derivatives[name] for name in FIELD_PARAMETERS]).all()


@pytest.mark.parametrize("route", ROUTES_HERE)
@pytest.mark.parametrize("shape", ["triclinic", "isolated"])
def test_mixed_systems(shape, route, path, model):
    solvated = solvate(shape)
    parts = (solvated.topology, solvated.mm_system, solvated.peptide)
    settings = {"precision": "double", "route": route}
    theirs = MLPotential("les", modelPath=path, **settings).createMixedSystem(*parts, electric_field=FIELD)
    ours = create_mixed_system(*parts, model, scalable=False, electric_field=FIELD, **settings)
    check_equal(theirs, ours, solvated.positions)


@pytest.mark.parametrize("periodic", [True, False], ids=["periodic", "isolated"])
def test_all_ml_systems(solvated, periodic, path, model):
    modeller = app.Modeller(solvated.topology, solvated.positions * unit.nanometer)
    modeller.delete([r for r in modeller.topology.residues() if r.name in ("HOH", "NA", "CL")])
    if not periodic:
        modeller.topology.setPeriodicBoxVectors(None)
    potential = MLPotential("les", modelPath=path, precision="double", route="python", electric_field=FIELD)
    ours = create_system(
        modeller.topology, model, "python", precision="double", electric_field=FIELD, remove_cm_motion=False
    )
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer))
    check_equal(potential.createSystem(modeller.topology), ours, positions)


@pytest.mark.skipif(not NEW, reason="openmm-ml 1.7 has no embeddings of its own")
def test_electrostatic_embedding(solvated, path, model):
    parts = (solvated.topology, solvated.mm_system, solvated.peptide)
    settings = {"precision": "double", "route": "python", "coupling": CouplingSettings(tolerance=1e-5)}
    potential = MLPotential("les", modelPath=path, **settings)
    theirs = potential.createMixedSystem(*parts, embedding="electrostatic", electric_field=FIELD)
    ours = create_mixed_system(*parts, model, "electrostatic", electric_field=FIELD, **settings)
    check_equal(theirs, ours, solvated.positions)


@pytest.mark.skipif(not NEW, reason="openmm-ml 1.7 shows no MM charges where it interpolates")
@pytest.mark.parametrize("shape", ["triclinic", "isolated"])
def test_interpolation_hands_the_field_from_one_set_of_charges_to_the_other(shape, path, model):
    solvated = solvate(shape)
    parts = (solvated.topology, solvated.mm_system, solvated.peptide)
    settings = {"precision": "double", "route": "python", "electric_field": FIELD}
    potential = MLPotential("les", modelPath=path, **settings)
    with pytest.warns(UserWarning, match="constraints without a bond term"):
        mixed = potential.createMixedSystem(*parts, interpolate=True)
    context = make_context(mixed, solvated.positions)
    ours = make_context(create_mixed_system(*parts, model, **settings), solvated.positions)

    def of_field(which):
        set_field(which, FIELD)
        energy, forces = energy_of(which), forces_of(which)
        set_field(which, [0.0, 0.0, 0.0])
        return energy - energy_of(which), forces - forces_of(which)

    energy, forces = of_field(context)
    expected, expected_forces = of_field(ours)
    assert energy == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(forces, expected_forces, atol=1e-5)
    context.setParameter("lambda_interpolate", 0.0)
    charges = nonbonded_parameters(nonbonded_force(solvated.mm_system))[0]
    energy, forces = of_field(context)
    assert energy == pytest.approx(-KJ * charges @ solvated.positions @ FIELD, abs=1e-5)
    np.testing.assert_allclose(forces, KJ * charges[:, None] * FIELD, atol=1e-5)


@pytest.mark.skipif(NEW, reason="openmm-ml 1.8 is installed")
def test_interpolation_is_refused_by_the_old_version(path):
    solvated = solvate("isolated")
    potential = MLPotential("les", modelPath=path, route="torchforce")
    with pytest.raises(EmbeddingError, match=r"openmm-ml 1\.7 cannot interpolate a system in an electric"):
        potential.createMixedSystem(
            solvated.topology, solvated.mm_system, solvated.peptide, interpolate=True, electric_field=FIELD
        )


@pytest.mark.parametrize("field", [[1.0, 2.0], [0.0, float("nan"), 0.0]])
def test_a_field_is_three_numbers(field, path):
    solvated = solvate("isolated")
    potential = MLPotential("les", modelPath=path, electric_field=field)
    with pytest.raises(ValueError, match=r"`electric_field` must be three numbers in V/nm"):
        potential.createMixedSystem(solvated.topology, solvated.mm_system, solvated.peptide)
