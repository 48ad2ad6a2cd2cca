from __future__ import annotations

import math

import pytest
import torch

from openmm_les.electrostatics import LatentCoulomb, ewald_sum, isolated_sum, latent_ewald
from tests.builders import TRICLINIC, random_charges_in_cell

KE = 14.399645
CELL = torch.tensor(TRICLINIC, dtype=torch.float64)
BOTH = pytest.mark.parametrize("cell", [None, CELL], ids=["isolated", "periodic"])


def charges_and_positions():
    positions, charges, _ = random_charges_in_cell(0)
    return positions, charges + 0.1


def assert_same(found, expected, rtol=1e-12) -> None:
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=rtol, atol=rtol)


def test_auto_takes_the_method_of_the_cell():
    positions, charges = charges_and_positions()
    isolated = isolated_sum(positions, charges, 1.0, KE)
    periodic = ewald_sum(positions, charges, CELL, 1.0, KE)
    assert_same(latent_ewald(positions, charges), isolated)
    assert_same(latent_ewald(positions, charges, method="isolated"), isolated)
    assert_same(latent_ewald(positions, charges, CELL), periodic, rtol=1e-8)
    assert_same(latent_ewald(positions, charges, CELL, method="ewald"), periodic, rtol=1e-8)


@BOTH
def test_self_interaction_adds_the_energy_of_each_gaussian(cell):
    positions, charges = charges_and_positions()
    energy, potential, gradient = latent_ewald(positions, charges, cell, 0.7)
    other = latent_ewald(positions, charges, cell, 0.7, self_interaction=True)
    added = KE / (math.sqrt(2.0 * math.pi) * 0.7)
    expected = (energy + added * (charges**2).sum(), potential + 2.0 * added * charges, gradient)
    assert_same(other, expected)


def test_self_interaction_makes_the_periodic_sum_positive():
    # With its self term kept the reciprocal sum is a sum of squares.
    positions, charges = charges_and_positions()
    assert float(latent_ewald(positions, charges, CELL, 1.6, self_interaction=True)[0]) > 0.0


@BOTH
def test_coulomb_constant_is_a_factor(cell):
    positions, charges = charges_and_positions()
    unit = latent_ewald(positions, charges, cell, coulomb_constant=1.0, self_interaction=True)
    published = 90.0474 / (2.0 * math.pi)
    found = latent_ewald(positions, charges, cell, coulomb_constant=published, self_interaction=True)
    assert_same(found, [published * value for value in unit])


@BOTH
@pytest.mark.parametrize("self_interaction", [False, True])
@pytest.mark.parametrize("k_cutoff", [None, math.pi])
def test_potential_and_gradient_are_the_derivatives(cell, self_interaction, k_cutoff):
    positions, charges = charges_and_positions()
    positions.requires_grad_()
    charges.requires_grad_()
    energy, potential, gradient = latent_ewald(
        positions, charges, cell, 0.9, k_cutoff=k_cutoff, self_interaction=self_interaction
    )
    expected = torch.autograd.grad(energy, (charges, positions))
    assert_same((potential, gradient), expected, rtol=1e-10)


def test_k_cutoff_reaches_the_sum():
    positions, charges = charges_and_positions()
    expected = ewald_sum(positions, charges, CELL, 0.5, KE, 2.0)
    assert_same(latent_ewald(positions, charges, CELL, 0.5, k_cutoff=2.0), expected)
    converged, _, _ = latent_ewald(positions, charges, CELL, 0.5)
    assert abs(float(expected[0] - converged)) > 1e-2


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_have_the_type_and_shape_of_the_input(cell, dtype):
    positions, charges = charges_and_positions()
    box = None if cell is None else cell.to(dtype)
    energy, potential, gradient = latent_ewald(positions.to(dtype), charges.to(dtype), box)
    assert energy.dtype == potential.dtype == gradient.dtype == dtype
    assert energy.shape == ()
    assert potential.shape == charges.shape
    assert gradient.shape == positions.shape


@BOTH
@pytest.mark.parametrize("k_cutoff", [None, math.pi])
@pytest.mark.parametrize("self_interaction", [False, True])
def test_eager_scripted_and_frozen_agree(cell, k_cutoff, self_interaction):
    positions, charges = charges_and_positions()
    solver = LatentCoulomb(0.8, k_cutoff=k_cutoff, self_interaction=self_interaction)
    expected = solver(positions, charges, cell)
    scripted = torch.jit.script(solver)
    assert_same(scripted(positions, charges, cell), expected)
    assert_same(torch.jit.freeze(scripted.eval())(positions, charges, cell), expected)


@BOTH
def test_forces_through_charges_of_the_frozen_module(cell):
    # What TorchForce differentiates: charges that follow the positions. Freezing must not cut that.
    positions, _ = charges_and_positions()
    positions.requires_grad_()
    frozen = torch.jit.freeze(torch.jit.script(LatentCoulomb(0.8)).eval())

    def forces(solver):
        charges = torch.sin(positions.sum(1))
        energy, potential, gradient = solver(positions, charges, cell)
        (total,) = torch.autograd.grad(energy, positions, retain_graph=True)
        (response,) = torch.autograd.grad(charges, positions, potential.clone())
        return total, gradient + response

    total, expected = forces(LatentCoulomb(0.8))
    assert_same([expected], [total], rtol=1e-10)
    for _ in range(3):  # the profiling executor rewrites the graph in its first calls
        found, recombined = forces(frozen)
    assert_same([found, recombined], [total, total], rtol=1e-10)


ZEROS = torch.zeros(6, 3, dtype=torch.float64)
QUADRUPOLES = torch.eye(3, dtype=torch.float64).expand(6, 3, 3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"positions": torch.zeros(6)}, ValueError, r"`positions` must have shape \[n, 3\], got \[6\]"),
        ({"positions": torch.zeros(6, 2)}, ValueError, r"`positions` must have shape \[n, 3\], got \[6, 2\]"),
        ({"positions": [[0.0, 0.0, 0.0]]}, TypeError, "`positions` must be a torch.Tensor, got list"),
        ({"charges": torch.zeros(5)}, ValueError, r"`charges` must have shape \[6\], got \[5\]"),
        ({"charges": torch.zeros(6, 1)}, ValueError, r"`charges` must have shape \[6\], got \[6, 1\]"),
        ({"charges": 1.0}, TypeError, "`charges` must be a torch.Tensor, got float"),
        ({"charges": torch.ones(6)}, TypeError, "`charges` must be torch.float64 like `positions`, got"),
        ({"positions": torch.zeros(6, 3).long()}, TypeError, "`positions` must be floating point, got"),
        ({"cell": torch.ones(3)}, ValueError, r"`cell` must have shape \[3, 3\], got \[3\]"),
        ({"cell": torch.zeros(3, 3, dtype=torch.float64)}, ValueError, "`cell` has no volume"),
        ({"cell": torch.ones(3, 3, dtype=torch.float64)}, ValueError, "`cell` has no volume"),
        ({"cell": torch.eye(3, dtype=torch.float32)}, TypeError, "`cell` must be torch.float64"),
        ({"cell": math.nan * CELL}, ValueError, "`cell` holds NaN or infinite values"),
        ({"positions": math.nan * torch.ones(6, 3).double()}, ValueError, "`positions` holds NaN"),
        ({"charges": math.inf * torch.ones(6).double()}, ValueError, "`charges` holds NaN"),
        ({"smearing": 0.0}, ValueError, "`smearing` must be positive, got 0.0"),
        ({"smearing": math.nan}, ValueError, "`smearing` must be positive, got nan"),
        ({"coulomb_constant": -1.0}, ValueError, "`coulomb_constant` must be positive, got -1.0"),
        ({"k_cutoff": 0.0}, ValueError, "`k_cutoff` must be positive or None, got 0.0"),
        ({"tolerance": 0.0}, ValueError, "`tolerance` must lie between 0 and 1, got 0.0"),
        ({"method": "mesh"}, ValueError, "`method` must be one of .*, got 'mesh'"),
        ({"method": "isolated"}, ValueError, "`method='isolated'` takes no cell"),
        ({"method": "ewald", "cell": None}, ValueError, "`method='ewald'` needs a cell, got cell=None"),
        ({"dipoles": torch.zeros(6)}, ValueError, r"`dipoles` must have shape \[6, 3\], got \[6\]"),
        ({"dipoles": torch.zeros(6, 3)}, TypeError, "`dipoles` must be torch.float64 like"),
        ({"dipoles": ZEROS, "quadrupoles": ZEROS}, ValueError, r"`quadrupoles` must have shape \[6, 3, 3\]"),
        ({"quadrupoles": QUADRUPOLES}, ValueError, "`quadrupoles` need `dipoles` beside them"),
        ({"dipoles": ZEROS, "method": "isolated"}, ValueError, "`method='isolated'` takes no cell"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_errors(change, error, message):
    positions, charges = charges_and_positions()
    arguments = {"positions": positions, "charges": charges, "cell": CELL, **change}
    with pytest.raises(error, match=message):
        latent_ewald(**arguments)
