from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from openmm_les.electrostatics import isolated_energy, isolated_sum
from openmm_les.electrostatics.isolated import safe_distances, self_energy, smeared_kernel
from tests.builders import random_rotation

KE = 14.399645
SEEDS = st.integers(0, 2**31 - 1)


def random_charges(seed: int, n_atoms: int = 5):
    generator = torch.Generator().manual_seed(seed)
    positions = 2.0 * torch.randn(n_atoms, 3, dtype=torch.float64, generator=generator)
    return positions, torch.randn(n_atoms, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("distance", [0.01, 0.5, 1.7, 30.0])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_two_gaussians(distance, sigma):
    positions = torch.tensor([[0.1, -0.2, 0.3], [0.1, -0.2, 0.3 + distance]], dtype=torch.float64)
    charges = torch.tensor([0.7, -1.3], dtype=torch.float64)
    energy, potential, gradient = isolated_sum(positions, charges, sigma, KE)
    width = math.sqrt(2.0) * sigma
    kernel = math.erf(distance / width) / distance
    assert float(energy) == pytest.approx(KE * 0.7 * -1.3 * kernel, rel=1e-12)
    assert potential.tolist() == pytest.approx([KE * -1.3 * kernel, KE * 0.7 * kernel], rel=1e-12)
    slope = 2.0 / (math.sqrt(math.pi) * width) * math.exp(-((distance / width) ** 2)) / distance
    slope -= math.erf(distance / width) / distance**2
    # Two nearly equal terms cancel at short distance, where the slope is small: absolute there.
    expected = pytest.approx(KE * 0.7 * -1.3 * slope, rel=1e-10, abs=1e-9)
    assert float(gradient[1, 2]) == expected
    assert float(-gradient[0, 2]) == expected
    assert float(gradient[:, :2].abs().max()) == 0.0


def test_kernel_and_self_energy_are_those_of_gaussian_densities():
    # Each charge is a Gaussian of standard deviation s = σ/√2, whose own potential is
    # erf(r/(√2 s))/r; its self energy is half the integral of potential times density, and the
    # pair energy at distance d the integral over a second, displaced density.
    sigma, distance = 0.8, 1.1
    s = sigma / math.sqrt(2.0)

    def density(r: float) -> float:
        return (2.0 * math.pi * s * s) ** -1.5 * math.exp(-r * r / (2.0 * s * s))

    def potential(r: float) -> float:
        return math.erf(r / (math.sqrt(2.0) * s)) / r

    own, _ = quad(lambda r: 0.5 * potential(r) * density(r) * 4.0 * math.pi * r * r, 1e-12, 12.0 * s)
    charge = torch.tensor([1.5], dtype=torch.float64)
    assert float(self_energy(charge, sigma, KE)) == pytest.approx(KE * 1.5**2 * own, rel=1e-9)

    def shell(r: float) -> float:
        # Mean over a sphere around the second charge of the first one's potential.
        mean, _ = quad(
            lambda c: 0.5 * potential(math.sqrt(r * r + distance**2 + 2.0 * r * distance * c)), -1.0, 1.0
        )
        return mean * density(r) * 4.0 * math.pi * r * r

    pair, _ = quad(shell, 1e-9, 10.0 * s)
    positions = torch.tensor([[0.0, 0, 0], [distance, 0, 0]], dtype=torch.float64)
    energy = isolated_energy(positions, torch.ones(2, dtype=torch.float64), sigma, KE)
    assert float(energy) == pytest.approx(KE * pair, rel=1e-7)


def test_point_charges_far_apart():
    positions = 40.0 * torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    charges = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    expected = KE / 40.0 * (-2.0 + 3.0 - 6.0 / math.sqrt(2.0))
    assert float(isolated_energy(positions, charges, 1.0, KE)) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-3)])
def test_kernel_slope_is_the_derivative(dtype, tolerance):
    # Relative to the slope's limit at zero, 4/(3√π w³); its two terms cancel at short distance.
    r = torch.logspace(-3.0, 1.5, 60, dtype=torch.float64)
    exact = r.clone().requires_grad_()
    kernel, _ = smeared_kernel(exact, 1.4)
    derivative = torch.autograd.grad(kernel.sum(), exact)[0] / r
    _, slope = smeared_kernel(r.to(dtype), 1.4)
    # A force is slope times distance.
    error = ((slope.double() - derivative) * r).abs().max()
    assert float(error) < tolerance * 4.0 / (3.0 * math.sqrt(math.pi) * 1.4**3)


def test_coincident_charges_have_finite_energy_and_derivatives():
    positions = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    charges = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    energy, _, gradient = isolated_sum(positions, charges, 1.0, KE)
    assert energy.item() == pytest.approx(KE * 2.0 * math.sqrt(2.0 / math.pi), rel=1e-8)
    (first,) = torch.autograd.grad(energy, positions, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum() + first.sum(), positions)
    assert gradient.abs().max().item() == first.abs().max().item() == 0.0
    assert bool(torch.isfinite(second).all())


def test_safe_distances():
    vectors = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    assert safe_distances(vectors).tolist() == pytest.approx([5.0, 1e-4])


def test_one_charge_and_none():
    for n in (0, 1):
        energy, potential, gradient = isolated_sum(torch.rand(n, 3), torch.ones(n), 1.0, KE)
        assert float(energy) == 0.0
        assert potential.shape == (n,)
        assert gradient.shape == (n, 3)
        assert float(potential.abs().sum() + gradient.abs().sum()) == 0.0


def test_potential_and_gradient_are_the_derivatives():
    positions, charges = random_charges(0)
    positions.requires_grad_()
    charges.requires_grad_()
    energy, potential, gradient = isolated_sum(positions, charges, 0.9, KE)
    by_charge, by_position = torch.autograd.grad(energy, (charges, positions))
    torch.testing.assert_close(potential, by_charge, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, by_position, rtol=1e-12, atol=1e-12)


def test_gradcheck_of_every_output():
    positions, charges = random_charges(1, 3)
    inputs = (positions.requires_grad_(), charges.requires_grad_())
    assert torch.autograd.gradcheck(lambda r, q: isolated_sum(r, q, 0.9, 1.0), inputs)


def test_gradgradcheck_of_the_energy():
    positions, charges = random_charges(2, 3)
    inputs = (positions.requires_grad_(), charges.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda r, q: isolated_energy(r, q, 0.9, 1.0), inputs)


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, reflect=st.booleans())
def test_translation_rotation_permutation(seed, reflect):
    positions, charges = random_charges(seed)
    energy, potential, gradient = isolated_sum(positions, charges, 1.0, KE)
    rotation = random_rotation(seed, reflect)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    moved = isolated_sum(positions[order] @ rotation.T + 3.0, charges[order], 1.0, KE)
    torch.testing.assert_close(moved[0], energy, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(moved[1], potential[order], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(moved[2], gradient[order] @ rotation.T, rtol=1e-10, atol=1e-10)
    assert float(gradient.sum(0).abs().max()) < 1e-11  # momentum
    torque = torch.linalg.cross(positions, gradient).sum(0)
    assert float(torque.abs().max()) < 1e-10


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, length=st.floats(0.3, 3.0), factor=st.floats(-2.0, 2.0), constant=st.floats(0.1, 20.0))
def test_scale_laws(seed, length, factor, constant):
    positions, charges = random_charges(seed)
    energy = isolated_energy(positions, charges, 0.8, KE)
    scaled = isolated_energy(length * positions, factor * charges, length * 0.8, constant)
    expected = energy * factor**2 / length * constant / KE
    torch.testing.assert_close(scaled, expected, rtol=1e-11, atol=1e-11)


def test_float32_against_float64():
    positions, charges = random_charges(3, 40)
    exact = isolated_sum(positions, charges, 1.0, KE)
    single = isolated_sum(positions.float(), charges.float(), 1.0, KE)
    for low, high in zip(single, exact, strict=True):
        assert low.dtype == torch.float32
        # 40 terms of either sign: a few tens of float32 roundings of the largest.
        assert float((low - high).abs().max()) < 1e-5 * float(high.abs().max())


def test_float32_forces_of_close_charges():
    # A slope of cancelling terms must not turn into noise where charges almost coincide.
    positions = torch.tensor([[0.0, 0, 0], [2e-3, 0, 0]])
    charges = torch.ones(2)
    _, _, single = isolated_sum(positions, charges, 1.0, KE)
    _, _, exact = isolated_sum(positions.double(), charges.double(), 1.0, KE)
    # Against forces of order ke/σ² = 14 eV/Å elsewhere.
    assert float((single - exact).abs().max()) < 2e-3


def test_scripted_is_eager():
    positions, charges = random_charges(4)
    scripted = torch.jit.script(isolated_sum)
    for own, other in zip(
        isolated_sum(positions, charges, 1.0, KE), scripted(positions, charges, 1.0, KE), strict=True
    ):
        assert torch.equal(own, other)


def test_traces_as_one_graph():
    # backend="eager": dynamo's part alone, no compiler needed.
    positions, charges = random_charges(5)
    compiled = torch.compile(isolated_energy, backend="eager", fullgraph=True)
    expected = isolated_energy(positions, charges, 1.0, KE)
    torch.testing.assert_close(compiled(positions, charges, 1.0, KE), expected)
