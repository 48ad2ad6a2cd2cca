"""Latent dipoles, permanent and induced, among MM charges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openmm_les.electrostatics import LatentCoulomb
from openmm_les.engine.compile import freeze
from openmm_les.engine.embedded import IsolatedEmbedded, PeriodicEmbedded
from openmm_les.exceptions import EmbeddingError
from openmm_les.units import ANGSTROM_PER_NM
from tests.builders import multipole_model
from tests.engine.builders import ELEMENTS, check_forces, run_module
from tests.engine.test_embedded import ALL, BOXES, ML, MOLECULES, NUMBERS, SETTINGS, SITES, surroundings

KINDS = {
    "dipoles": {},
    "polarizable": {"polarizability": "tensor"},
    "direct": {"dipoles": False, "polarizability": "isotropic", "induction": "direct"},
}


def make_module(kind, box, **more):
    tight = LatentCoulomb(tolerance=1e-8)
    model = multipole_model(electrostatics=tight, elements=ELEMENTS, n_layers=1, **KINDS[kind])
    boundary = IsolatedEmbedded if box is None else PeriodicEmbedded
    return boundary(model, NUMBERS, MOLECULES, [0.0, 0.0], ML, torch.float64, surroundings(**more), SETTINGS)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("dipoles", "triclinic"), ("polarizable", "triclinic"), ("direct", "isolated")],
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
def test_dipoles_are_in_the_coupling_and_induced_ones_lower_the_energy(kind):
    module = make_module(kind, None)
    positions = torch.tensor(ALL)
    terms = module.terms(positions, None, 1.0)
    few = positions[ML] * ANGSTROM_PER_NM
    many = positions[SITES] * ANGSTROM_PER_NM
    felt = module.coupling(few, terms.charges, many, module.mm_charges, None)
    assert abs(float(terms.coupling - felt.energy)) > 1e-3
    if kind != "dipoles":
        # Half of what is gained in the field is spent on inducing: with λ the energy falls quadratically.
        def whole(strength):
            each = module.terms(positions, None, strength)
            return float(each.latent + strength * each.coupling)

        assert whole(1.0) + whole(-1.0) - 2.0 * whole(0.0) < -1e-3


def test_quadrupoles_are_refused():
    model = multipole_model(elements=ELEMENTS, n_layers=1, quadrupoles=True)
    with pytest.raises(EmbeddingError, match="no term for latent quadrupoles"):
        IsolatedEmbedded(model, NUMBERS, MOLECULES, [0.0, 0.0], ML, torch.float64, surroundings(), SETTINGS)
