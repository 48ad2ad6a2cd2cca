"""Mesh size and spline order for an accuracy asked, and the accuracy of a mesh given."""

from __future__ import annotations

import functools
import math
from typing import List, Sequence, Tuple

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


def _alias_moments(waves: Tensor, order: int) -> Tuple[Tensor, Tensor]:
    """``W²``, ``νW²``, ``ν²W²`` of a spline at waves ν, in mesh sizes, and sums over aliases, [3, n] each.

    The waves themselves are not among their aliases.
    """
    own = torch.sinc(waves) ** (2 * order)
    powers = torch.stack([torch.ones_like(waves), waves, waves**2])
    others = torch.zeros_like(powers)
    for m in range(1, 6):
        for shifted in (waves + m, waves - m):
            share = torch.sinc(shifted) ** (2 * order)
            others += share * torch.stack([torch.ones_like(waves), shifted, shifted**2])
    return powers * own, others


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
    shapes = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))
    own, others = [], []
    for part, shape in zip((half, waves, waves), shapes):
        moments = _alias_moments(part, order)
        own.append([v.view(shape) for v in moments[0]])
        others.append([v.view(shape) for v in moments[1]])
    reciprocal = 2.0 * math.pi * torch.linalg.inv(mesh_cell.detach().double().cpu()).t()
    metric = reciprocal @ reciprocal.t()
    weights = own[0][0] * own[1][0] * own[2][0]
    # What aliases add, by itself: as a difference it would drown in the rounding of the whole.
    added = _added(own, others, (0, 0, 0))
    squares, added_squares = torch.zeros_like(weights), torch.zeros_like(weights)
    coordinates = (half.view(shapes[0]), waves.view(shapes[1]), waves.view(shapes[2]))
    for a in range(3):
        for b in range(3):
            moments_of = [(axis == a) + (axis == b) for axis in range(3)]
            squares = squares + metric[a, b] * coordinates[a] * coordinates[b]
            added_squares = added_squares + metric[a, b] * _added(own, others, moments_of)
    aliases = weights + added
    exact = 4.0 * math.pi * torch.exp(-0.5 * width * width * squares) / squares
    ours = exact * weights / aliases**2
    # Q of the notes as s (G - D W²)² + D² (A B - s W⁴), A and B the sums over all aliases.
    missed = exact * added * (aliases + weights) / aliases**2
    aliased_squares = squares * weights + added_squares
    error = missed**2 * squares + ours**2 * (added * aliased_squares + weights * added_squares)
    # d³k/(2π)³ of a cell: the mesh's waves fill 1/volume of one of its boxes; half were summed.
    step = 2.0 / (abs(float(torch.linalg.det(mesh_cell))) * points**3)
    liquid = exact**2 * squares * squares / (squares + SCREENING_WAVE**2)
    return float(error.sum()) * step, float(liquid.sum()) * step


def _added(own: List[List[Tensor]], others: List[List[Tensor]], moments: Sequence[int]) -> Tensor:
    """A product of moments, one along each axis, with aliases less the same without."""
    (a, b, c), (x, y, z) = ([v[axis][moments[axis]] for axis in range(3)] for v in (own, others))
    return x * (b + y) * (c + z) + a * y * (c + z) + a * b * z


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
