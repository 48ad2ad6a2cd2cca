"""Electrical response of a model: dipoles and Born effective charges, differentiable.

Both follow from the charges that energies and forces taught (Zhong, Kim, King and Cheng,
arXiv:2504.05169), and from atomic dipoles where a model has them (`LESModel.moments`).
"""

from __future__ import annotations

from typing import List

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from torch import Tensor

from openmm_les.graph import Graph, configuration_index, pair_vectors
from openmm_les.models.model import LESModel


def dipole(model: LESModel, graph: Graph) -> Tensor:
    """Dipole of each configuration, ``Σ q_i r_i + u_i``, about the origin of the coordinates.

    Parameters
    ----------
    model : gives charges and dipoles of atoms
    graph : one or several configurations; positions in Å

    Returns
    -------
    [n_configurations, 3], e·Å, differentiable in positions and parameters. Where molecules are
    charged it depends on the origin, and in a cell on the image of the molecule.

    Notes
    -----
    In a cell, molecules are made whole first (`whole_positions`), so that the dipole of neutral
    molecules depends on no choice of image.
    """
    charges, dipoles = model.moments(graph)
    return total_dipole(charges, dipoles, graph)


def born_charges(model: LESModel, graph: Graph, *, differentiable: bool = False) -> Tensor:
    """Born effective charges: change of the dipole as an atom moves.

    Parameters
    ----------
    model : gives charges and dipoles of atoms and how they follow positions
    graph : one or several configurations; positions in Å
    differentiable : keep the result differentiable in the parameters, for training

    Returns
    -------
    [n_atoms, 3, 3], e: ``[atom, polarisation, displacement]``, dP_a/dr_b. Their sum over the atoms
    of a configuration is its total charge times the unit matrix.
    """
    with torch.enable_grad():
        positions = graph.positions
        if not positions.requires_grad:
            positions = positions.detach().requires_grad_(True)
        graph = graph._replace(positions=positions)
        charges, dipoles = model.moments(graph)
        return born_charges_of_moments(charges, dipoles, graph, differentiable=differentiable)


def total_dipole(charges: Tensor, dipoles: Tensor, graph: Graph) -> Tensor:
    """Dipoles of configurations, [n_configurations, 3] in e·Å; see `dipole`.

    ``charges`` [n_atoms] in e and ``dipoles`` [n_atoms, 3] in e·Å are physical ones.
    """
    moments = charges.unsqueeze(1) * whole_positions(graph) + dipoles
    total = torch.zeros_like(graph.cells[:, 0])
    return total.index_add(0, configuration_index(graph.offsets), moments)


def born_charges_of_moments(
    charges: Tensor, dipoles: Tensor, graph: Graph, *, differentiable: bool = False
) -> Tensor:
    """Born charges of physical moments (see `total_dipole`) that were computed from ``graph.positions``.

    The positions must require gradients; the record of the moments is kept. See `born_charges`.
    """
    total = total_dipole(charges, dipoles, graph).sum(0)  # configurations do not feel each other
    rows: List[Tensor] = []
    for axis in range(3):
        (row,) = torch.autograd.grad(
            total[axis], graph.positions, retain_graph=True, create_graph=differentiable
        )
        rows.append(row)
    return torch.stack(rows, 1)


def whole_positions(graph: Graph) -> Tensor:
    """Positions in which no molecule is torn by the cell, [n_atoms, 3] in Å.

    Differentiable in positions and cells. Atoms of a molecule follow each other along their shortest
    pairs; a molecule that winds through the whole cell has no such positions, and gets one of many.
    """
    if not bool((graph.cells != 0.0).any()):
        return graph.positions
    images = torch.from_numpy(_molecule_images(graph)).to(graph.positions)
    cells = graph.cells[configuration_index(graph.offsets)]  # [n_atoms, 3, 3]
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


__all__ = [
    "born_charges",
    "born_charges_of_moments",
    "dipole",
    "total_dipole",
    "whole_positions",
]
