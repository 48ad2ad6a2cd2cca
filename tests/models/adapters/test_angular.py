"""Harmonics and couplings against rotations and integrals, not against another program."""

from __future__ import annotations

import math

import pytest
import torch

from openmm_les.models.adapters.angular import spherical_harmonics, wigner_3j
from tests.builders import random_rotation

L_MAX = 5


def directions(n: int, seed: int = 0):
    v = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return v / v.norm(dim=1, keepdim=True)


def test_known_harmonics():
    v = directions(4)
    x, y, z = v.t()
    found = spherical_harmonics(v, 2)
    torch.testing.assert_close(found[0], torch.ones_like(v[:, :1]))
    torch.testing.assert_close(found[1], math.sqrt(3.0) * v)
    second = [
        math.sqrt(15.0) * x * z,
        math.sqrt(15.0) * x * y,
        math.sqrt(5.0) * (y * y - 0.5 * (x * x + z * z)),
        math.sqrt(15.0) * y * z,
        0.5 * math.sqrt(15.0) * (z * z - x * x),
    ]
    torch.testing.assert_close(found[2], torch.stack(second, 1))


@pytest.mark.parametrize("degree", range(L_MAX + 1))
def test_addition_theorem(degree):
    a, b = directions(6), directions(6, 1)
    products = (spherical_harmonics(a, L_MAX)[degree] * spherical_harmonics(b, L_MAX)[degree]).sum(1)
    cosine = (a * b).sum(1)
    legendre = [torch.ones_like(cosine), cosine]
    for k in range(2, L_MAX + 1):
        legendre.append(((2 * k - 1) * cosine * legendre[-1] - (k - 1) * legendre[-2]) / k)
    torch.testing.assert_close(products, (2 * degree + 1) * legendre[degree])


@pytest.mark.parametrize(
    "triple", [(0, 2, 2), (1, 1, 2), (1, 1, 0), (1, 2, 3), (2, 2, 2), (3, 1, 2), (3, 3, 4)]
)
def test_couplings_turn_with_the_vectors(triple):
    l1, l2, l3 = triple
    coupling = wigner_3j(l1, l2, l3)
    assert float(coupling.norm()) == pytest.approx(1.0)

    def coupled(u, v):
        a, b = spherical_harmonics(u, L_MAX)[l1], spherical_harmonics(v, L_MAX)[l2]
        return torch.einsum("ijk,ni,nj->nk", coupling, a, b)

    # The matrix that turns harmonics of degree l3, from many directions by least squares.
    rotation = random_rotation(3)
    many = directions(40, 5)
    before, after = (spherical_harmonics(w, L_MAX)[l3] for w in (many, many @ rotation.t()))
    turn = torch.linalg.lstsq(before, after).solution
    u, v = directions(5, 7), directions(5, 8)
    turned = coupled(u @ rotation.t(), v @ rotation.t())
    torch.testing.assert_close(turned, coupled(u, v) @ turn, atol=1e-10, rtol=1e-10)


def test_signs_of_couplings():
    # Both factors the same vector: the coupling of even sum is a positive multiple of a harmonic.
    v = directions(3)
    y = spherical_harmonics(v, L_MAX)
    for l1, l2, l3 in ((1, 1, 2), (1, 2, 3), (2, 2, 4), (0, 3, 3)):
        product = torch.einsum("ijk,ni,nj->nk", wigner_3j(l1, l2, l3), y[l1], y[l2])
        ratio = product / y[l3]
        torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio))
        assert float(ratio[0, 0]) > 0.0
