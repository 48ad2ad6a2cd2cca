"""Mesh size and spline order for an accuracy asked, and the accuracy of a mesh given."""

from __future__ import annotations

import functools
import math
from typing import List, Tuple

import torch
from torch import Tensor

from openmm_les.electrostatics.bsplines import HIGHEST_ORDER, LOWEST_ORDER

LIQUID_DENSITY = 0.1
"""Atoms per Å³ of water and of proteins, for which spacing and order are traded."""

SCREENING_WAVE = 3.0
"""1/Å. Neighbours screen the charges of a liquid: of the waves of its charge density those below
this are weak, ``S(k) = k²/(k² + κ²)``. Makes the forces of water (σ = 1 Å) a quarter of those of
scattered charges, as measured, and so the relative error of a mesh four times larger."""


def good_size(least: int) -> int:
    """Smallest whole number from ``least`` on whose prime factors are 2, 3, 5 and 7: fast to transform."""
    size = max(least, 1) - 1
    rest = 0
    while rest != 1:
        size += 1
        rest = size
        for factor in [2, 3, 5, 7]:
            while rest % factor == 0:
                rest = rest // factor
    return size


def mesh_sizes(cell: Tensor, spacing: float, least: int) -> List[int]:
    """Mesh points along each vector of a cell [3, 3] so that neighbours are at most ``spacing`` (Å) apart.

    ``least``: the order of the splines, a mesh needs so many points. A function of the cell alone,
    so that the energy is one too: what changes where a size does is within the tolerance.
    """
    sizes: List[int] = []
    for length in torch.linalg.norm(cell, dim=1):
        sizes.append(good_size(max(math.ceil(float(length) / spacing), least)))
    return sizes


def _alias_moments(waves: Tensor, order: int) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """``W²`` of a spline at waves ν, in mesh sizes, and ``Σ W²``, ``Σ νW²``, ``Σ ν²W²`` over aliases."""
    own = torch.sinc(waves) ** (2 * order)
    total, first, second = own.clone(), own * waves, own * waves**2
    for m in range(1, 6):
        for shifted in (waves + m, waves - m):
            share = torch.sinc(shifted) ** (2 * order)
            total += share
            first += share * shifted
            second += share * shifted**2
    return own, total, first, second


def mesh_force_error(
    charge_square: float,
    density: float,
    mesh_cell: Tensor,
    order: int,
    width: float,
    coulomb_constant: float,
) -> float:
    r"""Root mean square error, eV/Å, of a mesh's forces between uncorrelated charges.

    Parameters
    ----------
    charge_square : e², mean of q²
    density : 1/Å³, charges per volume
    mesh_cell : [3, 3], Å, a cell's vectors over the sizes of its mesh: the steps between nodes
    order : of the splines
    width : Å, of the Gaussians on the mesh (σ of the model, or 1/(√2 α))
    coulomb_constant : eV·Å/e²

    Notes
    -----
    The mean square over all positions of two charges, ``⟨q²⟩² ρ ∫ d³k/(2π)³ Q(k)``,
    ``Q = G²k² - 2 D G k² W² + D² Σ_m W_m² Σ_m |k_m|² W_m²`` with G the exact and D the mesh's
    influence function and m over the aliases of k: Hockney and Eastwood, section 8-3, for forces
    that are derivatives of the splines; Ballenegger, Cerdà and Holm, J. Chem. Theory Comput. 8,
    936 (2012). The mesh's self forces are not in it, `pme_sum` takes them off.
    """
    error, _ = _mean_squares(mesh_cell, order, width)
    return coulomb_constant * charge_square * math.sqrt(density * error)


def _mean_squares(mesh_cell: Tensor, order: int, width: float) -> Tuple[float, float]:
    """Integrals over waves of squared force errors and of squared forces in a liquid, ke = 1."""
    points = 16
    # Middle of equal cells of the mesh's own waves; k and -k give the same.
    waves = (torch.arange(points, dtype=torch.float64) + 0.5) / points - 0.5
    half = waves[points // 2 :]
    own1, total1, first1, second1 = (v.view(-1, 1, 1) for v in _alias_moments(half, order))
    own, total, first, second = _alias_moments(waves, order)
    own2, total2, first2, second2 = (v.view(1, -1, 1) for v in (own, total, first, second))
    reciprocal = 2.0 * math.pi * torch.linalg.inv(mesh_cell.detach().double().cpu()).t()
    metric = reciprocal @ reciprocal.t()
    x, y, z = half.view(-1, 1, 1), waves.view(1, -1, 1), waves
    squares = metric[0, 0] * x * x + metric[1, 1] * y * y + metric[2, 2] * z * z
    squares = squares + 2.0 * (metric[0, 1] * x * y + metric[0, 2] * x * z + metric[1, 2] * y * z)
    aliases = total1 * total2 * total
    aliased_squares = (
        metric[0, 0] * second1 * total2 * total
        + metric[1, 1] * total1 * second2 * total
        + metric[2, 2] * total1 * total2 * second
        + 2.0 * metric[0, 1] * first1 * first2 * total
        + 2.0 * metric[0, 2] * first1 * total2 * first
        + 2.0 * metric[1, 2] * total1 * first2 * first
    )
    exact = 4.0 * math.pi * torch.exp(-0.5 * width * width * squares) / squares
    weights = own1 * own2 * own
    ours = exact * weights / aliases**2
    error = exact**2 * squares - 2.0 * ours * exact * squares * weights + ours**2 * aliases * aliased_squares
    # d³k/(2π)³ of a cell: the mesh's waves fill 1/volume of one of its boxes; half were summed.
    step = 2.0 / (abs(float(torch.linalg.det(mesh_cell))) * points**3)
    liquid = exact**2 * squares * squares / (squares + SCREENING_WAVE**2)
    # Errors below 1e-8 of the forces drown in rounding, which may be negative.
    return max(float(error.sum()), 0.0) * step, float(liquid.sum()) * step


@functools.lru_cache(maxsize=256)
def relative_force_error(order: int, spacing: float, width: float) -> float:
    """Error of a mesh's forces over the forces in a molecular liquid, for tuning.

    ``spacing`` and ``width`` in Å, the mesh cubic; the liquid as `SCREENING_WAVE` tells.
    """
    error, forces = _mean_squares(spacing * torch.eye(3, dtype=torch.float64), order, width)
    return math.sqrt(error / forces)


@functools.lru_cache(maxsize=256)
def widest_spacing(order: int, tolerance: float, width: float) -> float:
    """Mesh spacing in Å at which `relative_force_error` is ``tolerance``, at most 0.8 ``width``."""
    low, high = 0.05 * width, 0.8 * width
    if relative_force_error(order, high, width) <= tolerance:
        return high
    for _ in range(12):
        middle = math.sqrt(low * high)
        if relative_force_error(order, middle, width) <= tolerance:
            low = middle
        else:
            high = middle
    return low


@functools.lru_cache(maxsize=64)
def tune_mesh(tolerance: float, width: float, derivatives: int = 1) -> Tuple[int, float]:
    """Order of the splines and mesh spacing (Å) that reach a tolerance at the least cost.

    Parameters
    ----------
    tolerance : error of the forces over the forces, root mean squares, in a molecular liquid
    width : Å, of the Gaussians on the mesh
    derivatives : of the splines that are used: the order makes all of them continuous

    Notes
    -----
    The cost per atom, ``order³ + mesh points``, in the times measured on a CPU in single
    precision for one node of an atom and one point of the mesh (about 8 ns each).
    """
    best, chosen = math.inf, (HIGHEST_ORDER, 0.05 * width)
    for order in range(max(LOWEST_ORDER, derivatives + 2), HIGHEST_ORDER + 1):
        spacing = widest_spacing(order, tolerance, width)
        cost = order**3 + 1.0 / (LIQUID_DENSITY * spacing**3)
        if cost < best:
            best, chosen = cost, (order, spacing)
    return chosen
