"""MACE as a backbone: the published architecture in dense, scriptable form.

Batatia, Kovács, Simm, Ortner, Csányi, "MACE: Higher order equivariant message passing neural
networks" (NeurIPS 2022), eqs. 7 to 13. Weights hold all normalisation factors of the original, so
that only plain products remain. Atoms are sorted by element (weights of one element then meet one
slice of atoms), pairs lie in dense rows, features of degree l are [n_atoms, 2l + 1, channels].
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.graph import Graph, pair_rows
from openmm_les.models.adapters.angular import spherical_harmonics, wigner_3j
from openmm_les.models.adapters.mace_radial import PairRepulsion, RadialFunctions
from openmm_les.models.backbone import BackboneOutput
from openmm_les.models.constants import ExactConstants, element_index


class Path(ExactConstants):
    """Coupling of neighbours' features of degree l1 with harmonics of degree l2 to degree l3."""

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        coupling: Tensor

    def __init__(self, l1: int, l2: int, l3: int) -> None:
        super().__init__()
        self.l1, self.l2, self.l3 = l1, l2, l3
        coupling = wigner_3j(l1, l2, l3).permute(1, 0, 2).reshape(2 * l2 + 1, -1)
        self.register_constant("coupling", coupling)  # [2 l2 + 1, (2 l1 + 1)(2 l3 + 1)]

    def forward(self, features: Tensor, harmonics: Tensor, weights: Tensor) -> Tensor:
        """Sum over neighbours, [n, 2 l3 + 1, c].

        ``features`` [n, k, 2 l1 + 1, c] of k neighbours, ``harmonics`` [n, k, 2 l2 + 1],
        ``weights`` [n, k, c].
        """
        n, k, c = weights.shape
        rows = k * (2 * self.l1 + 1)
        moved = (weights.unsqueeze(2) * features).reshape(n, rows, c)
        coupled = torch.matmul(harmonics, self.coupling).view(n, rows, 2 * self.l3 + 1)
        return torch.bmm(coupled.transpose(1, 2), moved)


class ElementLinear(nn.Module):
    """Channel mixing with a matrix for each element; atoms sorted by element."""

    def __init__(self, n_elements: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_elements, n_in, n_out).normal_(std=n_in**-0.5))

    def forward(self, x: Tensor, counts: List[int]) -> Tensor:
        """[n, m, n_out] from ``x`` [n, m, n_in]; ``counts`` atoms of each element."""
        parts: List[Tensor] = []
        begin = 0
        for element, count in enumerate(counts):
            if count > 0:
                parts.append(torch.matmul(x[begin : begin + count], self.weight[element]))
                begin += count
        return torch.cat(parts, 0)


class SymmetricContraction(nn.Module):
    """Products of up to ν features of one atom, contracted to the degrees wanted (eqs. 10, 11).

    A product ``x_a x_b … x_i`` is a monomial of the first ν - 1 factors times the last one, so that
    it becomes a matrix product: monomials by a table of [monomials, outputs × last factor]. The table
    follows from ``weights`` by a sparse constant matrix (couplings), in advance where weights are
    constant (`fold`).

    Parameters
    ----------
    n_elements : 1 where weights do not depend on the element
    n_channels, n_components : of the input, [n, n_components, n_channels]
    n_outputs : components of the output
    n_paths : weights for each element and channel
    n_monomials, n_factors : size of the list of monomials, and of each
    n_terms : entries of the coupling matrix
    """

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        factors: Tensor
        term_rows: Tensor
        term_paths: Tensor
        term_values: Tensor
        table: Tensor

    def __init__(
        self,
        n_elements: int,
        n_channels: int,
        n_components: int,
        n_outputs: int,
        n_paths: int,
        n_monomials: int,
        n_factors: int,
        n_terms: int,
    ) -> None:
        super().__init__()
        self.n_components = n_components
        self.n_outputs = n_outputs
        self.n_monomials = n_monomials
        self.n_factors = n_factors
        self.folded = False
        self.weights = nn.Parameter(torch.empty(n_elements, n_paths, n_channels).normal_(std=0.3))
        # Monomials as products of components; the number n_components stands for 1.
        self.register_buffer("factors", torch.zeros(n_monomials, n_factors, dtype=torch.int64))
        self.register_buffer("term_rows", torch.zeros(n_terms, dtype=torch.int64))
        self.register_buffer("term_paths", torch.zeros(n_terms, dtype=torch.int64))
        self.register_buffer("term_values", torch.zeros(n_terms))
        self.register_buffer("table", torch.zeros(0), persistent=False)

    def table_of(self, element: int) -> Tensor:
        """[channels, n_monomials, n_outputs × n_components] for one element."""
        weights = self.weights[element]  # [n_paths, channels]
        rows = self.n_monomials * self.n_outputs * self.n_components
        terms = self.term_values.unsqueeze(1) * weights[self.term_paths]
        flat = torch.zeros((rows, weights.shape[1]), dtype=weights.dtype, device=weights.device)
        flat = flat.index_add(0, self.term_rows, terms)
        return flat.t().reshape(weights.shape[1], self.n_monomials, -1)

    @torch.jit.unused
    def fold(self) -> None:
        """Compute the table once and for all; later changes of the weights have no effect."""
        with torch.no_grad():
            self.table = torch.stack([self.table_of(e) for e in range(self.weights.shape[0])])
        self.folded = True

    def forward(self, x: Tensor, counts: List[int]) -> Tensor:
        """[n, n_outputs, c] from ``x`` [n, n_components, c]; ``counts`` atoms of each element."""
        x = x.permute(2, 0, 1).contiguous()  # [c, n, components]
        extended = torch.cat([x, torch.ones_like(x[:, :, :1])], -1)
        monomials = extended.index_select(2, self.factors[:, 0])
        for k in range(1, self.n_factors):
            monomials = monomials * extended.index_select(2, self.factors[:, k])
        shared = self.weights.shape[0] == 1
        if shared:
            counts = [x.shape[1]]
        parts: List[Tensor] = []
        begin = 0
        for element, count in enumerate(counts):
            if count > 0:
                table = self.table[element] if self.folded else self.table_of(element)
                own = torch.bmm(monomials[:, begin : begin + count], table)
                own = own.view(x.shape[0], count, self.n_outputs, self.n_components)
                parts.append((own * x[:, begin : begin + count].unsqueeze(2)).sum(-1))
                begin += count
        return torch.cat(parts, 1).permute(1, 2, 0)


class Readout(nn.Module):
    """Number of each atom from its scalars: a linear map, or a network.

    Parameters
    ----------
    sizes : widths from the input to the last hidden layer; the output is one number
    activation : "silu", "tanh" or "none"
    bias : every map but the first has one
    """

    def __init__(self, sizes: Sequence[int], activation: str = "silu", bias: bool = False) -> None:
        super().__init__()
        widths = [*sizes, 1]
        pairs = list(pairwise(widths))
        self.maps = nn.ModuleList([nn.Linear(a, b, bias=bias and i > 0) for i, (a, b) in enumerate(pairs)])
        self.activation = activation

    def forward(self, scalars: Tensor) -> Tensor:
        """[n] from ``scalars`` [n, sizes[0]]."""
        x = scalars
        for i, linear in enumerate(self.maps):
            if i > 0:
                if self.activation == "silu":
                    x = nn.functional.silu(x)
                elif self.activation == "tanh":
                    x = torch.tanh(x)
            x = linear(x)
        return x.squeeze(-1)


class MACELayer(nn.Module):
    """One round: messages (eqs. 7 to 9), their products (eqs. 10, 11) and the update (eq. 12).

    Parameters
    ----------
    n_elements, n_channels : of the model
    n_edge : channels of messages
    paths : (l1, l2, l3) of each coupling, in the order of the radial weights
    radial : widths of the radial network, input and hidden
    hidden : degrees of the features that come out
    skip : "residual": the update adds the features that came in, element by element; "message":
        the message itself goes through matrices by element
    skipped : degrees that ``skip`` acts on
    density : messages are divided by a learned density instead of a constant
    contraction : sizes of the `SymmetricContraction`
    """

    def __init__(
        self,
        n_elements: int,
        n_channels: int,
        n_edge: int,
        paths: Sequence[Sequence[int]],
        radial: Sequence[int],
        hidden: Sequence[int],
        skip: str,
        skipped: Sequence[int],
        density: bool,
        contraction: Dict[str, int],
    ) -> None:
        super().__init__()
        self.paths = nn.ModuleList([Path(*path) for path in paths])
        self.triples = [[int(degree) for degree in path] for path in paths]
        self.n_edge = n_edge
        self.degrees = sorted({path[2] for path in paths})
        n_in = 1 + max(path[0] for path in paths)
        self.up = nn.ModuleList([nn.Linear(n_channels, n_edge, bias=False) for _ in range(n_in)])
        widths = [*radial, len(paths) * n_edge]
        self.radial = nn.ModuleList([nn.Linear(a, b, bias=False) for a, b in pairwise(widths)])
        counts = [sum(path[2] == l3 for path in paths) for l3 in self.degrees]
        self.mix = nn.ModuleList([nn.Linear(k * n_edge, n_channels, bias=False) for k in counts])
        self.hidden = list(hidden)
        self.residual = skip == "residual"
        self.skipped = list(skipped)
        self.skip = nn.ModuleList([ElementLinear(n_elements, n_channels, n_channels) for _ in skipped])
        self.has_density = density
        self.density = nn.Linear(radial[0], 1, bias=False)
        self.contraction = SymmetricContraction(
            n_channels=n_channels,
            n_components=sum(2 * degree + 1 for degree in self.degrees),
            n_outputs=sum(2 * degree + 1 for degree in hidden),
            **contraction,
        )
        self.update = nn.ModuleList([nn.Linear(n_channels, n_channels, bias=False) for _ in hidden])

    def forward(
        self,
        x: List[Tensor],
        neighbors: Tensor,
        harmonics: List[Tensor],
        radial: Tensor,
        cutoff: Tensor,
        counts: List[int],
    ) -> List[Tensor]:
        """New features, [n, 2l + 1, c] for each degree in ``hidden``.

        ``x`` features by degree from 0, ``neighbors`` [n, k], ``harmonics`` [n, k, 2l + 1] by degree,
        ``radial`` [n, k, basis], ``cutoff`` [n, k, 1] that multiplies the weights, ``counts`` atoms
        of each element.
        """
        gathered: List[Tensor] = []
        for degree, up in enumerate(self.up):
            gathered.append(up(x[degree])[neighbors])  # [n, k, 2l + 1, edge]
        weights = radial
        for i, linear in enumerate(self.radial):
            if i > 0:
                weights = nn.functional.silu(weights)
            weights = linear(weights)
        weights = weights * cutoff  # [n, k, paths × edge]
        messages: List[List[Tensor]] = []
        for _ in range(len(self.degrees)):
            empty: List[Tensor] = []
            messages.append(empty)
        for i, path in enumerate(self.paths):
            own = weights[:, :, i * self.n_edge : (i + 1) * self.n_edge]
            l1, l2, l3 = self.triples[i]
            messages[self.degrees.index(l3)].append(path(gathered[l1], harmonics[l2], own))
        scale = cutoff.new_ones((cutoff.shape[0], 1, 1))
        if self.has_density:
            crowd = torch.tanh(self.density(radial) ** 2) * cutoff  # [n, k, 1]
            scale = 1.0 / (crowd.sum(1, keepdim=True) + 1.0)
        mixed: List[Tensor] = []
        for i, mix in enumerate(self.mix):
            mixed.append(mix(torch.cat(messages[i], -1)) * scale)  # [n, 2l + 1, c]
        if not self.residual:
            for i, skip in enumerate(self.skip):
                mixed[i] = skip(mixed[i], counts)
        products = self.contraction(torch.cat(mixed, 1), counts)
        updated: List[Tensor] = []
        begin = 0
        for i, update in enumerate(self.update):
            width = 2 * self.hidden[i] + 1
            updated.append(update(products[:, begin : begin + width]))
            begin += width
        if self.residual:
            for i, skip in enumerate(self.skip):
                updated[i] = updated[i] + skip(x[i], counts)
        return updated


class MACEBackbone(nn.Module):
    """MACE in the shape that `LESModel` reads.

    Parameters
    ----------
    elements : atomic numbers
    cutoff : Å
    n_channels : of all features
    l_max : largest degree of the harmonics
    radial : arguments of `RadialFunctions`
    layers : arguments of each `MACELayer`
    readouts : arguments of each energy `Readout`, with ``layer``, whose scalars it reads
    repulsion : arguments of `PairRepulsion`, or None
    """

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        index: Tensor
        shift: Tensor

    reads_rows = True

    def __init__(
        self,
        elements: List[int],
        cutoff: float,
        n_channels: int,
        l_max: int,
        radial: Dict[str, Any],
        layers: List[Dict[str, Any]],
        readouts: List[Dict[str, Any]],
        repulsion: Optional[Dict[str, Any]] = None,
    ) -> None:
        super().__init__()
        self.settings = dict(
            elements=list(elements),
            cutoff=cutoff,
            n_channels=n_channels,
            l_max=l_max,
            radial=radial,
            layers=layers,
            readouts=readouts,
            repulsion=repulsion,
        )
        self.cutoff = float(cutoff)
        self.n_features = n_channels * len(layers)
        self.l_max = l_max
        self.n_elements = len(elements)
        self.counts = [-1] * len(elements)
        self.register_buffer("index", element_index(elements), persistent=False)
        self.register_buffer("shift", torch.zeros(()))
        self.embedding = nn.Embedding(len(elements), n_channels)
        self.radial = RadialFunctions(cutoff=cutoff, **radial)
        self.layers = nn.ModuleList([MACELayer(len(elements), n_channels, **layer) for layer in layers])
        self.readouts, self.readout_layers = make_readouts(readouts)
        self.repulsion = None if repulsion is None else PairRepulsion(**repulsion)

    @torch.jit.unused
    def config(self) -> Dict[str, Any]:
        """Constructor arguments, JSON-ready."""
        return dict(self.settings)

    @torch.jit.unused
    def fix_numbers(self, numbers: Tensor) -> None:
        """Run for atoms of these elements ([n_atoms], int64) alone from now on."""
        self.counts = torch.bincount(self.index[numbers], minlength=self.n_elements).tolist()

    def forward(self, graph: Graph) -> BackboneOutput:
        of_atom = self.index[graph.numbers]
        order = torch.argsort(of_atom, stable=True)
        rank = torch.argsort(order)
        species = of_atom[order]
        counts = self.counts
        if counts[0] < 0:  # not known
            counted: List[int] = torch.bincount(of_atom, minlength=self.n_elements).tolist()
            counts = counted
        # Padding lies beyond the cutoff, where every function has ended.
        vectors, neighbors = pair_rows(graph, 2.0 * self.cutoff)
        # From neighbour to centre, as messages go.
        vectors = -vectors.index_select(0, order)  # [n, k, 3]
        neighbors = rank[neighbors.index_select(0, order)]
        distances = torch.sqrt((vectors * vectors).sum(-1))  # [n, k]
        harmonics = spherical_harmonics(vectors / distances.unsqueeze(-1), self.l_max)
        centers, others = species.unsqueeze(1), species[neighbors]
        radial, cutoff = self.radial(distances, centers, others)
        energies = torch.zeros_like(graph.positions[:, 0]) + self.shift
        if self.repulsion is not None:
            energies = energies + self.repulsion(distances, centers, others).sum(1)
        x = [self.embedding(species).unsqueeze(1)]
        scalars: List[Tensor] = []
        for layer in self.layers:
            x = layer(x, neighbors, harmonics, radial, cutoff, counts)
            scalars.append(x[0].squeeze(1))
        for i, readout in enumerate(self.readouts):
            energies = energies + readout(scalars[self.readout_layers[i]])
        return BackboneOutput(energies[rank], torch.cat(scalars, -1)[rank])


class MACEChargeHead(nn.Module):
    """Latent charges of MACE-LES: readouts like those of the energy, charge not conserved.

    Parameters
    ----------
    n_channels : of each layer's scalars
    readouts : arguments of each `Readout`, with ``layer``, whose scalars it reads
    """

    def __init__(self, n_channels: int, readouts: List[Dict[str, Any]]) -> None:
        super().__init__()
        self.settings = dict(n_channels=n_channels, readouts=readouts)
        self.n_channels = n_channels
        self.readouts, self.readout_layers = make_readouts(readouts)

    @torch.jit.unused
    def config(self) -> Dict[str, Any]:
        """Constructor arguments, JSON-ready."""
        return dict(self.settings)

    def forward(
        self, features: Tensor, numbers: Tensor, molecules: Tensor, molecule_charges: Tensor
    ) -> Tensor:
        """[n_atoms] in e from ``features`` [n_atoms, n_features]; the rest is not read."""
        charges = torch.zeros_like(features[:, 0])
        for i, readout in enumerate(self.readouts):
            begin = self.readout_layers[i] * self.n_channels
            charges = charges + readout(features[:, begin : begin + self.n_channels])
        return charges


def make_readouts(settings: Sequence[Dict[str, Any]]) -> Tuple[nn.ModuleList, List[int]]:
    """Readouts and the layers whose scalars they read."""
    layers = [int(each["layer"]) for each in settings]
    arguments = [{k: v for k, v in each.items() if k != "layer"} for each in settings]
    return nn.ModuleList([Readout(**each) for each in arguments]), layers


__all__ = ["MACEBackbone", "MACEChargeHead"]
