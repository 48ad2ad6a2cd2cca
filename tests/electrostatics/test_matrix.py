from __future__ import annotations

import math

import pytest
import torch

from openmm_les.electrostatics import LatentCoulomb
from openmm_les.electrostatics.matrix import coulomb_matrix
from tests.builders import TRICLINIC, random_charges_in_cell

CELLS = {
    "isolated": None,
    "triclinic": torch.tensor(TRICLINIC, dtype=torch.float64),
    # Wide enough that pairs take a part of the sum.
    "wide": 3.0 * torch.tensor(TRICLINIC, dtype=torch.float64),
}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("settings", [{}, {"k_cutoff": math.pi}, {"self_interaction": True}], ids=str)
def test_the_matrix_times_charges_is_the_potential(cell, settings):
    positions, charges, _ = random_charges_in_cell(3, 7)
    charges = charges + 0.3  # a net charge, too
    coulomb = LatentCoulomb(0.9, 14.0, method="auto" if cell is None else "ewald", **settings)
    energy, potential, _ = coulomb(positions, charges, cell)
    matrix = coulomb.matrix(positions, cell)
    torch.testing.assert_close(matrix, matrix.t())
    torch.testing.assert_close(matrix @ charges, potential, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(0.5 * charges @ matrix @ charges, energy, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("periodic", [False, True])
def test_derivatives_to_second_order(periodic):
    positions, _, cell = random_charges_in_cell(1, 3)
    if periodic:
        inputs = (positions.requires_grad_(), cell.requires_grad_())
    else:
        inputs = (positions.requires_grad_(),)

    def matrix(*tensors):
        return coulomb_matrix(tensors[0], tensors[1] if periodic else None, 1.5, 14.0, None, 1e-4)

    assert torch.autograd.gradcheck(matrix, inputs)
    assert torch.autograd.gradgradcheck(matrix, inputs)


def test_the_mesh_gives_the_same_within_its_tolerance():
    positions, charges, cell = random_charges_in_cell(2, 8)
    coulomb = LatentCoulomb(tolerance=1e-4, method="pme")
    potential = coulomb(positions, charges, cell)[1]
    torch.testing.assert_close(coulomb.matrix(positions, cell) @ charges, potential, rtol=1e-3, atol=1e-3)
    assert coulomb.takes_mesh(8, cell)
    assert not coulomb.takes_mesh(8, None)
