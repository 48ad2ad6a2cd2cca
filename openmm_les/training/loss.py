"""What training minimises: errors of forces and energies, and of other labels where asked."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from openmm_les.graph import Graph, configuration_index
from openmm_les.models.model import LESModel, Prediction
from openmm_les.models.response import (
    born_charges_of_moments,
    polarizability_of_moments,
    probing_fields,
    total_dipole,
)
from openmm_les.training.batches import Batch


class Outputs(NamedTuple):
    """What a model says of a batch, with the derivatives that labels are compared with."""

    prediction: Prediction
    energy: Tensor
    """[n_configurations], eV, total"""
    forces: Tensor
    """[n_atoms, 3], eV/Å"""
    charges: Tensor
    """[n_atoms], e, physical ones"""
    stress: Tensor | None
    """[n_configurations, 3, 3], eV/Å³, zero for isolated ones; None where not asked for"""
    dipole: Tensor | None
    """[n_configurations, 3], e·Å; None where not asked for"""
    born_charges: Tensor | None
    """[n_atoms, 3, 3], e, [atom, polarisation, displacement]; None where not asked for"""
    polarizability: Tensor | None
    """[n_configurations, 3, 3], Å³; None where not asked for"""


class Weights(NamedTuple):
    """Weights of the terms of the loss; see `TrainingSettings` for units."""

    force: float
    energy: float
    stress: float = 0.0
    dipole: float = 0.0
    born_charges: float = 0.0
    molecule: float = 0.0
    polarizability: float = 0.0


class Losses(NamedTuple):
    """Terms of the loss of one batch, scalars; zero where there is no label."""

    total: Tensor
    force: Tensor
    """eV/Å, mean length of the force error"""
    energy: Tensor
    """eV per atom, mean absolute error"""
    stress: Tensor
    """eV per atom, mean size of the error of the virial"""
    dipole: Tensor
    """e·Å, mean length of the error over the root of the number of atoms"""
    born_charges: Tensor
    """e, mean size of the error of an atom"""
    molecule: Tensor
    """eV/Å, see `molecule_error`"""
    polarizability: Tensor
    """Å³ per atom, mean size of the error over the number of atoms"""


def predict_batch(
    model: LESModel,
    batch: Batch,
    train: bool,
    *,
    stress: bool = False,
    dipole: bool = False,
    born_charges: bool = False,
    polarizability: bool = False,
) -> Outputs:
    """Everything a model says of a batch; polarizabilities of periodic configurations mean nothing.

    ``train`` keeps all of it differentiable in the model's parameters.
    """
    with torch.enable_grad():
        positions = batch.graph.positions.detach().requires_grad_(True)
        graph = batch.graph._replace(positions=positions)
        inputs = [positions]
        if stress:
            strain = torch.zeros_like(graph.cells).requires_grad_(True)
            inputs.append(strain)
            strains = strain[configuration_index(graph)]
            graph = graph._replace(
                positions=positions + torch.bmm(positions.unsqueeze(1), strains).squeeze(1),
                cells=graph.cells + torch.bmm(graph.cells, strain),
            )
        external, fields = None, None
        if polarizability:
            # A field of zero changes nothing, but the dipoles' slopes over it are the polarizability.
            isolated = batch.graph._replace(cells=torch.zeros_like(batch.graph.cells))
            fields, external = probing_fields(model, isolated)
        prediction: Prediction = model(graph, True, external)
        energy = prediction.energy_short_range + prediction.energy_long_range.double()
        gradients = torch.autograd.grad(
            energy.sum(), inputs, create_graph=train, retain_graph=train or born_charges or polarizability
        )
        charges = model.physical_charges(prediction.latent_charges, batch.graph)
        still = batch.graph._replace(positions=positions)
        dipoles = prediction.latent_dipoles
        moment = total_dipole(charges, dipoles, still) if dipole else None
        born = None
        if born_charges:
            born = born_charges_of_moments(charges, dipoles, still, differentiable=train)
        alpha = None
        if fields is not None:
            alpha = polarizability_of_moments(charges, dipoles, still, fields, differentiable=train)
    found = None
    if stress:
        volumes = torch.abs(torch.linalg.det(batch.graph.cells)).view(-1, 1, 1)
        volumes = volumes.masked_fill(volumes == 0.0, torch.inf)  # NaN would spread to gradients
        found = 0.5 * (gradients[1] + gradients[1].transpose(1, 2)) / volumes
    return Outputs(prediction, energy, -gradients[0], charges, found, moment, born, alpha)


def batch_losses(outputs: Outputs, batch: Batch, weights: Weights) -> Losses:
    """Terms of the loss of a batch, each a mean over what has the label.

    Parameters
    ----------
    outputs : of `predict_batch`, with everything whose weight is not zero
    batch : with the labels
    weights : terms of weight zero are not computed, except those of forces and energies
    """
    sizes = batch.graph.offsets[1:] - batch.graph.offsets[:-1]
    force = torch.linalg.vector_norm(outputs.forces - batch.forces, dim=1).mean()
    energy = ((outputs.energy - batch.energy).abs() / sizes).mean().to(force.dtype)
    stress = dipole = born = molecule = alpha = torch.zeros_like(force)
    if weights.stress > 0.0 and outputs.stress is not None:
        per_atom = torch.abs(torch.linalg.det(batch.graph.cells)) / sizes
        stress = _mean_error(outputs.stress, batch.stress, per_atom)
    if weights.dipole > 0.0 and outputs.dipole is not None:
        dipole = _mean_error(outputs.dipole, batch.dipole, sizes.to(force.dtype).rsqrt())
    if weights.born_charges > 0.0 and outputs.born_charges is not None:
        born = _mean_error(outputs.born_charges, batch.born_charges, torch.ones_like(batch.forces[:, 0]))
    if weights.molecule > 0.0:
        molecule = molecule_error(outputs.forces - batch.forces, batch.graph)
    if weights.polarizability > 0.0 and outputs.polarizability is not None:
        alpha = _mean_error(outputs.polarizability, batch.polarizability, 1.0 / sizes.to(force.dtype))
    total = weights.force * force + weights.energy * energy
    total = total + weights.stress * stress + weights.dipole * dipole + weights.born_charges * born
    total = total + weights.molecule * molecule + weights.polarizability * alpha
    return Losses(total, force, energy, stress, dipole, born, molecule, alpha)


def counted_molecules(graph: Graph) -> Tensor:
    """Molecules of isolated configurations that hold more than one, [n_molecules] bool."""
    owner = graph.molecules.new_zeros(graph.molecule_charges.shape[0])
    owner = owner.index_copy(0, graph.molecules, configuration_index(graph))
    companions = torch.bincount(owner, minlength=graph.cells.shape[0])
    return (companions > 1)[owner] & (graph.cells[owner] == 0.0).all(2).all(1)


def molecule_error(error: Tensor, graph: Graph) -> Tensor:
    """Error of the net force on a molecule plus that of its torque over its radius, mean, eV/Å.

    Both come from other molecules alone: what a short-range part gets wrong inside a molecule drops
    out, and beyond its cutoff they are those of the charges. Those of `counted_molecules` count; 0 where
    there are none.

    Parameters
    ----------
    error : [n_atoms, 3], eV/Å, of forces
    graph : of the batch; its positions, molecules and cells are read
    """
    molecules, positions = graph.molecules, graph.positions.detach()
    n = graph.molecule_charges.shape[0]

    def total(values: Tensor) -> Tensor:
        return values.new_zeros((n, *values.shape[1:])).index_add(0, molecules, values)

    sizes = total(torch.ones_like(positions[:, 0]))
    arms = positions - (total(positions) / sizes.unsqueeze(1))[molecules]
    radii = torch.sqrt(total((arms * arms).sum(1)) / sizes).clamp(min=0.5)  # Å, single atoms have none
    net, torque = total(error), total(torch.linalg.cross(arms, error))
    counted = counted_molecules(graph)
    lengths = _length(net) + _length(torque) / radii
    return (lengths * counted).sum() / counted.sum().clamp(min=1)


def _mean_error(found: Tensor, wanted: Tensor, scale: Tensor) -> Tensor:
    """Mean of ``scale`` [n] times the length of the difference, [n, ...], where there is a label."""
    labelled = torch.isfinite(wanted.flatten(1)).all(1)
    difference = (found[labelled] - wanted[labelled]).flatten(1) * scale[labelled].unsqueeze(1)
    return _length(difference).sum() / labelled.sum().clamp(min=1)


def _length(vectors: Tensor) -> Tensor:
    """Lengths of [n, m] vectors, differentiable at zero."""
    return torch.sqrt((vectors * vectors).sum(1) + 1e-12)


__all__ = [
    "Losses",
    "Outputs",
    "Weights",
    "batch_losses",
    "counted_molecules",
    "molecule_error",
    "predict_batch",
]
