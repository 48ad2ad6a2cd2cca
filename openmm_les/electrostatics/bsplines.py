"""Cardinal B-splines on a periodic mesh: weights, their derivatives and their spectrum."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOWEST_ORDER = 4
HIGHEST_ORDER = 8


def spline_table(order: int, derivatives: int) -> Tensor:
    """Polynomial coefficients of a cardinal B-spline and of its derivatives.

    An atom at ``u = b + ½ + t`` (b whole, -½ <= t < ½, in mesh spacings) gives node ``b + l`` the
    weight ``Σ_a table[l, a] t^a``. Powers of the centred t stay accurate in single precision.

    Parameters
    ----------
    order : number of nodes along one axis; the spline has order - 2 continuous derivatives
    derivatives : how many derivatives over u to add

    Returns
    -------
    [(1 + derivatives) * order, order], float64: rows of weights, then of first derivatives, ...

    Notes
    -----
    ``M_p(x) = [x M_{p-1}(x) + (p - x) M_{p-1}(x - 1)] / (p - 1)``; Essmann et al., J. Chem. Phys.
    103, 8577 (1995). A constant shift of the nodes is a phase that cancels in the mesh sum.
    """
    pieces = torch.zeros((order, order), dtype=torch.float64)  # piece j: M(j + ½ + t), powers of t
    pieces[0, 0] = 1.0
    for p in range(2, order + 1):
        previous = pieces.clone()
        for j in range(p):
            pieces[j] = 0.0
            left = j + 0.5
            pieces[j] += left * previous[j]
            pieces[j, 1:] += previous[j, :-1]
            if j > 0:
                pieces[j] += (p - left) * previous[j - 1]
                pieces[j, 1:] -= previous[j - 1, :-1]
        pieces = pieces / (p - 1)
    rows = [pieces.flip(0)]
    powers = torch.arange(1, order, dtype=torch.float64)
    for _ in range(derivatives):
        slopes = torch.zeros((order, order), dtype=torch.float64)
        slopes[:, :-1] = rows[-1][:, 1:] * powers
        rows.append(slopes)
    return torch.cat(rows)


def spline_weights(t: Tensor, table: Tensor) -> Tensor:
    """Weights and derivatives of `spline_table` for each centred position.

    ``t`` [3, n_atoms], ``table`` [(1 + derivatives) * order, order] in the dtype of ``t``. Returns
    [1 + derivatives, order, 3, n_atoms], differentiable in ``t``.
    """
    order = table.shape[1]
    flat = t.reshape(-1)
    powers = [torch.ones_like(flat), flat]
    for _ in range(order - 2):
        powers.append(powers[-1] * flat)
    values = table @ torch.stack(powers)
    return values.view(table.shape[0] // order, order, t.shape[0], t.shape[1])


def spline_spectrum(size: int, order: int) -> Tensor:
    """Fourier transform of the spline at the mesh's own wave numbers, ``sinc(n/size)^order``.

    Returns [size], float64, in the order of `torch.fft.fftfreq`.
    """
    return torch.sinc(torch.fft.fftfreq(size, dtype=torch.float64)) ** order


def alias_sum(size: int, order: int) -> Tensor:
    """``Σ_m W(n + m·size)²`` of the spline's spectrum W over all aliases m, [size], float64.

    Poisson's formula makes it the cosine series of the spline of twice the order at whole numbers.
    """
    places = torch.arange(2 * order + 1, dtype=torch.float64)
    values = (places == 1.0).to(torch.float64)  # M_2 at 0, 1, 2 ...
    for p in range(3, 2 * order + 1):
        # The last entry is zero, so that rolling brings M_{p-1}(x - 1) to x.
        values = (places * values + (p - places) * values.roll(1)) / (p - 1)
    angles = 2.0 * math.pi * torch.fft.fftfreq(size, dtype=torch.float64)
    return torch.cos(angles.unsqueeze(1) * (places - order)) @ values


def neighbor_alias_sum(size: int, order: int) -> Tensor:
    """``Σ_m W(n + m·size) W(n + (m + 1)·size)`` of the spline's spectrum W, [size], float64."""
    waves = torch.fft.fftfreq(size, dtype=torch.float64)
    total = torch.zeros_like(waves)
    for m in range(-4, 4):  # terms fall as 1/m^(2·order): the rest is below 1e-6 of the sum
        total += (torch.sinc(waves + m) * torch.sinc(waves + (m + 1))) ** order
    return total


def optimal_factor(size: int, order: int) -> Tensor:
    """One axis of the influence function that minimises the mesh's error in pair energies.

    ``W(n)² / [Σ_m W(n + m·size)²]²`` with W the spline's spectrum, [size], float64. The mode at
    half the size stands for two opposite waves: it is left out, so that the function is even and
    the energy does not depend on the handedness of the mesh.

    Notes
    -----
    Hockney and Eastwood, Computer Simulation Using Particles (1988), section 8-3; in the form for
    potentials of Ballenegger, Cerdà and Holm, J. Chem. Theory Comput. 8, 936 (2012). Aliases of
    the Gaussian itself are dropped: a mesh fine enough to be of use has none.
    """
    factor = spline_spectrum(size, order) ** 2 / alias_sum(size, order) ** 2
    if size % 2 == 0:
        factor[size // 2] = 0.0
    return factor
