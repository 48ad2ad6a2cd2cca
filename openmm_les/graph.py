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
    """[n_atoms, width], bool: pairs come in rows of ``width``, one row a centre, and these are real ones.
    None = all are"""


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
    periodic = known if known is not None else bool((graph.cells[configuration] != 0.0).any())
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


def pair_rows(graph: Graph, padding: float) -> Tuple[Tensor, Tensor]:
    """Vectors to neighbours ([n_atoms, width, 3], Å) and which they are ([n_atoms, width]), row by row.

    Where an atom has fewer neighbours than others, any atom stands with a vector of components ``padding``
    (Å), beyond the cutoff.
    """
    n = graph.positions.shape[0]
    real = graph.rows
    if real is not None:
        # As everywhere, but no pair is looked up: on a GPU the derivative of a look-up is slow.
        near = graph.positions.index_select(0, graph.neighbors).view(n, -1, 3)
        vectors = near - graph.positions.unsqueeze(1) + (graph.shifts @ graph.cells[0]).view(near.shape)
        vectors = torch.where(real.unsqueeze(-1), vectors, padding)
        return vectors, graph.neighbors.view(real.shape)
    table = padded_pairs(graph.centers, n)  # [n, width], n_pairs on padding
    outside = torch.full_like(graph.positions[:1], padding)
    vectors = torch.cat([pair_vectors(graph), outside], 0)[table]
    neighbors = torch.cat([graph.neighbors, torch.zeros_like(graph.numbers[:1])], 0)
    return vectors, neighbors[table]
