"""The one structure that models read: atoms, neighbour pairs, cells and molecules of a batch."""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

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
    periodic: Optional[bool] = None
    """Whether all configurations have cells or none has, where known: a GPU need not be asked"""
    rows: Optional[Tensor] = None
    """[n_atoms, most neighbours], what `padded_pairs` gives, where known; there may then be pairs that no
    row names"""


def configuration_index(graph: Graph) -> Tensor:
    """Configuration of each atom, [n_atoms] int64."""
    n_configurations = graph.cells.shape[0]
    if n_configurations == 1:
        return torch.zeros_like(graph.numbers)
    counts = graph.offsets[1:] - graph.offsets[:-1]
    return torch.repeat_interleave(torch.arange(n_configurations, device=counts.device), counts)


def atoms_of(graph: Graph, configuration: int) -> Tuple[int, int]:
    """First atom of one configuration, and the first one behind it."""
    if graph.cells.shape[0] == 1:
        return 0, graph.positions.shape[0]
    return int(graph.offsets[configuration]), int(graph.offsets[configuration + 1])


def cell_of(graph: Graph, configuration: int) -> Optional[Tensor]:
    """Cell of one configuration, [3, 3] in Å; None where it is isolated."""
    known = graph.periodic
    if known is not None:
        periodic = known
    else:
        periodic = bool((graph.cells[configuration] != 0.0).any())
    cell: Optional[Tensor] = None
    if periodic:
        cell = graph.cells[configuration]
    return cell


def pair_vectors(graph: Graph) -> Tensor:
    """Vectors from centre to neighbour, [n_pairs, 3] in Å; differentiable in positions and cells."""
    vectors = graph.positions[graph.neighbors] - graph.positions[graph.centers]
    if graph.cells.shape[0] == 1:
        return vectors + graph.shifts @ graph.cells[0]
    cells = graph.cells[configuration_index(graph)[graph.centers]]  # [n_pairs, 3, 3]
    return vectors + torch.bmm(graph.shifts.unsqueeze(1), cells).squeeze(1)


def padded_pairs(graph: Graph) -> Tensor:
    """Pair numbers as a dense table, [n_atoms, most neighbours of an atom], filled with n_pairs.

    A row lists the pairs of one centre; dense products over rows are several times faster than
    scattering over an edge list.
    """
    known = graph.rows
    if known is not None:
        return known
    centers, n_atoms = graph.centers, graph.positions.shape[0]
    n_pairs = centers.numel()
    counts = torch.bincount(centers, minlength=n_atoms)
    width = int(counts.max()) if n_pairs > 0 else 0
    first = torch.cumsum(counts, 0) - counts
    pairs = torch.arange(n_pairs, device=centers.device)
    slots = centers * width + pairs - first[centers]
    table = torch.full((n_atoms * width,), n_pairs, dtype=torch.int64, device=centers.device)
    table[slots] = pairs
    return table.view(n_atoms, width)
