"""A uniform external electric field: potential at atoms, energy of their moments, gradients.

The energy is ``-E · M`` with the total dipole ``M = Σ q_i r_i + u_i`` of physical charges and atomic
dipoles. Positions are taken from references, one for every molecule, because only then are sums of
charges times positions exact in single precision and the same in every image: a molecule's charge
at its reference is a constant of its own, ``-E · Σ_m Q_m R_m``.
"""

# Annotations are evaluated here: TorchScript cannot follow their text in Optional[External].
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor, nn

from openmm_les.graph import Graph
from openmm_les.models.long_range import External
from openmm_les.models.whole import whole_positions


class UniformField(NamedTuple):
    """A field at the atoms of a configuration; constants to autograd."""

    external: External
    """Potential ``-E · (r_i - R_m)`` about each molecule's reference, and the field itself"""
    constant: Tensor
    """scalar, double, eV, energy ``-E · Σ_m Q_m R_m`` of the molecules' charges at their references"""


def uniform_field(field: Tensor, places: Tensor, charge_moment: Tensor, like: Tensor) -> UniformField:
    """The field at atoms.

    Parameters
    ----------
    field : [3], V/Å
    places : [n_atoms, 3], Å, of the atoms about the references of their molecules, molecules whole
    charge_moment : [3], e·Å, ``Σ_m Q_m R_m``, charges of molecules times references
    like : tensor in the dtype of the model
    """
    with torch.no_grad():
        strength = field.to(torch.float64)
        potential = -(places.to(torch.float64) @ strength)
        everywhere = strength.unsqueeze(0).expand(places.shape[0], 3)
        external = External(potential.to(like.dtype).clone(), everywhere.to(like.dtype).clone())
        constant = -(charge_moment.to(torch.float64) * strength).sum()
    return UniformField(external, constant)


def field_of_graph(graph: Graph, field: Tensor) -> UniformField:
    """The field ([3], V/Å) at the atoms of one configuration, molecules made whole by the pairs in it.

    References are those of a simulation: the first atom of each molecule in a cell, of all without.
    """
    with torch.no_grad():
        r = whole_positions(graph).double()
        present, firsts, places = np.unique(
            graph.molecules.cpu().numpy(), return_index=True, return_inverse=True
        )
        if not bool((graph.cells != 0.0).any()):
            firsts[:] = 0
        references = r[torch.from_numpy(firsts)]
        charges = graph.molecule_charges[torch.from_numpy(present)].double()
        moment = charges @ references
        return uniform_field(
            field.to(r.device), r - references[torch.from_numpy(places)], moment, graph.positions
        )


def check_flow(model: nn.Module, n_molecules: int) -> None:
    """Raise ValueError where charge flows between the molecules of a cell, which then has no dipole."""
    if n_molecules > 1 and not getattr(model.sources, "by_molecule", True):
        raise ValueError(
            "the model equilibrates charge over several molecules (conserve='configuration'): in a periodic "
            "system their dipole and Born charges depend on the images that are looked at, and an electric "
            "field has no energy. Leave the box out, or conserve charge by molecule"
        )


def external_energy(external: External, charges: Tensor, dipoles: Tensor) -> Tensor:
    """Energy of physical charges ([n_atoms], e) and dipoles ([n_atoms, 3], e·Å), scalar in eV."""
    return (external.potential * charges).sum() - (external.field * dipoles).sum()


def field_energy(uniform: UniformField, charges: Tensor, dipoles: Tensor) -> Tensor:
    """Energy ``-E · M`` of physical moments, scalar, double, eV, without a gradient."""
    with torch.no_grad():
        energy = external_energy(uniform.external, charges, dipoles).to(torch.float64) + uniform.constant
        energy = energy.clone()
    return energy


def superposed(first: Optional[External], second: External) -> External:
    """Two external potentials at once."""
    if first is None:
        return second
    return External(first.potential + second.potential, first.field + second.field)


__all__ = [
    "UniformField",
    "check_flow",
    "external_energy",
    "field_energy",
    "field_of_graph",
    "superposed",
    "uniform_field",
]
