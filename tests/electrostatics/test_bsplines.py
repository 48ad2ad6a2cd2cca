from __future__ import annotations

import itertools

import pytest
import torch

from openmm_les.electrostatics.bsplines import (
    alias_sum,
    neighbor_alias_sum,
    optimal_factor,
    spline_spectrum,
    spline_table,
    spline_weights,
)

ORDERS = pytest.mark.parametrize("order", [4, 5, 6, 7, 8])


def centred(n: int, dtype: torch.dtype = torch.float64):
    return torch.rand(3, n, dtype=dtype, generator=torch.Generator().manual_seed(3)) - 0.5


def test_the_cubic_spline_is_the_known_one():
    # M_4 at whole numbers: 1/6, 2/3, 1/6. An atom on a node (t = -½) spreads over three nodes.
    weights = spline_weights(torch.full((3, 1), -0.5, dtype=torch.float64), spline_table(4, 0))
    expected = torch.tensor([1.0, 4.0, 1.0, 0.0], dtype=torch.float64) / 6.0
    torch.testing.assert_close(weights[0, :, 0, 0], expected, rtol=0.0, atol=1e-15)


@ORDERS
def test_weights_keep_the_charge_and_its_centre(order):
    t = centred(20)
    weights = spline_weights(t, spline_table(order, 2))
    nodes = torch.arange(order, dtype=torch.float64).view(-1, 1, 1)
    assert float(weights[0].min()) >= 0.0
    torch.testing.assert_close(weights[0].sum(0), torch.ones_like(t))
    torch.testing.assert_close(weights[1:].sum(1), torch.zeros(2, 3, 20, dtype=torch.float64))
    torch.testing.assert_close((weights[0] * nodes).sum(0), t + 0.5 * (order - 1))


@ORDERS
def test_derivatives(order):
    t = centred(4).requires_grad_()
    table = spline_table(order, 2)
    weights = spline_weights(t, table)
    for d in range(2):
        for node in range(order):
            (slope,) = torch.autograd.grad(weights[d, node].sum(), t, retain_graph=True)
            torch.testing.assert_close(slope, weights[d + 1, node].detach())


@ORDERS
def test_pieces_join(order):
    # The right end of one mesh box is the left end of the next, one node further.
    ends = [
        spline_weights(torch.full((3, 1), x, dtype=torch.float64), spline_table(order, 1))
        for x in (-0.5, 0.5)
    ]
    left, right = ends[0][:, :, 0, 0], ends[1][:, :, 0, 0]
    torch.testing.assert_close(left[:, :-1], right[:, 1:])
    torch.testing.assert_close(right[:, 0], torch.zeros(2, dtype=torch.float64))


@ORDERS
def test_single_precision(order):
    single = spline_weights(centred(50).float(), spline_table(order, 1).float())
    double = spline_weights(centred(50), spline_table(order, 1))
    # A rounding of the weights, not of powers of u: positions enter centred.
    assert float((single - double).abs().max()) < 3e-7


@ORDERS
@pytest.mark.parametrize("size", [9, 12])
def test_spectrum_is_the_transform_of_the_weights(order, size):
    # An atom at u, up to a phase: Σ_l w_l exp(-2πi n l/size) = Σ_m W(n + m·size) exp(-2πi m u).
    t = torch.tensor([[0.2], [-0.3], [0.45]], dtype=torch.float64)
    weights = spline_weights(t, spline_table(order, 0))[0, :, :, 0]  # [order, 3]
    found = torch.fft.fft(weights, n=size, dim=0).abs().square()
    waves = torch.fft.fftfreq(size, dtype=torch.float64)
    expected = torch.zeros(size, 3, dtype=torch.complex128)
    for m in range(-40, 41):
        expected += (
            torch.sinc(waves + m)[:, None] ** order
            * (-1.0) ** (m * order)
            * torch.exp(-2j * torch.pi * m * (t[:, 0] + 0.5))
        )
    torch.testing.assert_close(found, expected.abs().square(), rtol=0.0, atol=1e-6)


@ORDERS
@pytest.mark.parametrize("size", [11, 12])
def test_alias_sums(order, size):
    waves = torch.fft.fftfreq(size, dtype=torch.float64)
    aliases = [torch.sinc(waves + m) ** order for m in range(-60, 61)]
    torch.testing.assert_close(alias_sum(size, order), torch.stack(aliases).square().sum(0))
    torch.testing.assert_close(spline_spectrum(size, order), aliases[60])
    neighbors = sum(a * b for a, b in itertools.pairwise(aliases))
    torch.testing.assert_close(neighbor_alias_sum(size, order), neighbors, rtol=1e-6, atol=0.0)


@ORDERS
@pytest.mark.parametrize("size", [11, 12])
def test_influence_is_even_and_one_for_long_waves(order, size):
    factor = optimal_factor(size, order)
    torch.testing.assert_close(factor[1:], factor[1:].flip(0))
    assert float(factor[0]) == pytest.approx(1.0)
    assert (float(factor[size // 2]) == 0.0) == (size % 2 == 0)
