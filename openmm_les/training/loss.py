"""What training minimises: errors of forces and energies, nothing else."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from openmm_les.models.model import Prediction
from openmm_les.training.batches import Batch


class Losses(NamedTuple):
    """Terms of the loss of one batch, scalars."""

    total: Tensor
    force: Tensor
    """eV/Å, mean length of the force error"""
    energy: Tensor
    """eV per atom, mean absolute error"""


def predict_with_forces(model: nn.Module, batch: Batch, train: bool) -> tuple[Prediction, Tensor, Tensor]:
    """Prediction, total energies [n_configurations] and forces [n_atoms, 3].

    ``train`` keeps the forces differentiable in the model's parameters.
    """
    with torch.enable_grad():
        positions = batch.graph.positions.detach().requires_grad_(True)
        prediction = model(batch.graph._replace(positions=positions))
        energy = prediction.energy_short_range + prediction.energy_long_range.double()
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=train)
    return prediction, energy, -gradient


def energy_force_loss(energy: Tensor, forces: Tensor, batch: Batch, energy_weight: float) -> Losses:
    """Mean length of the force error plus ``energy_weight`` times the mean of |ΔE| per atom.

    Parameters
    ----------
    energy : [n_configurations], eV
    forces : [n_atoms, 3], eV/Å
    batch : with the labels
    energy_weight : 1/Å
    """
    sizes = batch.graph.offsets[1:] - batch.graph.offsets[:-1]
    force = torch.linalg.vector_norm(forces - batch.forces, dim=1).mean()
    error = ((energy - batch.energy).abs() / sizes).mean().to(force.dtype)
    return Losses(force + energy_weight * error, force, error)


__all__ = ["Losses", "energy_force_loss", "predict_with_forces"]
