"""The built-in backbone: scalars, vectors and rank-2 tensors in body-ordered products.

Pairs lie in dense rows (one row of neighbours per atom), which turns sums over neighbours into batched
matrix products.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import torch
from torch import Tensor, nn

from openmm_les.graph import Graph, pair_rows
from openmm_les.models.backbone import BackboneOutput
from openmm_les.models.charge_embedding import ChargeEmbedding
from openmm_les.models.constants import ExactConstants, element_index
from openmm_les.models.interaction import FirstInteraction, Interaction, LaterInteraction
from openmm_les.models.radial import BesselBasis, NuclearRepulsion, envelope
from openmm_les.models.tensor_product import Features, angular_functions, tensor_basis


def _start(linear: nn.Linear, gain: float) -> None:
    """Random weights that multiply the size of independent inputs by ``gain``; no bias."""
    nn.init.normal_(linear.weight, std=gain * linear.in_features**-0.5)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


class EquivariantBackbone(ExactConstants):
    """Compact equivariant message-passing network of scalars, vectors and rank-2 tensors.

    Parameters
    ----------
    elements : atomic numbers the network knows
    cutoff : Å
    n_channels : channels of each of scalars, vectors and tensors
    n_message : channels of the neighbours' vectors and tensors that travel (the costly part)
    n_layers : rounds of message passing
    n_basis : Bessel functions
    n_radial : width of the element-pair radial network
    mean_neighbors : typical number of neighbours, scales sums over them
    equivariants : highest rank of features given beside scalars: 0, 1 (vectors) or 2 (tensors, too).
        More than 0 makes the last round work out what it else leaves out
    charge_embedding : energies and features depend on the charge of an atom's own molecule; see
        `ChargeEmbedding`

    Raises
    ------
    ValueError
        Elements that are none or come twice; a size that is not positive; an unknown rank.

    Notes
    -----
    Built from published ideas: products of neighbour densities (Drautz, Phys. Rev. B 99, 014104
    (2019); Batatia et al., NeurIPS 2022), equivariant messages of Cartesian vectors and tensors
    (Schütt et al., ICML 2021; Simeon and De Fabritiis, NeurIPS 2023).
    """

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        index: Tensor
        basis: Tensor

    reads_rows = True

    def __init__(
        self,
        elements: List[int],
        cutoff: float = 4.5,
        n_channels: int = 48,
        n_message: int = 8,
        n_layers: int = 2,
        n_basis: int = 8,
        n_radial: int = 32,
        mean_neighbors: float = 20.0,
        equivariants: int = 0,
        charge_embedding: bool = False,
    ) -> None:
        super().__init__()
        if equivariants not in (0, 1, 2):
            raise ValueError(f"`equivariants` must be 0, 1 or 2, got {equivariants}")
        sizes = {
            "cutoff": cutoff,
            "n_channels": n_channels,
            "n_message": n_message,
            "n_layers": n_layers,
            "n_basis": n_basis,
            "n_radial": n_radial,
            "mean_neighbors": mean_neighbors,
        }
        for name, size in sizes.items():
            if not 0 < size < math.inf:
                raise ValueError(f"`{name}` must be positive, got {size}")
        self.settings = {
            "elements": [int(z) for z in elements],
            **sizes,
            "equivariants": equivariants,
            "charge_embedding": charge_embedding,
        }
        self.cutoff = float(cutoff)
        self.n_features = n_layers * n_channels
        self.n_equivariants = n_channels
        self.equivariants = equivariants
        self.neighbor_scale = 1.0 / math.sqrt(mean_neighbors)
        self.register_buffer("index", element_index(elements), persistent=False)
        self.register_constant("basis", tensor_basis())
        self.repulsion = NuclearRepulsion(elements, cutoff)
        self.bessel = BesselBasis(n_basis, cutoff)
        self.species = nn.Embedding(len(elements), n_channels)
        self.radial_center = nn.Embedding(len(elements), n_radial)
        self.radial_neighbor = nn.Embedding(len(elements), n_radial)
        self.radial_in = nn.Linear(n_basis, n_radial)
        self.radial_hidden = nn.Linear(n_radial, n_radial)
        later = [LaterInteraction(n_channels, n_message, n_radial) for _ in range(n_layers - 1)]
        self.layers = nn.ModuleList([FirstInteraction(n_channels, n_radial), *later])
        self.readouts = nn.ModuleList(
            [nn.Sequential(nn.Linear(n_channels, 16), nn.SiLU(), nn.Linear(16, 1)) for _ in range(n_layers)]
        )
        self.element_energy = nn.Embedding(len(elements), 1)
        self._initialize()
        self.charge_embedding = ChargeEmbedding(n_channels) if charge_embedding else None

    @torch.jit.unused
    def _initialize(self) -> None:
        """Start every linear map at unit gain: products of small features would stay asleep."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                _start(module, 1.0)
        for layer in self.layers:
            # Radial weights carry the envelope and the neighbour scale, both below one.
            if isinstance(layer, Interaction):
                _start(layer.radial, 2.0)
            if isinstance(layer, LaterInteraction):
                _start(layer.radial_message, 2.0)
        for embedding in (self.radial_center, self.radial_neighbor):
            nn.init.normal_(embedding.weight, std=0.5)
        for readout in self.readouts:
            if isinstance(readout, nn.Sequential) and isinstance(readout[-1], nn.Linear):
                _start(readout[-1], 0.1)
        nn.init.zeros_(self.element_energy.weight)

    @torch.jit.unused
    def config(self) -> Dict[str, Any]:
        """Constructor arguments, JSON-ready."""
        return dict(self.settings)

    @torch.jit.unused
    def give_equivariants(self, rank: int) -> None:
        """Give equivariants up to a rank from now on, or up to the one that is given already."""
        self.equivariants = max(self.equivariants, rank)
        self.settings["equivariants"] = self.equivariants

    @torch.jit.unused
    def give_charge_embedding(self) -> None:
        """Let molecules' charges be embedded from now on: silent until trained."""
        if self.charge_embedding is None:
            self.charge_embedding = ChargeEmbedding(self.n_equivariants).to(self.species.weight)
        self.settings["charge_embedding"] = True

    @torch.jit.unused
    def fix_atoms(self, numbers: Tensor, molecule_charges: Tensor) -> None:
        """Leave out the embedding where no molecule ([n_molecules], e) is charged: it adds nothing there."""
        if not bool((molecule_charges != 0.0).any()):
            self.charge_embedding = None

    def forward(self, graph: Graph) -> BackboneOutput:
        n = graph.positions.shape[0]
        species = self.index[graph.numbers]
        # Padding lies beyond the cutoff, where the envelope and its slope vanish.
        vectors, neighbors = pair_rows(graph, 2.0 * self.cutoff)  # [n, K, 3], [n, K]
        distances = torch.sqrt((vectors * vectors).sum(-1))  # [n, K]
        angular = angular_functions(vectors / distances.unsqueeze(-1), self.basis)
        second = species[neighbors]
        repulsion = 0.5 * self.repulsion(distances, species.unsqueeze(1), second).sum(1)
        pair = self.radial_center(species).unsqueeze(1) + self.radial_neighbor(second)
        radial = nn.functional.silu(self.radial_in(2.0 * self.bessel(distances)) + pair)
        radial = nn.functional.silu(self.radial_hidden(radial))
        radial = radial * (envelope(distances / self.cutoff) * self.neighbor_scale).unsqueeze(-1)

        scalar = self.species(species)
        x = Features(
            scalar,
            torch.zeros_like(scalar).expand(3, -1, -1),
            torch.zeros_like(scalar).expand(5, -1, -1),
        )
        energies = self.element_energy(species).squeeze(-1) + repulsion
        features: List[Tensor] = []
        for round, (layer, readout) in enumerate(zip(self.layers, self.readouts)):
            scalars_alone = self.equivariants == 0 and round == len(self.layers) - 1
            x = layer(x, neighbors, angular, radial, scalars_alone)
            embedding = self.charge_embedding
            if embedding is not None and round == 0:
                # After a round, when an atom knows its surroundings; later rounds tell its neighbours.
                charged = embedding(x.scalar, graph.molecules, graph.molecule_charges)
                x = Features(x.scalar + charged, x.vector, x.tensor)
            energies = energies + readout(x.scalar).squeeze(-1)
            features.append(x.scalar)
        vectors_given: Optional[Tensor] = None
        tensors_given: Optional[Tensor] = None
        if self.equivariants > 0:
            vectors_given = x.vector.permute(1, 2, 0)
        if self.equivariants > 1:
            matrices = x.tensor.permute(1, 2, 0) @ self.basis.view(5, 9)
            tensors_given = matrices.view(n, self.n_equivariants, 3, 3)
        return BackboneOutput(energies, torch.cat(features, -1), vectors_given, tensors_given)
