"""The LES model: a short-range backbone, a latent-charge head and a Coulomb sum."""

from __future__ import annotations

from typing import List, NamedTuple, Optional

import torch
from torch import Tensor, nn

from openmm_les.electrostatics import LatentCoulomb
from openmm_les.graph import Graph, configuration_index


class Prediction(NamedTuple):
    """Energies of configurations and charges of atoms."""

    energy_short_range: Tensor
    """[n_configurations], eV, reference energies of the elements included"""
    energy_long_range: Tensor
    """[n_configurations], eV"""
    latent_charges: Tensor
    """[n_atoms], e"""
    potentials: Tensor
    """[n_atoms], eV/e, dE_long_range/dq"""
    gradients: Tensor
    """[n_atoms, 3], eV/Å, dE_long_range/dr at fixed charges"""


class LESModel(nn.Module):
    """Short-range energies plus the Coulomb energy of latent charges.

    Parameters
    ----------
    backbone : module as `BackboneOutput` describes
    charge_head : module (features, numbers, molecules, molecule_charges) -> charges
    electrostatics : `LatentCoulomb` or a module with its signature
    elements : atomic numbers the model knows, ascending
    reference_energies : eV per atom of each element, added to the short-range energy
    """

    def __init__(
        self,
        backbone: nn.Module,
        charge_head: nn.Module,
        electrostatics: LatentCoulomb,
        elements: List[int],
        reference_energies: Optional[List[float]] = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.charge_head = charge_head
        self.electrostatics = electrostatics
        self.elements = elements
        # Total energies are thousands of eV: kept in double whatever the weights are in.
        table = torch.zeros(119, dtype=torch.float64)
        if reference_energies is not None:
            table[torch.tensor(elements)] = torch.tensor(reference_energies, dtype=torch.float64)
        self.register_buffer("reference_energies", table)

    def forward(self, graph: Graph) -> Prediction:
        """Energies and charges, differentiable in positions and cells."""
        atoms = self.backbone(graph)
        charges = self.charge_head(
            atoms.features, graph.numbers, graph.molecules, graph.molecule_charges
        )
        n_configurations = graph.cells.shape[0]
        configurations = configuration_index(graph.offsets)
        references = self.reference_energies[graph.numbers]  # float64
        short = torch.zeros(n_configurations, dtype=references.dtype, device=references.device)
        short = short.index_add(0, configurations, atoms.energies.to(references.dtype) + references)
        energies: List[Tensor] = []
        potentials: List[Tensor] = []
        gradients: List[Tensor] = []
        for i in range(n_configurations):
            begin, end = int(graph.offsets[i]), int(graph.offsets[i + 1])
            cell: Optional[Tensor] = graph.cells[i]
            if bool((graph.cells[i] == 0.0).all()):
                cell = None
            energy, potential, gradient = self.electrostatics(
                graph.positions[begin:end], charges[begin:end], cell
            )
            energies.append(energy)
            potentials.append(potential)
            gradients.append(gradient)
        return Prediction(
            short, torch.stack(energies), charges, torch.cat(potentials), torch.cat(gradients)
        )
