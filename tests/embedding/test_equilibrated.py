"""A region whose charges equilibrate, in the systems that users get."""

from __future__ import annotations

import numpy as np
import openmm
import pytest

from openmm_les import create_mixed_system, energies_at
from openmm_les.embedding.regions import find_region
from openmm_les.engine.files import system_from_xml
from openmm_les.engine.force_reader import MLForceReader
from openmm_les.engine.surroundings import CouplingSettings
from tests.embedding.conftest import solvate
from tests.engine.builders import (
    ROUTES_HERE,
    check_forces,
    energy_of,
    equilibrating_model,
    evaluation,
    make_context,
)

GROUP = 17


@pytest.fixture(scope="module", params=ROUTES_HERE)
def embedded(request):
    """Peptide in a triclinic box of water, both ends of the coupling scalable, after XML."""
    solvated = solvate("triclinic")
    system = create_mixed_system(
        solvated.topology,
        solvated.mm_system,
        solvated.peptide,
        equilibrating_model(),
        "electrostatic",
        route=request.param,
        precision="double",
        interpolate=True,
        coupling=CouplingSettings(tolerance=1e-5),
        force_group=GROUP,
    )
    system = system_from_xml(openmm.XmlSerializer.serialize(system))
    return solvated, system, make_context(system, solvated.positions)


def test_forces_are_the_derivative_of_the_energy_on_ml_and_mm_atoms(embedded):
    solvated, _, context = embedded
    water = solvated.atoms_of("HOH", count=2)
    components = [(solvated.peptide[0], 0), (solvated.peptide[8], 2), (water[0], 1), (water[4], 2)]
    context.setParameter("lambda_electrostatics", 0.7)
    check_forces(evaluation(context, {GROUP}), solvated.positions, components, 1e-5)
    context.setParameter("lambda_electrostatics", 1.0)


def test_charges_respond_so_that_the_energy_bends_with_the_coupling(embedded):
    _, _, context = embedded
    context.setPositions(embedded[0].positions)
    states = [{"lambda_electrostatics": strength} for strength in (0.0, 0.5, 1.0)]
    none, half, full = energies_at(context, states)
    # Energy of the best charges for each strength: a concave function of it.
    assert half > 0.5 * (none + full) + 0.5


def test_the_force_field_is_at_the_other_end(embedded):
    solvated, _, context = embedded
    context.setPositions(solvated.positions)
    context.setParameter("lambda_interpolate", 0.0)
    found = energy_of(context)
    context.setParameter("lambda_interpolate", 1.0)
    assert found == pytest.approx(energy_of(make_context(solvated.mm_system, solvated.positions)), rel=1e-7)


def test_reporters_see_polarised_charges(embedded):
    solvated, system, context = embedded
    reader = MLForceReader(system)
    charges = reader.charges(solvated.positions, solvated.box)
    model = equilibrating_model()
    region = find_region(solvated.topology, solvated.mm_system, solvated.peptide, model, None)
    alone = model.evaluate(
        10 * solvated.positions[solvated.peptide],
        np.array(region.numbers),
        10 * solvated.box,
        region.molecule_charges,
        np.array(region.molecules),
    )
    assert charges.sum() == pytest.approx(sum(region.molecule_charges), abs=1e-9)
    assert np.abs(charges - alone.charges).max() > 0.01
    # The same at any strength, and whether or not the force was just evaluated there.
    context.setPositions(solvated.positions)
    for strength in (0.5, 1.0):
        context.setParameter("lambda_electrostatics", strength)
        energy_of(context)
        np.testing.assert_allclose(reader.charges(solvated.positions, solvated.box), charges, atol=1e-10)
    terms = reader.energy_terms(solvated.positions, solvated.box)
    assert terms["ml_mm_electrostatics"] < 0.0
