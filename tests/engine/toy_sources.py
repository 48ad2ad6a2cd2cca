"""A source module whose charges and dipoles follow an external potential, with closed forms."""

from __future__ import annotations

from typing import Optional, Tuple

import torch
from torch import Tensor, nn

from openmm_les.graph import Graph, configuration_index
from openmm_les.models.backbone import BackboneOutput
from openmm_les.models.long_range import External, LongRange
from openmm_les.models.model import LESModel
from tests.engine.builders import quiet_model


class ToyResponse(nn.Module):
    """Minimum of ``Σ χ_i q_i + J q_i²/2 + u_i²/2α`` in the external potential, without Coulomb terms.

    ``χ`` comes from a feature, charges are conserved molecule by molecule.
    """

    responds = True
    dipolar = True

    def __init__(self, hardness: float = 8.0, polarizability: float = 0.05) -> None:
        super().__init__()
        self.hardness = hardness
        self.polarizability = polarizability

    def charges(self, affinity: Tensor, graph: Graph) -> Tensor:
        """Charges at ``affinity``, [n_atoms] in eV/e: electronegativity and external potential."""
        ones = torch.ones_like(affinity)
        counts = torch.zeros_like(graph.molecule_charges).index_add(0, graph.molecules, ones)
        sums = torch.zeros_like(graph.molecule_charges).index_add(0, graph.molecules, affinity)
        level = (self.hardness * graph.molecule_charges + sums) / counts
        return (level[graph.molecules] - affinity) / self.hardness

    def electronegativity(self, atoms: BackboneOutput) -> Tensor:
        return 3.0 * torch.tanh(atoms.features[:, 0])

    def forward(
        self, atoms: BackboneOutput, graph: Graph, differentiable: bool, external: Optional[External]
    ) -> LongRange:
        chi = self.electronegativity(atoms)
        affinity = chi
        dipoles = torch.zeros_like(graph.positions)
        if external is not None:
            affinity = chi + external.potential
            dipoles = self.polarizability * external.field
        charges = self.charges(affinity, graph)
        own = chi * charges + 0.5 * self.hardness * charges * charges
        own = own + 0.5 * (dipoles * dipoles).sum(1) / self.polarizability
        configurations = configuration_index(graph)
        energies = torch.zeros_like(graph.cells[:, 0, 0]).index_add(0, configurations, own)
        with torch.no_grad():
            held = charges.clone()
        return LongRange(energies, charges, dipoles, (held * chi).sum(), torch.zeros_like(graph.positions))

    @torch.jit.export
    def moments(self, atoms: BackboneOutput, graph: Graph) -> Tuple[Tensor, Tensor]:
        charges = self.charges(self.electronegativity(atoms), graph)
        return charges, torch.zeros_like(graph.positions)


def responding_model() -> LESModel:
    """`quiet_model` with a `ToyResponse`."""
    model = quiet_model()
    return LESModel(
        model.backbone,
        model.charge_head,
        model.electrostatics,
        model.elements,
        sources=ToyResponse(),
    ).double()
