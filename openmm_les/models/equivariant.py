"""The built-in backbone: scalars, vectors and rank-2 tensors in body-ordered products.

Two layouts make it fast: pairs lie in dense rows (one row of neighbours per atom), which turns
sums over neighbours into batched matrix products, and components come first ([3, n, c] vectors,
[5, n, c] tensors), which turns products and channel mixing into wide matrix products.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional

import torch
from torch import Tensor, nn

from openmm_les.graph import Graph, pair_rows
from openmm_les.models.backbone import BackboneOutput
from openmm_les.models.charge_embedding import ChargeEmbedding
from openmm_les.models.constants import ExactConstants, element_index
from openmm_les.models.radial import BesselBasis, NuclearRepulsion, envelope


class Features(NamedTuple):
    """Equivariant features of n atoms in c channels."""

    scalar: Tensor
    """[n, c]"""
    vector: Tensor
    """[3, n, c]"""
    tensor: Tensor
    """[5, n, c], symmetric traceless, in the orthonormal basis of `tensor_basis`"""


def tensor_basis() -> Tensor:
    """Orthonormal symmetric traceless matrices, [5, 3, 3] float64: ``tr(B_m B_n) = δ_mn``."""
    basis = torch.zeros(5, 3, 3, dtype=torch.float64)
    half, third = math.sqrt(0.5), math.sqrt(1.0 / 6.0)
    for m, (a, b) in enumerate(((0, 1), (1, 2), (0, 2))):
        basis[m, a, b] = basis[m, b, a] = half
    basis[3] = torch.diag(torch.tensor([-third, -third, 2.0 * third], dtype=torch.float64))
    basis[4] = torch.diag(torch.tensor([half, -half, 0.0], dtype=torch.float64))
    return basis


def angular_functions(directions: Tensor, basis: Tensor) -> Tensor:
    """Unit vectors [..., 3] to [..., 9]: 1, the vector and ``r r - 1/3`` in the tensor basis.

    Each block is scaled to mean square 1 per component over the sphere.
    """
    products = directions.unsqueeze(-1) * directions.unsqueeze(-2)  # [..., 3, 3]
    tensor = products.flatten(-2) @ basis.view(5, 9).t()
    one = torch.ones_like(directions[..., :1])
    return torch.cat([one, math.sqrt(3.0) * directions, math.sqrt(7.5) * tensor], -1)


class ChannelMixing(nn.Module):
    """Mixes channels of scalars, vectors and tensors, each with its own matrix."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.scalar = nn.Linear(n_in, n_out)
        self.vector = nn.Linear(n_in, n_out, bias=False)
        self.tensor = nn.Linear(n_in, n_out, bias=False)

    def forward(self, x: Features) -> Features:
        return Features(self.scalar(x.scalar), self.vector(x.vector), self.tensor(x.tensor))


class TensorProduct(ExactConstants):
    """Channel-by-channel product of two feature sets, its paths mixed into new channels."""

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        contraction: Tensor
        dyad: Tensor

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        basis = tensor_basis()
        # Tensor times vector, [3, 15], and vector times vector, [5, 9], as wide matrices.
        contraction = basis.transpose(0, 1).reshape(3, 15) * math.sqrt(0.6)
        self.register_constant("contraction", contraction)
        self.register_constant("dyad", basis.reshape(5, 9))
        self.mix = ChannelMixing(3 * n_channels, n_channels)

    def scalars(self, x: Features, y: Features) -> Tensor:
        """The scalars of the product alone, [n, c]."""
        products = [x.scalar * y.scalar, (x.vector * y.vector).sum(0), (x.tensor * y.tensor).sum(0)]
        return self.mix.scalar(torch.cat(products, -1))

    def forward(self, x: Features, y: Features) -> Features:
        n, c = x.scalar.shape
        turned = (x.tensor.unsqueeze(1) * y.vector.unsqueeze(0)).view(15, n * c)
        vectors = torch.cat(
            [
                x.scalar * y.vector,
                x.vector * y.scalar,
                torch.mm(self.contraction, turned).view(3, n, c),
            ],
            -1,
        )
        dyads = (x.vector.unsqueeze(1) * y.vector.unsqueeze(0)).view(9, n * c)
        tensors = torch.cat(
            [
                x.scalar * y.tensor,
                x.tensor * y.scalar,
                torch.mm(self.dyad, dyads).view(5, n, c),
            ],
            -1,
        )
        return Features(self.scalars(x, y), self.mix.vector(vectors), self.mix.tensor(tensors))


class Interaction(nn.Module):
    """One round of message passing; what differs from round to round is `gather`.

    Parameters
    ----------
    n_gathered : channels that `gather` returns
    n_channels : channels of the features before and after
    n_radial : width of the radial network
    """

    def __init__(self, n_gathered: int, n_channels: int, n_radial: int) -> None:
        super().__init__()
        self.n_channels = n_channels
        # Weights of a pair for three orders of new angular functions.
        self.radial = nn.Linear(n_radial, 3 * n_channels, bias=False)
        self.mix = ChannelMixing(n_gathered, 3 * n_channels)
        self.second_order = TensorProduct(n_channels)
        self.third_order = TensorProduct(n_channels)
        self.gate_in = nn.Linear(n_channels, n_channels)
        self.gate_out = nn.Linear(n_channels, 3 * n_channels)

    def update(self, x: Features, gathered: Features, last: bool) -> Features:
        """Features after products of what was gathered, up to third order, behind gates.

        In the ``last`` round, of which only scalars are read, vectors and tensors stay as they are.
        """
        c = self.n_channels
        mixed = self.mix(gathered)
        s, v, t = (
            torch.split(mixed.scalar, c, -1),
            torch.split(mixed.vector, c, -1),
            torch.split(mixed.tensor, c, -1),
        )
        second = self.second_order(Features(s[0], v[0], t[0]), Features(s[1], v[1], t[1]))
        factor = Features(s[2], v[2], t[2])
        if last:
            scalar = s[0] + second.scalar + self.third_order.scalars(second, factor)
            gate = nn.functional.silu(self.gate_in(scalar))
            update = nn.functional.linear(gate, self.gate_out.weight[:c], self.gate_out.bias[:c])
            return Features(x.scalar + update, x.vector, x.tensor)
        third = self.third_order(second, factor)
        scalar = s[0] + second.scalar + third.scalar
        gates = self.gate_out(nn.functional.silu(self.gate_in(scalar)))
        update, vector_gate, tensor_gate = torch.split(gates, c, -1)
        return Features(
            x.scalar + update,
            x.vector + torch.sigmoid(vector_gate) * (v[0] + second.vector + third.vector),
            x.tensor + torch.sigmoid(tensor_gate) * (t[0] + second.tensor + third.tensor),
        )


class FirstInteraction(Interaction):
    """The first round: neighbours are elements and places, nothing more."""

    def __init__(self, n_channels: int, n_radial: int) -> None:
        super().__init__(n_channels, n_channels, n_radial)

    def forward(
        self, x: Features, neighbors: Tensor, angular: Tensor, radial: Tensor, last: bool
    ) -> Features:
        """Updated features; arguments as in `LaterInteraction.forward`, ``neighbors`` unread."""
        # Summed over neighbours before they are mixed: elements are in the radial functions already.
        summed = torch.bmm(angular.transpose(1, 2), radial).transpose(0, 1).contiguous()  # [9, n, n_radial]
        w = torch.split(self.radial.weight, self.n_channels)
        gathered = Features(summed[0] @ w[0].t(), summed[1:4] @ w[1].t(), summed[4:9] @ w[2].t())
        return self.update(x, gathered, last)


class LaterInteraction(Interaction):
    """A later round: neighbours' scalars get new angular functions, their vectors and tensors travel.

    ``n_message`` channels of vectors and tensors are carried on, and are read along the bond.
    """

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        message_rows: Tensor

    def __init__(self, n_channels: int, n_message: int, n_radial: int) -> None:
        super().__init__(n_channels + n_message, n_channels, n_radial)
        self.n_message = n_message
        self.radial_message = nn.Linear(n_radial, 4 * n_message, bias=False)
        # One row of radial_message serves all components of a vector (3) or a tensor (5).
        rows = torch.arange(4 * n_message).view(4, n_message)
        components = [0] * 3 + [1] * 5 + [2] * 3 + [3] * 5
        self.register_buffer("message_rows", rows[components].flatten(), persistent=False)
        self.message_scalar = nn.Linear(n_channels, n_channels)
        self.message_vector = nn.Linear(n_channels, n_message, bias=False)
        self.message_tensor = nn.Linear(n_channels, n_message, bias=False)

    def forward(
        self, x: Features, neighbors: Tensor, angular: Tensor, radial: Tensor, last: bool
    ) -> Features:
        """Updated features.

        ``neighbors`` [n, K]; ``angular`` [n, K, 9]; ``radial`` [n, K, n_radial], 0 on padding; ``last``:
        only scalars are wanted.
        """
        c, m = self.n_channels, self.n_message
        n, width = neighbors.shape
        held = torch.cat([self.message_vector(x.vector), self.message_tensor(x.tensor)], 0)  # [8, n, m]
        held = held.transpose(0, 1).reshape(n, 8 * m)
        tensors = held.index_select(0, neighbors.view(-1)).view(n, width, 8 * m)
        scalar = self.message_scalar(x.scalar).index_select(0, neighbors.view(-1)).view(n, width, c)
        # Weights are split rather than their products, whose derivatives would be copied together.
        along, onward = torch.split(self.radial_message.weight[self.message_rows], 8 * m)
        w = torch.split(self.radial.weight, c)
        # Sum over neighbours and components of (feature · angular function), [n, m].
        bond = torch.bmm(
            angular[:, :, 1:].reshape(n, 1, 8 * width),
            (tensors * (radial @ along.t())).view(n, 8 * width, m),
        ).squeeze(1)
        carried = (tensors * (radial @ onward.t())).sum(1).view(n, 8, m)
        rows = angular.transpose(1, 2)  # [n, 9, K]
        vectors = torch.bmm(rows[:, 1:4], scalar * (radial @ w[1].t()))
        matrices = torch.bmm(rows[:, 4:9], scalar * (radial @ w[2].t()))
        gathered = Features(
            torch.cat([(scalar * (radial @ w[0].t())).sum(1), bond], -1),
            torch.cat([vectors, carried[:, :3]], -1).transpose(0, 1),
            torch.cat([matrices, carried[:, 3:]], -1).transpose(0, 1),
        )
        return self.update(x, gathered, last)


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
            "elements": list(elements),
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
