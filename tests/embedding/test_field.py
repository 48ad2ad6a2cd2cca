"""A uniform field on hybrids: the region through its model, MM atoms through the force field's charges."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
from openmm import unit

from openmm_les import create_mixed_system
from openmm_les.embedding.electrostatic import nonbonded_parameters
from openmm_les.engine.field import FIELD_PARAMETERS
from openmm_les.engine.field_energy import FieldEnergy
from openmm_les.engine.files import system_from_xml
from openmm_les.engine.force_reader import MLForceReader
from openmm_les.engine.surroundings import CouplingSettings
from openmm_les.exceptions import EmbeddingError
from tests.embedding.conftest import solvate
from tests.embedding.pinned import charges_of, pinned_model
from tests.engine.builders import (
    KJ,
    ROUTES_HERE,
    check_forces,
    energy_of,
    evaluation,
    forces_of,
    make_context,
)
from tests.engine.test_field import set_field
from tests.engine.toy_sources import responding_model

FIELD = np.array([0.4, -1.1, 2.3])  # V/nm
OFF = [0.0, 0.0, 0.0]


def hybrid(solvated, model, embedding, route="python", **options):
    return create_mixed_system(
        solvated.topology,
        solvated.mm_system,
        solvated.peptide,
        model,
        embedding,
        route=route,
        precision="double",
        **{"electric_field": FIELD, **options},
    )


def difference(context, positions):
    """Energy and forces with the field less those without it."""
    context.setPositions(positions)
    set_field(context, FIELD)
    energy, forces = energy_of(context), forces_of(context)
    set_field(context, OFF)
    change = energy - energy_of(context), forces - forces_of(context)
    set_field(context, FIELD)
    return change


@pytest.mark.parametrize("route", ROUTES_HERE)
@pytest.mark.parametrize("embedding", ["mechanical", "electrostatic"])
def test_charges_of_the_force_field_feel_what_charges_feel(embedding, route):
    """With charges pinned to the force field's, the field acts on the hybrid as on any charges."""
    solvated = solvate("triclinic")
    charges = np.array(charges_of(solvated.mm_system, list(range(len(solvated.positions)))))
    region = charges[solvated.peptide]
    charges[solvated.peptide] -= region.mean()  # the peptide's rounded charges are made exactly neutral
    model = pinned_model(charges[solvated.peptide], smearing=1.0)
    context = make_context(hybrid(solvated, model, embedding, route), solvated.positions)
    energy, forces = difference(context, solvated.positions)
    assert energy == pytest.approx(-KJ * charges @ solvated.positions @ FIELD, abs=1e-5)
    np.testing.assert_allclose(forces, KJ * charges[:, None] * FIELD, atol=1e-5)
    # Where an atom of the region is torn off by a box vector, nothing changes.
    moved = solvated.positions.copy()
    moved[solvated.peptide[3]] += solvated.box[2] - solvated.box[0]
    other, other_forces = difference(context, moved)
    assert other == pytest.approx(energy, abs=1e-5)
    np.testing.assert_allclose(other_forces, forces, atol=1e-5)


@pytest.mark.parametrize("embedding", ["mechanical", "electrostatic"])
@pytest.mark.parametrize("shape", ["cubic", "isolated"])
def test_forces_are_the_derivative_for_a_region_that_responds(shape, embedding):
    solvated = solvate(shape)
    options = {} if embedding == "mechanical" else {"coupling": CouplingSettings(tolerance=1e-7)}
    context = make_context(hybrid(solvated, responding_model(), embedding, **options), solvated.positions)
    ion_or_water = next(i for i in range(len(solvated.positions)) if i not in solvated.peptide)
    components = [(solvated.peptide[0], 0), (solvated.peptide[7], 2), (ion_or_water, 1)]
    check_forces(evaluation(context), solvated.positions, components, 1e-5)
    change = difference(context, solvated.positions)[1][solvated.peptide]
    assert np.abs(change).max() > 1.0


def test_interpolation_hands_the_field_from_one_set_of_charges_to_the_other():
    solvated = solvate("isolated")
    system = hybrid(solvated, responding_model(), "electrostatic", interpolate=True)
    context = make_context(system, solvated.positions)
    charges = nonbonded_parameters(
        next(f for f in solvated.mm_system.getForces() if isinstance(f, openmm.NonbondedForce))
    )[0]
    context.setParameter("lambda_interpolate", 0.0)
    energy, forces = difference(context, solvated.positions)
    assert energy == pytest.approx(-KJ * charges @ solvated.positions @ FIELD, abs=1e-6)
    np.testing.assert_allclose(forces, KJ * charges[:, None] * FIELD, atol=1e-6)
    context.setParameter("lambda_interpolate", 1.0)
    full = difference(context, solvated.positions)
    plain = make_context(hybrid(solvated, responding_model(), "electrostatic"), solvated.positions)
    found = difference(plain, solvated.positions)
    assert full[0] == pytest.approx(found[0], abs=1e-6)
    np.testing.assert_allclose(full[1], found[1], atol=1e-6)
    derivatives = dict(context.getState(parameterDerivatives=True).getEnergyParameterDerivatives())
    assert np.isnan([derivatives[name] for name in FIELD_PARAMETERS]).all()


@pytest.mark.parametrize("embedding", ["mechanical", "electrostatic"])
def test_terms_of_both_sides_add_up(embedding):
    solvated = solvate("cubic")
    model = pinned_model(charges_of(solvated.mm_system, solvated.peptide), smearing=1.0)
    system = hybrid(solvated, model, embedding)
    context = make_context(system, solvated.positions)
    change = difference(context, solvated.positions)[0]
    box = np.array([v.value_in_unit(unit.nanometer) for v in system.getDefaultPeriodicBoxVectors()])
    reader = MLForceReader(system)
    terms = reader.energy_terms(solvated.positions, box, context.getParameters())
    in_field = FieldEnergy(system, reader)
    of_fixed = in_field.of_fixed_charges(context)
    assert of_fixed + terms["electric_field"] == pytest.approx(change, abs=1e-5)
    assert in_field.energy(context) == pytest.approx(change, abs=1e-5)
    copy = make_context(system_from_xml(openmm.XmlSerializer.serialize(system)), solvated.positions)
    assert energy_of(copy) == energy_of(context)


def test_what_a_field_needs_of_a_force_field():
    solvated = solvate("isolated")
    model = pinned_model([0.0] * len(solvated.peptide), periodic=False)

    def refused(change, error, message):
        mm_system = openmm.XmlSerializer.clone(solvated.mm_system)
        change(mm_system)
        with pytest.raises(error, match=message):
            create_mixed_system(
                solvated.topology, mm_system, solvated.peptide, model, route="python", electric_field=FIELD
            )

    def offset(system):
        force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
        force.addGlobalParameter("scale", 1.0)
        force.addParticleParameterOffset("scale", len(solvated.positions) - 1, 0.1, 0.0, 0.0)

    def name(system):
        force = openmm.CustomExternalForce("electric_field_x*x")
        force.addGlobalParameter("electric_field_x", 1.0)
        system.addForce(force)

    refused(offset, EmbeddingError, "depends on the global parameter 'scale'; an electric field needs")
    refused(name, ValueError, "has a global parameter 'electric_field_x' of its own")
