"""Neighbour pairs in rows of one length, in memory that stays where it is: what a CUDA graph can read."""

from __future__ import annotations

import torch
from torch import Tensor

from openmm_les.graph import Graph

SEARCHED = 1500
"""Atoms up to which `Rows.search` tests all pairs; their distances take some 0.3 GB there."""


class Rows:
    """Pairs of a graph in rows of one length, in memory that stays where it is.

    Parameters
    ----------
    graph : the first to hold
    width : pairs in a row
    """

    def __init__(self, graph: Graph, width: int) -> None:
        n, device = graph.positions.shape[0], graph.positions.device
        self.width = width
        self._length = n * width
        self._first = torch.arange(n, device=device)
        # One place more, for what finds none.
        self._neighbors = torch.zeros(self._length + 1, dtype=torch.int64, device=device)
        self._shifts = torch.zeros((self._length + 1, 3), dtype=graph.shifts.dtype, device=device)
        self._real = torch.zeros(self._length + 1, dtype=torch.bool, device=device)
        self.graph = Graph(
            positions=graph.positions.detach().clone().requires_grad_(True),
            numbers=graph.numbers,
            centers=self._first.repeat_interleave(width),
            neighbors=self._neighbors[:-1],
            shifts=self._shifts[:-1],
            cells=graph.cells.clone(),
            offsets=graph.offsets,
            molecules=graph.molecules,
            molecule_charges=graph.molecule_charges,
            periodic=graph.periodic,
            rows=self._real[:-1].view(n, width),
        )

    def fill(self, graph: Graph) -> Tensor:
        """Take up another graph of the same atoms; returns how many pairs found no place, scalar."""
        with torch.no_grad():
            self.graph.positions.copy_(graph.positions)
            self.graph.cells.copy_(graph.cells)
            order = torch.arange(graph.centers.shape[0], device=graph.centers.device)
            centers = graph.centers.contiguous()
            place = order - torch.searchsorted(centers, self._first)[centers]
            fits = place < self.width
            slots = torch.where(fits, centers * self.width + place, self._length)
            self.graph.neighbors.copy_(self.graph.centers)
            self._real.zero_()
            self._neighbors[slots] = graph.neighbors
            self._shifts[slots] = graph.shifts
            self._real[slots] = True
        return (~fits).sum()

    def search(self, positions: Tensor, cell: Tensor | None, inverse: Tensor | None, cutoff: float) -> Tensor:
        """Take up positions and find their neighbours; returns how many pairs found no place, scalar.

        All pairs are tested, and no shape depends on what is found, so that a CUDA graph can record it.

        Parameters
        ----------
        positions : [n_atoms, 3], Å, double
        cell : [3, 3], Å, double, each of its widths over twice the cutoff; None = isolated
        inverse : of the cell
        cutoff : Å
        """
        n, width = positions.shape[0], self.width
        with torch.no_grad():
            vectors = positions.unsqueeze(0) - positions.unsqueeze(1)  # [centre, neighbour, 3]
            shifts: Tensor | None = None
            if cell is not None and inverse is not None:
                shifts = -torch.round(vectors @ inverse)
                vectors = vectors + shifts @ cell
                self.graph.cells.copy_(cell)
            near = (vectors * vectors).sum(-1) < cutoff * cutoff
            near.fill_diagonal_(False)
            # Neighbours stand in their row in the order of atoms; one place more takes all others.
            slots = torch.where(near, (near.cumsum(1) - 1).clamp(max=width), width)
            own = self._first.unsqueeze(1).repeat(1, width + 1)
            found = own.scatter(1, slots, self._first.expand(n, n))
            self.graph.neighbors.view(n, width).copy_(found[:, :width])
            real = torch.zeros_like(found, dtype=torch.bool).scatter(1, slots, near)
            self._real[:-1].view(n, width).copy_(real[:, :width])
            if shifts is not None:
                none = shifts.new_zeros((n, width + 1, 3))
                of_rows = none.scatter(1, slots.unsqueeze(-1).expand(-1, -1, 3), shifts)
                self.graph.shifts.view(n, width, 3).copy_(of_rows[:, :width])
            self.graph.positions.copy_(positions)
            return (near.sum(1) - width).clamp(min=0).sum()


__all__ = ["SEARCHED", "Rows"]
