"""What point charges feel of their own periodic images, and nothing else."""

from __future__ import annotations

import math
from typing import List, Tuple

import torch
from torch import Tensor

from openmm_les.electrostatics.ewald import ewald_sum
from openmm_les.electrostatics.isolated import safe_distances, smeared_kernel
from openmm_les.neighbors import perpendicular_widths


def box_shifts(vectors: Tensor, cell: Tensor) -> Tensor:
    """Whole cell vectors to subtract from ``vectors`` [..., 3], [..., 3] in the same dtype.

    Along the third cell vector first, then the second, then the first, each to within half its
    height above the earlier ones. In tilted cells this is what OpenMM takes for the nearest image,
    and it is the nearest wherever that is closer than half the cell's width.
    """
    # The cell turned so that its first vector lies along x and its second in the xy plane.
    triangle = torch.linalg.cholesky(cell @ cell.t())
    rest = vectors @ torch.linalg.inv(cell) @ triangle
    shifts: List[Tensor] = []
    for k in (2, 1, 0):
        shift = torch.floor(rest[..., k] / triangle[k, k] + 0.5)
        rest = rest - shift.unsqueeze(-1) * triangle[k]
        shifts.append(shift)
    return torch.stack([shifts[2], shifts[1], shifts[0]], -1)


def image_sum(
    positions: Tensor,
    charges: Tensor,
    cell: Tensor,
    coulomb_constant: float,
    tolerance: float = 1e-5,
) -> Tuple[Tensor, Tensor]:
    r"""Periodic Coulomb energy of point charges less that of their nearest pairs, and its gradient.

    This is what a particle-mesh sum leaves of charges among which every pair is excluded. Which
    image of a pair is the nearest is decided as molecular dynamics does, see `box_shifts`.

    Parameters
    ----------
    positions : [n_atoms, 3], Å
    charges : [n_atoms], e; a net charge is met by a uniform background
    cell : [3, 3], Å, rows are vectors
    coulomb_constant : eV·Å/e²
    tolerance : relative size of what is left out

    Returns
    -------
    energy : scalar, eV
    gradient : [n_atoms, 3], eV/Å, dE/dr

    Notes
    -----
    Farther apart than half the cell, Gaussians as wide as an eighth of it act as points. The sum over
    Gaussians is short, and their nearest pairs, ``erf(r/√2σ)/r``, are subtracted one by one. Points
    differ from Gaussians in the limit k → 0 by ``-π ke σ² Q²/V``.
    """
    half_width = 0.5 * float(perpendicular_widths(cell).min())
    width = half_width / math.sqrt(math.log(1.0 / tolerance))  # √2 σ
    smearing = width / math.sqrt(2.0)
    energy, _, gradient = ewald_sum(
        positions, charges, cell, smearing, coulomb_constant, None, tolerance, 0.0
    )
    vectors = positions.unsqueeze(1) - positions.unsqueeze(0)  # [i, j, 3] = r_i - r_j
    vectors = vectors - box_shifts(vectors, cell) @ cell
    kernel, slope = smeared_kernel(safe_distances(vectors), width)
    others = 1.0 - torch.eye(positions.shape[0], dtype=positions.dtype, device=positions.device)
    pairs = 0.5 * (charges * ((kernel * others) @ charges)).sum()
    weights = slope * others * charges.unsqueeze(0)
    pair_gradient = charges.unsqueeze(1) * (weights.unsqueeze(-1) * vectors).sum(1)
    volume = torch.abs(torch.linalg.det(cell))
    background = math.pi * smearing * smearing * charges.sum() ** 2 / volume
    return (
        energy - coulomb_constant * (pairs + background),
        gradient - coulomb_constant * pair_gradient,
    )


__all__ = ["box_shifts", "image_sum"]
