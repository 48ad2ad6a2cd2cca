"""A region of latent and induced dipoles and quadrupoles, in the systems that users get."""

from __future__ import annotations

import numpy as np
import openmm
import pytest

from openmm_les import create_mixed_system
from openmm_les.electrostatics import LatentCoulomb
from openmm_les.engine.files import system_from_xml
from openmm_les.engine.force_reader import MLForceReader
from openmm_les.engine.surroundings import CouplingSettings
from tests.builders import multipole_model
from tests.embedding.conftest import solvate
from tests.engine.builders import (
    ELEMENTS,
    ROUTES_HERE,
    check_forces,
    evaluation,
    make_context,
)

GROUP = 17
TIGHT = LatentCoulomb(tolerance=1e-8)


def mixed(route: str, **kind):
    solvated = solvate("triclinic")
    model = multipole_model(electrostatics=TIGHT, elements=ELEMENTS, n_layers=1, **kind)
    system = create_mixed_system(
        solvated.topology, solvated.mm_system, solvated.peptide, model, "electrostatic", route=route,
        precision="double", coupling=CouplingSettings(tolerance=1e-5), force_group=GROUP,
    )  # fmt: skip
    return solvated, system


@pytest.mark.parametrize("route", ROUTES_HERE)
@pytest.mark.parametrize("kind", [{"polarizability": "tensor"}, {"quadrupoles": True}], ids=str)
def test_forces_are_the_derivative_of_the_energy_on_ml_and_mm_atoms(route, kind):
    solvated, system = mixed(route, **kind)
    context = make_context(system_from_xml(openmm.XmlSerializer.serialize(system)), solvated.positions)
    water = solvated.atoms_of("HOH", count=1)
    components = [(solvated.peptide[8], 2), (water[0], 1)]
    context.setParameter("lambda_electrostatics", 0.7)
    check_forces(evaluation(context, {GROUP}), solvated.positions, components, 2e-6)
    charges, dipoles = MLForceReader(system).moments(solvated.positions, solvated.box)
    assert dipoles.shape == (len(charges), 3) and np.abs(dipoles).max() > 1e-3
