"""The one structure that models read: atoms, neighbour pairs, cells and molecules of a batch."""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch
from torch import Tensor


class Graph(NamedTuple):
    """One or several configurations, concatenated atom by atom.

    Pairs are directed (each bond appears twice) and sorted by centre.
    The vector of a pair is ``positions[neighbors] + shifts @ cell - positions[centers]``.
    """

    positions: Tensor
    """[n_atoms, 3], Å"""
    numbers: Tensor
    """[n_atoms], int64 atomic numbers"""
    centers: Tensor
    """[n_pairs], int64, ascending"""
    neighbors: Tensor
    """[n_pairs], int64"""
    shifts: Tensor
    """[n_pairs, 3], whole cell vectors, in the dtype of positions"""
    cells: Tensor
    """[n_configurations, 3, 3], Å, rows are vectors; zeros: isolated"""
    offsets: Tensor
    """[n_configurations + 1], int64: atoms of configuration c are offsets[c]:offsets[c + 1]"""
    molecules: Tensor
    """[n_atoms], int64 index into molecule_charges"""
    molecule_charges: Tensor
    """[n_molecules], e"""


def configuration_index(offsets: Tensor) -> Tensor:
    """Configuration of each atom, [n_atoms] int64, from ``offsets`` [n_configurations + 1]."""
    counts = offsets[1:] - offsets[:-1]
    return torch.repeat_interleave(torch.arange(counts.numel(), device=offsets.device), counts)


def cell_of(graph: Graph, configuration: int) -> Optional[Tensor]:
    """Cell of one configuration, [3, 3] in Å; None where it is isolated."""
    cell: Optional[Tensor] = graph.cells[configuration]
    if bool((graph.cells[configuration] == 0.0).all()):
        cell = None
    return cell


def pair_vectors(graph: Graph) -> Tensor:
    """Vectors from centre to neighbour, [n_pairs, 3] in Å; differentiable in positions and cells."""
    vectors = graph.positions[graph.neighbors] - graph.positions[graph.centers]
    if graph.cells.shape[0] == 1:
        return vectors + graph.shifts @ graph.cells[0]
    cells = graph.cells[configuration_index(graph.offsets)[graph.centers]]  # [n_pairs, 3, 3]
    return vectors + torch.bmm(graph.shifts.unsqueeze(1), cells).squeeze(1)


def padded_pairs(centers: Tensor, n_atoms: int) -> Tensor:
    """Pair numbers as a dense table, [n_atoms, most neighbours of an atom], filled with n_pairs.

    ``centers`` [n_pairs] must ascend. A row lists the pairs of one centre; dense products over
    rows are several times faster than scattering over an edge list.
    """
    n_pairs = centers.numel()
    counts = torch.bincount(centers, minlength=n_atoms)
    width = int(counts.max()) if n_pairs > 0 else 0
    first = torch.cumsum(counts, 0) - counts
    pairs = torch.arange(n_pairs, device=centers.device)
    slots = centers * width + pairs - first[centers]
    table = torch.full((n_atoms * width,), n_pairs, dtype=torch.int64, device=centers.device)
    table[slots] = pairs
    return table.view(n_atoms, width)
