from __future__ import annotations

import math

import pytest
import torch

from openmm_les.electrostatics import LatentCoulomb, PolarizableMultipoles, polarizability_bound
from openmm_les.electrostatics.induction import dipole_interactions
from tests.electrostatics.systems import CELLS, KE, scattered_charges
from tests.electrostatics.test_multipoles import scattered_multipoles

PERIODIC = pytest.mark.parametrize("periodic", [False, True], ids=["isolated", "periodic"])


def inverse_of(volumes, n_atoms: int, anisotropic: bool = False) -> torch.Tensor:
    """Inverse polarizabilities [n_atoms, 3, 3] of volumes in Å³."""
    inverse = (KE / torch.as_tensor(volumes, dtype=torch.float64)).expand(n_atoms).view(-1, 1, 1) * torch.eye(
        3, dtype=torch.float64
    )
    if anisotropic:
        mixed = torch.randn(n_atoms, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
        inverse = inverse + mixed @ mixed.transpose(1, 2)
    return inverse


def sites(periodic: bool, shape: str = "triclinic"):
    """Arguments of `PolarizableMultipoles` up to the field."""
    positions, charges, dipoles, quadrupoles, cell = scattered_multipoles(8, shape)
    inverse = inverse_of(1.2, 8, anisotropic=True)
    return positions, charges, dipoles, quadrupoles, inverse, cell if periodic else None


def settings(**more) -> LatentCoulomb:
    return LatentCoulomb(1.0, KE, tolerance=1e-6, **more)


@PERIODIC
@pytest.mark.parametrize("smearing", [1.6, 0.5], ids=["whole", "split"])
def test_the_matrix_is_the_sum_over_unit_dipoles(periodic, smearing):
    positions, _, _, _, cell = scattered_multipoles()
    cell = cell if periodic else None
    matrix = dipole_interactions(positions, cell, smearing, KE, 1e-12)
    sums = PolarizableMultipoles(LatentCoulomb(smearing, KE, tolerance=1e-7)).solver
    nothing = torch.zeros(8, dtype=torch.float64)
    for column in (0, 4, 23):
        dipoles = torch.zeros(24, dtype=torch.float64)
        dipoles[column] = 1.0
        found = sums(positions, nothing, dipoles.view(8, 3), None, cell)
        torch.testing.assert_close(matrix[:, column], -found.field.flatten(), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(matrix, matrix.t())


@pytest.mark.parametrize("along", [True, False], ids=["along", "across"])
def test_a_pair_in_a_field_has_its_closed_form(along):
    """``m = E / (1/α - 2/r³)`` along and ``E / (1/α + 1/r³)`` across, far beyond the Gaussians' width."""
    r, volume, strength = 9.0, 1.5, 0.2
    positions = torch.tensor([[0.0, 0.0, 0.0], [r, 0.0, 0.0]], dtype=torch.float64)
    field = torch.zeros(2, 3, dtype=torch.float64)
    field[:, 0 if along else 1] = strength
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    found = PolarizableMultipoles(settings())(
        positions, zeros[:, 0], zeros, None, inverse_of(volume, 2), None, field, True
    )
    expected = strength / (KE / volume + (-2.0 if along else 1.0) * KE / r**3)
    torch.testing.assert_close(found.induced, field / strength * expected, rtol=1e-10, atol=1e-14)
    # Of what the field gains, half is spent.
    assert float(found.energy) == pytest.approx(float(0.5 * (field * found.induced).sum()), rel=1e-10)


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_cubic_lattice_follows_clausius_and_mossotti(repeats):
    """Polarization per macroscopic field, χ = 4πN / (1 - 4πN/3) of the volume: k = 0 is left out."""
    side, volume = 4.0, 1.8  # narrow Gaussians: points for each other
    steps = torch.arange(repeats, dtype=torch.float64)
    positions = side * torch.cartesian_prod(steps, steps, steps).view(-1, 3)
    n = len(positions)
    field = torch.zeros(n, 3, dtype=torch.float64)
    field[:, 2] = 0.1
    zeros = torch.zeros(n, 3, dtype=torch.float64)
    cell = repeats * side * torch.eye(3, dtype=torch.float64)
    found = PolarizableMultipoles(LatentCoulomb(0.3, KE, tolerance=1e-7))(
        positions, zeros[:, 0], zeros, None, inverse_of(volume, n), cell, field, True
    )
    density = volume / side**3
    expected = density / (1.0 - 4.0 * math.pi / 3.0 * density) * 0.1 * side**3 / KE
    torch.testing.assert_close(found.induced, expected * field / 0.1, rtol=1e-6, atol=1e-10)


@PERIODIC
@pytest.mark.parametrize("mutual", [True, False], ids=["mutual", "direct"])
def test_the_energy_is_stationary_in_the_induced_dipoles(periodic, mutual):
    """And least: any other dipoles of the same functional lie higher."""
    positions, charges, dipoles, quadrupoles, inverse, cell = sites(periodic)
    model = PolarizableMultipoles(settings(), mutual)
    found = model(positions, charges, dipoles, quadrupoles, inverse, cell, None, True)

    def functional(m):
        energy = model.solver(positions, charges, dipoles + m, quadrupoles, cell).energy
        energy = energy + 0.5 * (m * torch.einsum("iab,ib->ia", inverse, m)).sum()
        if not mutual:
            energy = energy - model.solver(positions, 0.0 * charges, m, None, cell).energy
        return energy

    m = found.induced.clone().requires_grad_()
    (slope,) = torch.autograd.grad(functional(m), m)
    assert float(slope.abs().max()) < 1e-8
    assert float(functional(found.induced)) == pytest.approx(float(found.energy), abs=1e-10)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        other = found.induced + 0.05 * torch.randn(8, 3, dtype=torch.float64, generator=generator)
        assert float(functional(other)) > float(found.energy)


@PERIODIC
@pytest.mark.parametrize("mutual", [True, False], ids=["mutual", "direct"])
def test_second_derivatives(periodic, mutual):
    positions, charges, dipoles, quadrupoles, inverse, cell = sites(periodic)
    n = 3
    model = PolarizableMultipoles(settings(), mutual)
    arguments = [value[:n].clone().requires_grad_() for value in (positions, charges, dipoles, inverse)]

    def function(r, q, u, beta):
        found = model(r, q, u, quadrupoles[:n], 0.5 * (beta + beta.transpose(1, 2)), cell, None, True)
        return found.energy, found.induced

    assert torch.autograd.gradcheck(function, arguments, eps=1e-5, atol=1e-6)
    assert torch.autograd.gradgradcheck(function, arguments, eps=1e-5, atol=1e-5)
    found = model(*arguments[:3], quadrupoles[:n], arguments[3], cell, None, True)
    (gradient,) = torch.autograd.grad(found.energy, arguments[0])
    # Charges and polarizabilities held: only places move, by the stationarity.
    torch.testing.assert_close(found.sums.gradient, gradient, rtol=1e-8, atol=1e-8)


@PERIODIC
def test_iterative_is_direct(periodic):
    arguments = sites(periodic)
    direct = PolarizableMultipoles(settings())(*arguments, None, False)
    iterative = PolarizableMultipoles(settings(), dense_atoms=0)(*arguments, None, False)
    torch.testing.assert_close(iterative.induced, direct.induced, rtol=1e-5, atol=1e-7)
    assert float(iterative.energy) == pytest.approx(float(direct.energy), abs=1e-10)
    single = [None if x is None else x.float() for x in arguments]
    rough = PolarizableMultipoles(settings(), dense_atoms=0)(*single, None, False)
    torch.testing.assert_close(rough.induced.double(), direct.induced, rtol=1e-4, atol=1e-5)


def test_isolated_is_periodic_in_a_large_box():
    positions, charges, _cell = scattered_charges(6, CELLS["cubic"], 0.0)
    positions = 0.3 * positions
    zeros, inverse = torch.zeros_like(positions), inverse_of(1.0, 6)
    model = PolarizableMultipoles(settings())
    alone = model(positions, charges, zeros, None, inverse, None, None, True)
    differences = []
    for side in (30.0, 60.0):
        box = side * torch.eye(3, dtype=torch.float64)
        found = model(positions, charges, zeros, None, inverse, box, None, True)
        differences.append(float((found.induced - alone.induced).abs().max()))
    assert differences[1] < 0.15 * differences[0] and differences[1] < 1e-4  # as the volume


@pytest.mark.parametrize("dense_atoms", [1000, 0], ids=["direct", "iterative"])
def test_mesh_is_exact_sum(dense_atoms):
    positions, charges, cell = scattered_charges(60, CELLS["triclinic"], 0.5)
    dipoles = 0.2 * torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    found = []
    for method in ("pme", "ewald"):
        model = PolarizableMultipoles(
            LatentCoulomb(1.0, KE, tolerance=1e-4, method=method), True, dense_atoms
        )
        found.append(model(positions, charges, dipoles, None, inverse_of(1.0, 60), cell, None, False))
    mesh, exact = found
    assert float((mesh.induced - exact.induced).norm() / exact.induced.norm()) < 1e-3
    assert float((mesh.sums.gradient - exact.sums.gradient).norm() / exact.sums.gradient.norm()) < 1e-3
    assert float(mesh.energy) == pytest.approx(float(exact.energy), rel=1e-4)


def test_below_the_bound_no_geometry_has_a_catastrophe():
    """A charged pair pushed together from 1000 random starts, and crowds of ten sites."""
    generator = torch.Generator().manual_seed(0)
    model = PolarizableMultipoles(settings())
    volume = 0.9 * polarizability_bound(1.0)
    charges = torch.tensor([1.0, -1.0], dtype=torch.float64)
    zeros, inverse = torch.zeros(2, 3, dtype=torch.float64), inverse_of(volume, 2)
    largest = 0.0
    for _ in range(1000):
        direction = torch.randn(3, dtype=torch.float64, generator=generator)
        distance = 1.0 + 0.5 * torch.rand((), dtype=torch.float64, generator=generator)
        positions = torch.stack(
            [torch.zeros(3, dtype=torch.float64), distance * direction / direction.norm()]
        )
        found = model(positions, charges, zeros, None, inverse, None, None, True)
        assert torch.isfinite(found.energy) and torch.isfinite(found.induced).all()
        largest = max(largest, float(found.induced.abs().max()))
    assert largest < 2.0  # e·Å: a unit charge over 1 Å makes 1
    for _ in range(20):
        positions = torch.rand(10, 3, dtype=torch.float64, generator=generator)  # ten sites within 1 Å³
        matrix = dipole_interactions(positions, None, 1.0, KE)
        least = float(torch.linalg.eigvalsh(matrix).min())
        assert least + KE / polarizability_bound(1.0) > 0.0


@pytest.mark.parametrize("dense_atoms", [1000, 0], ids=["direct", "iterative"])
def test_a_catastrophe_is_said_and_a_script_gives_nan(dense_atoms):
    positions = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]], dtype=torch.float64)
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    charges = torch.tensor([0.5, -0.5], dtype=torch.float64)
    model = PolarizableMultipoles(settings(), dense_atoms=dense_atoms)
    arguments = (positions, charges, zeros, None, inverse_of(30.0, 2), None, None, False)
    with pytest.raises(ValueError, match=r"polarization catastrophe.*polarizability_bound"):
        model(*arguments)
    with torch.jit.optimized_execution(False):
        energy = torch.jit.script(model.eval())(*arguments)[0]
    assert torch.isnan(energy)


def test_cut_sums_are_refused():
    for more in ({"k_cutoff": 3.0}, {"self_interaction": True}):
        with pytest.raises(ValueError, match="converged Coulomb sum"):
            PolarizableMultipoles(settings(**more))
