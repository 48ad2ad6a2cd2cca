"""Molecules made whole in any cell, by the pairs that a model sees."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from torch import Tensor

from openmm_les.graph import Graph, configuration_index, pair_vectors


def whole_positions(graph: Graph) -> Tensor:
    """Positions in which no molecule is torn by the cell, [n_atoms, 3] in Å.

    Differentiable in positions and cells. Atoms of a molecule follow each other along their shortest
    pairs; a molecule that winds through the whole cell has no such positions, and gets one of many.
    """
    if not bool((graph.cells != 0.0).any()):
        return graph.positions
    images = torch.from_numpy(_molecule_images(graph)).to(graph.positions)
    cells = graph.cells[configuration_index(graph)]  # [n_atoms, 3, 3]
    return graph.positions + torch.bmm(images.unsqueeze(1), cells).squeeze(1)


def _molecule_images(graph: Graph) -> np.ndarray:
    """Whole cell vectors to add to each atom's position, [n_atoms, 3]."""
    n_atoms = graph.positions.shape[0]
    inside = graph.molecules[graph.centers] == graph.molecules[graph.neighbors]
    with torch.no_grad():
        lengths = torch.linalg.vector_norm(pair_vectors(graph), dim=1)[inside].double().cpu().numpy()
    first = graph.centers[inside].cpu().numpy()
    second = graph.neighbors[inside].cpu().numpy()
    shifts = graph.shifts[inside].double().cpu().numpy()
    # Of several images of a pair the nearest; both directions of a pair are listed.
    order = np.argsort(lengths, kind="stable")
    order = order[first[order] != second[order]]
    keys, places = np.unique(first[order] * n_atoms + second[order], return_index=True)
    nearest = order[places]
    pairs = coo_array((lengths[nearest], (first[nearest], second[nearest])), shape=(n_atoms, n_atoms))
    tree = minimum_spanning_tree(pairs)
    _, parts = connected_components(tree, directed=False)
    images = np.zeros((n_atoms, 3))
    for root in np.unique(parts, return_index=True)[1]:
        walk, before = breadth_first_order(tree, root, directed=False)
        steps = np.searchsorted(keys, before[walk[1:]].astype(np.int64) * n_atoms + walk[1:])
        for atom, step in zip(walk[1:], steps):
            images[atom] = images[before[atom]] + shifts[nearest[step]]
    return images


__all__ = ["whole_positions"]
