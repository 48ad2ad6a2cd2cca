"""Mixed systems written by one process and run by another."""

from __future__ import annotations

import pytest

from openmm_les import create_mixed_system
from openmm_les.electrostatics import LatentCoulomb
from tests.builders import multipole_model
from tests.embedding.conftest import solvate
from tests.engine.builders import (
    ELEMENTS,
    ROUTES_HERE,
    energy_in_another_process,
    energy_of,
    equilibrating_model,
    make_context,
    quiet_model,
)


def polarizable_model():
    return multipole_model(
        electrostatics=LatentCoulomb(tolerance=1e-8), elements=ELEMENTS, n_layers=1, polarizability="tensor"
    )


MODELS = {"charges": quiet_model, "equilibrated": equilibrating_model, "polarizable": polarizable_model}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("route", ROUTES_HERE)
def test_a_mixed_system_has_the_same_energy_in_another_process(route, kind, tmp_path):
    solvated = solvate("triclinic")
    system = create_mixed_system(
        solvated.topology, solvated.mm_system, solvated.peptide, MODELS[kind](), "electrostatic",
        route=route, precision="double",
    )  # fmt: skip
    found = energy_in_another_process(system, solvated.positions, tmp_path)
    here = energy_of(make_context(system, solvated.positions))
    assert found == pytest.approx(here, rel=1e-12)
    assert abs(here - energy_of(make_context(solvated.mm_system, solvated.positions))) > 1.0
