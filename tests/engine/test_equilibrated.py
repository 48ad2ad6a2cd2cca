"""Charges that equilibrate, in the forces that OpenMM runs."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
import torch

from openmm_les.engine.compile import freeze
from openmm_les.engine.embedded import IsolatedEmbedded, PeriodicEmbedded
from openmm_les.engine.system import create_system
from openmm_les.models.model import LESModel
from openmm_les.units import ANGSTROM_PER_NM, KJ_PER_MOL_PER_EV
from tests.engine.builders import BOXES as SMALL_BOXES
from tests.engine.builders import (
    FORMAMIDE_RESIDUE,
    ROUTES_HERE,
    WATER_RESIDUE,
    check_forces,
    equilibrating_model,
    evaluation,
    make_context,
    run_module,
    topology_of,
)
from tests.engine.test_embedded import (
    ALL,
    BOXES,
    ML,
    MOLECULES,
    NUMBERS,
    POSITIONS,
    SETTINGS,
    SITES,
    surroundings,
)


def make_module(box, model: LESModel | None = None, dtype=torch.float64, **more):
    kind = IsolatedEmbedded if box is None else PeriodicEmbedded
    model = equilibrating_model() if model is None else model
    return kind(model, NUMBERS, MOLECULES, [0.0, 0.0], ML, dtype, surroundings(**more), SETTINGS)


@pytest.fixture(scope="module", params=["isolated", "triclinic"])
def box(request):
    return BOXES[request.param]


@pytest.fixture(scope="module")
def frozen(box):
    """The double-precision module as OpenMM runs it."""
    return freeze(torch.jit.script(make_module(box, excluded=[(2, 1)], excluded_shares=[0.3])))


# --- a region among MM charges ----------------------------------------------------------------


@pytest.mark.parametrize("strengths", [(), (0.6, 0.25)])
def test_frozen_forces_are_the_derivative_of_the_energy_on_ml_and_mm_atoms(frozen, box, strengths):
    components = [(1, 0), (5, 2), (0, 1), (10, 2)]
    forces = check_forces(lambda x: run_module(frozen, x, box, *strengths), ALL, components, 1e-6)
    assert np.abs(forces[SITES]).max() > 1.0


def test_the_region_is_polarised(box):
    module = make_module(box)
    terms = module.terms(torch.tensor(ALL), torch.as_tensor(box) if box is not None else None, 1.0)
    cell = None if box is None else box * ANGSTROM_PER_NM
    alone = equilibrating_model().evaluate(POSITIONS * ANGSTROM_PER_NM, np.array(NUMBERS), cell)
    change = terms.charges.numpy() - alone.charges
    assert 0.005 < np.abs(change).max() < 0.3
    assert change[:3].sum() == pytest.approx(0.0, abs=1e-10)
    assert change[3:].sum() == pytest.approx(0.0, abs=1e-10)
    # Linear response: polarising costs half of what it gains.
    places = torch.tensor(ALL) * ANGSTROM_PER_NM
    cells = None if cell is None else torch.tensor(cell)
    unmoved = module.coupling(
        places[ML], torch.tensor(alone.charges), places[SITES], module.mm_charges, cells
    )
    spent = float(terms.latent) - alone.energy_long_range
    assert spent > 1e-3
    assert float(unmoved.energy) - float(terms.coupling) == pytest.approx(2.0 * spent, rel=1e-6)
    energy, _ = run_module(module, ALL, box)
    total = float(terms.short_range) + float(terms.latent) + float(terms.coupling)
    assert energy == pytest.approx(total * KJ_PER_MOL_PER_EV, rel=1e-10)


def test_without_coupling_the_region_is_as_in_vacuum(box):
    module = make_module(box)
    cell = None if box is None else box * ANGSTROM_PER_NM
    alone = equilibrating_model().evaluate(POSITIONS * ANGSTROM_PER_NM, np.array(NUMBERS), cell)
    energy, forces = run_module(module, ALL, box, 0.0)
    assert energy == pytest.approx(alone.energy * KJ_PER_MOL_PER_EV, rel=1e-10)
    assert np.abs(forces[SITES]).max() == 0.0
    np.testing.assert_allclose(forces[ML], alone.forces * KJ_PER_MOL_PER_EV * ANGSTROM_PER_NM, atol=1e-5)


def test_an_ion_draws_charge_towards_it():
    # A positive charge beside the oxygen of water makes it more negative, a negative one less.
    positions = np.concatenate([ALL[ML], ALL[1:2] + np.array([0.0, -0.35, 0.0])])
    found = []
    for charge in (1.0, 0.0, -1.0):
        site = surroundings().__class__([9], [charge])
        module = IsolatedEmbedded(
            equilibrating_model(), NUMBERS, MOLECULES, [0.0, 0.0], range(9), torch.float64, site, SETTINGS
        )
        found.append(float(module.terms(torch.tensor(positions), None, 1.0).charges[0]))
    assert found[0] < found[1] - 0.01
    assert found[2] > found[1] + 0.01
    assert found[0] - found[1] == pytest.approx(found[1] - found[2], rel=1e-9)  # linear response


def test_single_precision_is_close(box):
    energy, forces = run_module(make_module(box), ALL, box)
    single, single_forces = run_module(make_module(box, dtype=torch.float32), ALL, box)
    assert single == pytest.approx(energy, abs=0.02)
    np.testing.assert_allclose(single_forces, forces, atol=1e-3 * np.abs(forces).max())


# --- everything by the model ------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES_HERE)
def test_openmm_forces_are_the_slope_of_its_energy(route):
    box = SMALL_BOXES["triclinic"]
    topology = topology_of([WATER_RESIDUE, FORMAMIDE_RESIDUE], box)
    system = create_system(topology, equilibrating_model(), route=route, precision="double")
    system = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    context = make_context(system, POSITIONS)
    check_forces(evaluation(context), POSITIONS, [(0, 0), (5, 2)], 1e-5)
