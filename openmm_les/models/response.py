"""Electrical response of a model: dipoles and Born effective charges, differentiable.

Both follow from the charges that energies and forces taught (Zhong, Kim, King and Cheng,
arXiv:2504.05169), and from atomic dipoles where a model has them (`LESModel.moments`).
"""

from __future__ import annotations

from typing import List

import torch
from torch import Tensor

from openmm_les.graph import Graph, configuration_index
from openmm_les.models.model import LESModel
from openmm_les.models.whole import whole_positions


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


__all__ = [
    "born_charges",
    "born_charges_of_moments",
    "dipole",
    "total_dipole",
    "whole_positions",
]
