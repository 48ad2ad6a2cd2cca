"""Latent dipoles, permanent and induced, and quadrupoles among MM charges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openmm_les.electrostatics import ChargeCoupling, LatentCoulomb
from openmm_les.engine.compile import freeze
from openmm_les.engine.embedded import IsolatedEmbedded, PeriodicEmbedded
from openmm_les.units import ANGSTROM_PER_NM
from tests.builders import multipole_model
from tests.electrostatics.test_multipoles import as_charges
from tests.engine.builders import ELEMENTS, check_forces, run_module
from tests.engine.test_embedded import ALL, BOXES, ML, MOLECULES, NUMBERS, SETTINGS, SITES, surroundings

KINDS = {
    "dipoles": {},
    "polarizable": {"polarizability": "tensor"},
    "direct": {"dipoles": False, "polarizability": "isotropic", "induction": "direct"},
    "quadrupoles": {"dipoles": False, "quadrupoles": True},
    "all": {"quadrupoles": True, "polarizability": "tensor"},
}


def make_module(kind, box, **more):
    tight = LatentCoulomb(tolerance=1e-8)
    model = multipole_model(electrostatics=tight, elements=ELEMENTS, n_layers=1, **KINDS[kind])
    boundary = IsolatedEmbedded if box is None else PeriodicEmbedded
    return boundary(model, NUMBERS, MOLECULES, [0.0, 0.0], ML, torch.float64, surroundings(**more), SETTINGS)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("dipoles", "triclinic"),
        ("polarizable", "triclinic"),
        ("direct", "isolated"),
        ("quadrupoles", "triclinic"),
        ("quadrupoles", "isolated"),
        ("all", "triclinic"),
    ],
)
def test_frozen_forces_are_the_derivative_of_the_energy_on_ml_and_mm_atoms(kind, shape):
    box = BOXES[shape]
    module = make_module(kind, box, excluded=[(2, 1)], excluded_shares=[0.3])
    frozen = freeze(torch.jit.script(module))
    components = [(1, 0), (9, 2), (0, 1)]
    with torch.jit.optimized_execution(False):
        forces = check_forces(lambda x: run_module(frozen, x, box, 0.7), ALL, components, 2e-6)
    assert np.abs(forces[SITES]).max() > 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_multipoles_are_in_the_coupling_and_induced_ones_lower_the_energy(kind):
    module = make_module(kind, None)
    positions = torch.tensor(ALL)
    terms = module.terms(positions, None, 1.0)
    few = positions[ML] * ANGSTROM_PER_NM
    many = positions[SITES] * ANGSTROM_PER_NM
    felt = module.coupling(few, terms.charges, many, module.mm_charges, None)
    assert abs(float(terms.coupling - felt.energy)) > 1e-3
    if "polarizability" in KINDS[kind]:
        # Half of what is gained in the field is spent on inducing: with λ the energy falls quadratically.
        def whole(strength):
            each = module.terms(positions, None, strength)
            return float(each.latent + strength * each.coupling)

        assert whole(1.0) + whole(-1.0) - 2.0 * whole(0.0) < -1e-3


def test_quadrupoles_meet_the_surroundings_as_the_clouds_of_charge_they_stand_for():
    """At fixed moments the energy is that of 19 charges for each atom in the same potential."""
    module = make_module("all", None, excluded=[(2, 1)], excluded_shares=[0.3])
    positions = torch.tensor(ALL)
    terms = module.terms(positions, None, 0.0)
    moments = module.model(module.graph_of(positions, None), False).latent_quadrupoles
    assert moments.abs().max() > 1e-2
    few = positions[ML] * ANGSTROM_PER_NM
    many = positions[SITES] * ANGSTROM_PER_NM
    step = 1e-2
    places, charges = as_charges(few, terms.charges, terms.dipoles, moments, step)
    excluded = [(k, 1) for k in range(19 * 2, 19 * 3)]
    clouds = ChargeCoupling(
        module.coupling.smearing, module.coupling.coulomb_constant, 7.5, excluded=excluded,
        excluded_shares=[0.3] * 19,
    )(places, charges, many, module.mm_charges, None)  # fmt: skip
    assert float(terms.coupling) == pytest.approx(float(clouds.energy), abs=10 * step**2)
    less = module.coupling(few, terms.charges, many, module.mm_charges, None, terms.dipoles)
    assert abs(float(terms.coupling - less.energy)) > 1e-2


def test_a_large_box_is_no_box():
    """What images of a neutral region's multipoles leave falls with the box."""
    positions = torch.tensor(ALL)
    alone = make_module("all", None).terms(positions, None, 1.0)
    left = []
    for length in (4.0, 8.0):
        box = length * np.eye(3)
        inside = make_module("all", box).terms(positions, torch.tensor(box), 1.0)
        left.append(float(inside.coupling - alone.coupling))
    assert abs(left[1]) < 2e-3 * abs(float(alone.coupling))
    assert left[0] / left[1] == pytest.approx(8.0, rel=0.3)
