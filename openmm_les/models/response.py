"""Electrical response of a model: dipoles and Born effective charges, differentiable.

Both follow from the charges that energies and forces taught (Zhong, Kim, King and Cheng,
arXiv:2504.05169), and from atomic dipoles where a model has them (`LESModel.moments`).
"""

from __future__ import annotations

from typing import List, Tuple

import torch
from torch import Tensor

from openmm_les.graph import Graph, configuration_index
from openmm_les.models.long_range import External
from openmm_les.models.model import LESModel
from openmm_les.models.whole import whole_positions
from openmm_les.units import COULOMB_CONSTANT


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


def polarizability(model: LESModel, graph: Graph) -> Tensor:
    """Polarizability of each configuration: change of its dipole with a uniform field.

    Parameters
    ----------
    model : one that responds to a field, see `LESModel.responds`
    graph : one or several isolated configurations; positions in Å

    Returns
    -------
    [n_configurations, 3, 3], Å³: over 14.399645 V·Å/e (the Coulomb constant) in e·Å²/V. Differentiable in
    the parameters where gradients are enabled.

    Raises
    ------
    ValueError
        The model does not respond to a field; a configuration is periodic.
    """
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        fields, external = probing_fields(model, graph)
        found = model(graph, True, external)
        return polarizability_of_moments(
            found.latent_charges, found.latent_dipoles, graph, fields, differentiable=differentiable
        )


def probing_fields(model: LESModel, graph: Graph) -> Tuple[Tensor, External]:
    """Fields of zero, [n_configurations, 3] in V/Å, that ask for gradients, and what atoms feel of them.

    Errors as in `polarizability`.
    """
    if not model.responds:
        raise ValueError("this model does not respond to a field: it has no polarizability")
    if bool((graph.cells != 0.0).any()):
        raise ValueError("the polarizability is that of isolated configurations, these are periodic")
    fields = torch.zeros_like(graph.cells[:, 0]).requires_grad_(True)
    at_atoms = fields[configuration_index(graph)]
    return fields, External(-(graph.positions * at_atoms).sum(1), at_atoms)


def polarizability_of_moments(
    charges: Tensor, dipoles: Tensor, graph: Graph, fields: Tensor, *, differentiable: bool = False
) -> Tensor:
    """Polarizabilities of moments that were found in ``fields`` of `probing_fields`; see `polarizability`."""
    total = total_dipole(charges, dipoles, graph).sum(0)  # configurations do not feel each other
    rows: List[Tensor] = []
    for axis in range(3):
        (row,) = torch.autograd.grad(total[axis], fields, retain_graph=True, create_graph=differentiable)
        rows.append(row)
    return COULOMB_CONSTANT * torch.stack(rows, 1)


def total_dipole(charges: Tensor, dipoles: Tensor, graph: Graph) -> Tensor:
    """Dipoles of configurations, [n_configurations, 3] in e·Å; see `dipole`.

    ``charges`` [n_atoms] in e and ``dipoles`` [n_atoms, 3] in e·Å are physical ones.
    """
    moments = charges.unsqueeze(1) * whole_positions(graph) + dipoles
    total = torch.zeros_like(graph.cells[:, 0])
    return total.index_add(0, configuration_index(graph), moments)


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
    "polarizability",
    "polarizability_of_moments",
    "probing_fields",
    "total_dipole",
    "whole_positions",
]
