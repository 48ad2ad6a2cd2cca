"""Real spherical harmonics and their couplings, in the conventions that e3nn made common.

Polar axis y: degree 1 is (x, y, z) itself. "Component" normalisation: the mean square of every
component over the sphere is 1. Couplings are Wigner's 3j symbols in this basis, of unit norm.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import List

import numpy as np
import torch
from torch import Tensor


def spherical_harmonics(directions: Tensor, l_max: int) -> List[Tensor]:
    """Harmonics of unit vectors [..., 3]: for each degree l = 0 … l_max one [..., 2l + 1].

    From Legendre's recursions with the factor sinᵐθ moved to the azimuthal part, so that all are
    polynomials in x, y and z: no angle, no pole.
    """
    x, y, z = directions[..., 0], directions[..., 1], directions[..., 2]
    # cos and sin of mφ times sinᵐθ, φ counted from z to x.
    cosines = [torch.ones_like(x)]
    sines = [torch.zeros_like(x)]
    for m in range(l_max):
        cosines.append(z * cosines[m] - x * sines[m])
        sines.append(x * cosines[m] + z * sines[m])
    # legendre[m][l - m]: associated Legendre functions of y over sinᵐθ, without (-1)ᵐ.
    legendre: List[List[Tensor]] = []
    for m in range(l_max + 1):
        double_factorial = 1.0
        for k in range(1, m + 1):
            double_factorial *= 2.0 * k - 1.0
        column = [torch.full_like(x, double_factorial)]
        if m < l_max:
            column.append((2.0 * m + 1.0) * y * column[0])
        for degree in range(m + 2, l_max + 1):
            ahead = (2.0 * degree - 1.0) * y * column[degree - m - 1]
            behind = (degree + m - 1.0) * column[degree - m - 2]
            column.append((ahead - behind) / float(degree - m))
        legendre.append(column)
    harmonics: List[Tensor] = []
    for degree in range(l_max + 1):
        components: List[Tensor] = []
        for order in range(-degree, degree + 1):
            m = abs(order)
            norm = 2.0 * degree + 1.0
            for k in range(degree - m + 1, degree + m + 1):
                norm /= float(k)
            azimuth = cosines[m] if order >= 0 else sines[m]
            if m > 0:
                norm *= 2.0
            components.append(math.sqrt(norm) * legendre[m][degree - m] * azimuth)
        harmonics.append(torch.stack(components, -1))
    return harmonics


@lru_cache(maxsize=256)
def wigner_3j(l1: int, l2: int, l3: int) -> Tensor:
    """Invariant coupling of three degrees in the real basis, [2l1+1, 2l2+1, 2l3+1] float64, norm 1.

    Clebsch-Gordan coefficients (Racah's formula) taken to real harmonics; the factor (-i)ˡ of each
    basis makes them real.
    """
    coefficients = torch.zeros(2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1, dtype=torch.complex128)
    for m1 in range(-l1, l1 + 1):
        for m2 in range(-l2, l2 + 1):
            if abs(m1 + m2) <= l3:
                value = _clebsch_gordan(l1, m1, l2, m2, l3, m1 + m2)
                coefficients[l1 + m1, l2 + m2, l3 + m1 + m2] = value
    real = torch.einsum(
        "ijk,ia,jb,kc->abc",
        coefficients,
        _real_basis(l1),
        _real_basis(l2),
        _real_basis(l3).conj(),
    ).real
    return (real / real.norm()).contiguous()


def _real_basis(degree: int) -> Tensor:
    """Complex harmonics from real ones, [2l+1 complex, 2l+1 real]."""
    basis = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=np.complex128)
    half = math.sqrt(0.5)
    basis[degree, degree] = 1.0
    for m in range(1, degree + 1):
        basis[degree - m, degree + m] = half
        basis[degree - m, degree - m] = -1j * half
        basis[degree + m, degree + m] = (-1) ** m * half
        basis[degree + m, degree - m] = 1j * (-1) ** m * half
    return torch.from_numpy(basis * (-1j) ** degree)


def _clebsch_gordan(l1: int, m1: int, l2: int, m2: int, l3: int, m3: int) -> float:
    """⟨l1 m1 l2 m2 | l3 m3⟩; Racah, Phys. Rev. 62, 438 (1942)."""
    f = math.factorial
    first = (2 * l3 + 1) * f(l3 + l1 - l2) * f(l3 - l1 + l2) * f(l1 + l2 - l3) / f(l1 + l2 + l3 + 1)
    second = f(l3 + m3) * f(l3 - m3) * f(l1 - m1) * f(l1 + m1) * f(l2 - m2) * f(l2 + m2)
    total = 0.0
    for k in range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1):
        total += (-1) ** k / (
            f(k)
            * f(l1 + l2 - l3 - k)
            * f(l1 - m1 - k)
            * f(l2 + m2 - k)
            * f(l3 - l2 + m1 + k)
            * f(l3 - l1 - m2 + k)
        )
    return math.sqrt(first * second) * total


__all__ = ["spherical_harmonics", "wigner_3j"]
