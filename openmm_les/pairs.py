"""Neighbour pairs of one configuration, step after step: all pairs, or a cell list with a skin.

Both have one interface, ``(positions, cell) -> (centers, neighbors, shifts)`` as `all_pairs`, so
that the boundary module holds whichever is faster.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openmm_les.neighbors import all_pairs

DENSE_LIMIT = 200
"""Atoms up to which testing all pairs beats a cell list on a CPU."""


class DensePairs(nn.Module):
    """All pairs within ``cutoff`` (Å) by testing all of them; see `all_pairs`."""

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = float(cutoff)

    def forward(self, positions: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        return all_pairs(positions, cell, self.cutoff)


class CellListPairs(nn.Module):
    """All pairs within ``cutoff`` (Å) by vesin's cell list, rebuilt when an atom left its skin.

    ``skin`` in Å. The list remembers the positions it was built for, which must therefore not be
    wrapped between calls more often than needed: each jump of an atom costs a rebuild.
    """

    def __init__(self, cutoff: float, skin: float = 1.0) -> None:
        super().__init__()
        import vesin_torch  # noqa: F401  registers the TorchScript class used below

        self.cutoff = float(cutoff)
        self.list = torch.classes.vesin._NeighborList(self.cutoff, True, True, "auto", float(skin), 1)

    def forward(self, positions: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        periodic = torch.tensor(cell is not None, device=positions.device)
        box = torch.zeros((3, 3), dtype=torch.float64, device=positions.device)
        if cell is not None:
            box = cell.to(torch.float64)
        found = self.list.compute(positions.to(torch.float64), box, periodic, "ijS", True)
        return found[0], found[1], found[2].to(positions.dtype)


def make_pairs(cutoff: float, n_atoms: int) -> nn.Module:
    """The faster of `DensePairs` and `CellListPairs` for ``n_atoms``; ``cutoff`` in Å."""
    if n_atoms <= DENSE_LIMIT:
        return DensePairs(cutoff)
    return CellListPairs(cutoff)


__all__ = ["DENSE_LIMIT", "CellListPairs", "DensePairs", "make_pairs"]
