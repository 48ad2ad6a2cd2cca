"""Neighbour pairs within a cutoff, in any cell."""

from __future__ import annotations

from typing import Optional, Tuple

import torch
from torch import Tensor

from openmm_les.graph import Graph


def perpendicular_widths(cell: Tensor) -> Tensor:
    """Distances between opposite faces of a cell ([3, 3], rows are vectors), [3], same unit."""
    return 1.0 / torch.linalg.norm(torch.linalg.inv(cell), dim=0)


def all_pairs(positions: Tensor, cell: Optional[Tensor], cutoff: float) -> Tuple[Tensor, Tensor, Tensor]:
    """Every directed pair closer than ``cutoff``, by testing all of them.

    Quadratic: for up to a few hundred atoms it beats a cell list. Periodic images are
    complete for any cell, also one narrower than the cutoff.

    Parameters
    ----------
    positions : [n_atoms, 3], Å
    cell : [3, 3], Å, rows are vectors; None = isolated
    cutoff : Å

    Returns
    -------
    centers, neighbors : [n_pairs], int64, centers ascending
    shifts : [n_pairs, 3], whole cell vectors, dtype of positions:
        the pair's vector is ``positions[neighbors] + shifts @ cell - positions[centers]``
    """
    n_atoms = positions.shape[0]
    with torch.no_grad():
        if cell is None:
            vectors = positions.unsqueeze(0) - positions.unsqueeze(1)  # [centre, neighbour, 3]
            near = (vectors * vectors).sum(-1) < cutoff * cutoff
            near.fill_diagonal_(False)
            pairs = torch.nonzero(near)
            shifts = torch.zeros((pairs.shape[0], 3), dtype=positions.dtype, device=positions.device)
            return pairs[:, 0], pairs[:, 1], shifts
        fractional = positions @ torch.linalg.inv(cell)
        difference = fractional.unsqueeze(0) - fractional.unsqueeze(1)
        nearest = -torch.round(difference)  # shift that brings each pair to its nearest image
        reach = torch.ceil(cutoff / perpendicular_widths(cell) - 0.5).to(torch.int64)
        ranges = [torch.arange(-int(m), int(m) + 1, device=positions.device) for m in reach]
        images = torch.cartesian_prod(ranges[0], ranges[1], ranges[2]).to(positions.dtype)
        shifts = nearest.unsqueeze(2) + images.view(1, 1, -1, 3)  # [centre, neighbour, image, 3]
        vectors = (difference.unsqueeze(2) + shifts) @ cell
        distances2 = (vectors * vectors).sum(-1)
        own = torch.eye(n_atoms, dtype=torch.bool, device=positions.device).unsqueeze(-1)
        itself = own & (shifts == 0.0).all(-1)
        found = torch.nonzero((distances2 < cutoff * cutoff) & ~itself)
        chosen = shifts[found[:, 0], found[:, 1], found[:, 2]]
        return found[:, 0], found[:, 1], chosen


def single_graph(
    positions: Tensor,
    numbers: Tensor,
    cell: Optional[Tensor],
    molecules: Tensor,
    molecule_charges: Tensor,
    cutoff: float,
) -> Graph:
    """Graph of one configuration, all pairs tested.

    Parameters
    ----------
    positions : [n_atoms, 3], Å
    numbers : [n_atoms], int64
    cell : [3, 3], Å, or None = isolated
    molecules : [n_atoms], int64
    molecule_charges : [n_molecules], e
    cutoff : Å
    """
    centers, neighbors, shifts = all_pairs(positions, cell, cutoff)
    if cell is None:
        cells = torch.zeros((1, 3, 3), dtype=positions.dtype, device=positions.device)
    else:
        cells = cell.unsqueeze(0)
    offsets = torch.tensor([0, positions.shape[0]], device=positions.device)
    return Graph(
        positions,
        numbers,
        centers,
        neighbors,
        shifts,
        cells,
        offsets,
        molecules,
        molecule_charges,
        periodic=cell is not None,
    )
