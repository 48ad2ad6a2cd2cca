"""Whole molecules from positions in any image, inside TorchScript: what a dipole in a box needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from openmm_les.molecules import connected_molecules, spanning_bonds


class MoleculeReferences(nn.Module):
    """Places of atoms about a reference of their molecule.

    In a box the reference is the first atom of the molecule where it stands in the Context, and the
    others follow along bonds by the nearest image: moving any other atom by a box vector changes
    nothing. Without a box all molecules share one reference, the first atom of all.

    Parameters
    ----------
    molecules : [n_atoms], index of each atom's molecule
    bonds : pairs of atoms; read where there is a box only
    """

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        parents: Tensor
        roots: Tensor
        firsts: Tensor

    def __init__(self, molecules: Sequence[int], bonds: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        n_atoms = len(molecules)
        pairs = np.array(bonds, dtype=np.int64).reshape(-1, 2)
        parents = np.arange(n_atoms)
        depths = np.zeros(n_atoms, dtype=np.int64)
        roots = np.arange(n_atoms)
        for known, new in spanning_bonds(pairs, n_atoms):
            parents[new], depths[new], roots[new] = known, depths[known] + 1, roots[known]
        present, first = np.unique(np.array(molecules), return_index=True)
        firsts = np.zeros(int(present[-1]) + 1, dtype=np.int64)
        firsts[present] = first
        # Sums along paths to the root, the length of what is summed doubling each round.
        self.rounds = int(depths.max()).bit_length()
        self.register_buffer("parents", torch.from_numpy(parents))
        self.register_buffer("roots", torch.from_numpy(roots))
        self.register_buffer("firsts", torch.from_numpy(firsts))

    def forward(
        self, positions: Tensor, cell: Tensor | None, molecule_charges: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Places [n_atoms, 3] and the moment ``Σ_m Q_m R_m`` [3] of charges at references, both double.

        Parameters
        ----------
        positions : [n_atoms, 3], double
        cell : [3, 3], double, rows are vectors; None = isolated
        molecule_charges : [n_molecules]
        """
        charges = molecule_charges.to(torch.float64)
        if cell is None:
            return positions - positions[0], charges.sum() * positions[0]
        steps = (positions - positions.index_select(0, self.parents)) @ torch.linalg.inv(cell)
        images = -torch.round(steps)  # [n_atoms, 3], whole cell vectors, of each atom past its parent's
        before = self.parents
        for _ in range(self.rounds):
            images = images + images.index_select(0, before)
            before = before.index_select(0, before)
        whole = positions + images @ cell
        references = positions.index_select(0, self.firsts)  # [n_molecules, 3]
        n = references.shape[0]
        moment = (charges[:n].unsqueeze(1) * references).sum(0)
        return whole - positions.index_select(0, self.roots), moment


def check_bonded(molecules: Sequence[int], bonds: Sequence[tuple[int, int]]) -> None:
    """Raise ValueError unless bonds connect the atoms of every molecule."""
    found = connected_molecules(np.array(bonds, dtype=np.int64).reshape(-1, 2), len(molecules))
    parts: dict[int, int] = {}
    for atom, molecule in enumerate(molecules):
        if parts.setdefault(molecule, int(found[atom])) != found[atom]:
            raise ValueError(
                f"the bonds leave molecule {molecule} in several parts (one of them with its atom {atom}); "
                "an electric field in a periodic system needs molecules that bonds hold together, to know "
                "which images of their atoms belong together"
            )


__all__ = ["MoleculeReferences", "check_bonded"]
