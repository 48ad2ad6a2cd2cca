"""Pairs between a small and a large set of points within a cutoff, in any cell."""

from __future__ import annotations

from typing import List, Tuple

import torch
from torch import Tensor

from openmm_les.neighbors import perpendicular_widths


def cross_pairs(few: Tensor, many: Tensor, cell: Tensor, cutoff: float) -> Tuple[Tensor, Tensor, Tensor]:
    """Every pair of one point of each set closer than ``cutoff``, at its nearest image.

    Compact sets are met by all points in a sphere around them, others by a cell list; both find
    the same pairs.

    Parameters
    ----------
    few : [n_few, 3], double, wrapped or not
    many : [n_many, 3], double, wrapped or not
    cell : [3, 3], double, rows are vectors
    cutoff : at most half the cell's narrowest width

    Returns
    -------
    first : [n_pairs], int64, index into ``few``
    second : [n_pairs], int64, index into ``many``
    vectors : [n_pairs, 3], double, from the second to the first
    """
    most_candidates = 300_000  # beyond them a cell list is quicker
    inverse = torch.linalg.inv(cell)
    offsets = few - few[0]
    offsets = offsets - torch.round(offsets @ inverse) @ cell
    low, high = offsets.amin(0), offsets.amax(0)
    middle = 0.5 * (low + high)
    radius = float(torch.linalg.norm(offsets - middle, dim=1).max()) + cutoff
    if radius <= 0.5 * float(perpendicular_widths(cell).min()):
        around = many - (few[0] + middle)
        around = around - torch.round(around @ inverse) @ cell
        near = torch.nonzero((around * around).sum(1) < radius * radius).squeeze(1)
        if few.shape[0] * near.shape[0] <= most_candidates:
            return _dense_pairs(offsets - middle, around.index_select(0, near), near, cutoff)
    return _listed_pairs(few @ inverse, many @ inverse, cell, cutoff)


def _dense_pairs(few: Tensor, many: Tensor, numbers: Tensor, cutoff: float) -> Tuple[Tensor, Tensor, Tensor]:
    """All combinations tested; positions unwrapped around one centre. ``numbers``: names of ``many``."""
    vectors = few.unsqueeze(1) - many.unsqueeze(0)
    found = torch.nonzero((vectors * vectors).sum(-1) < cutoff * cutoff)
    first, second = found[:, 0], found[:, 1]
    return first, numbers[second], vectors[first, second]


def _listed_pairs(few: Tensor, many: Tensor, cell: Tensor, cutoff: float) -> Tuple[Tensor, Tensor, Tensor]:
    """Pairs by a cell list; positions in fractions of the cell."""
    device = few.device
    bins: List[int] = []
    reaches: List[Tensor] = []
    for width in perpendicular_widths(cell):
        # Bins of half the cutoff: two to each side hold all partners.
        n = max(1, int(2.0 * float(width) / cutoff))
        bins.append(n)
        reaches.append(torch.arange(-2, 3, device=device) if n >= 5 else torch.arange(n, device=device))
    sizes = torch.tensor(bins, device=device)
    few, many = few - torch.floor(few), many - torch.floor(many)
    homes = torch.minimum((many * sizes).to(torch.int64), sizes - 1)
    numbers = (homes[:, 0] * bins[1] + homes[:, 1]) * bins[2] + homes[:, 2]
    order = torch.argsort(numbers)
    counts = torch.bincount(numbers, minlength=bins[0] * bins[1] * bins[2])
    starts = torch.cumsum(counts, 0) - counts
    near = torch.cartesian_prod(reaches[0], reaches[1], reaches[2])  # [n_near, 3]
    places = torch.minimum((few * sizes).to(torch.int64), sizes - 1)
    around = torch.remainder(places.unsqueeze(1) + near, sizes)  # [n_few, n_near, 3]
    boxes = ((around[..., 0] * bins[1] + around[..., 1]) * bins[2] + around[..., 2]).view(-1)
    occupied = counts.index_select(0, boxes)
    runs = torch.repeat_interleave(torch.arange(boxes.shape[0], device=device), occupied)
    before = torch.cumsum(occupied, 0) - occupied
    members = torch.arange(runs.shape[0], device=device) + (starts[boxes] - before).index_select(0, runs)
    # Most candidates lie outside: sort them out in single precision, which is far better than 0.01 Å.
    around_each = few.to(torch.float32).repeat_interleave(near.shape[0], dim=0)  # [n_few n_near, 3]
    in_boxes = many.index_select(0, order).to(torch.float32)
    rough = around_each.index_select(0, runs).sub_(in_boxes.index_select(0, members))
    rough = rough.sub_(torch.round(rough)) @ cell.to(torch.float32)
    kept = torch.nonzero(torch.linalg.vector_norm(rough, dim=1) < cutoff + 0.01).squeeze(1)
    first = torch.div(runs.index_select(0, kept), near.shape[0], rounding_mode="floor")
    second = order.index_select(0, members.index_select(0, kept))
    vectors = few.index_select(0, first) - many.index_select(0, second)
    vectors = (vectors - torch.round(vectors)) @ cell
    kept = torch.nonzero((vectors * vectors).sum(1) < cutoff * cutoff).squeeze(1)
    return first[kept], second[kept], vectors[kept]


__all__ = ["cross_pairs"]
