"""MACE as a backbone: the published architecture in dense, scriptable form.

Batatia, Kovács, Simm, Ortner, Csányi, "MACE: Higher order equivariant message passing neural
networks" (NeurIPS 2022), eqs. 7 to 13. Weights hold all normalisation factors of the original, so
that only plain products remain. Atoms are sorted by element (weights of one element then meet one
slice of atoms), pairs lie in dense rows, features of degree l are [n_atoms, 2l + 1, channels].
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence

import torch
from torch import Tensor, nn

from openmm_les.graph import Graph, pair_rows
from openmm_les.models.adapters.angular import spherical_harmonics
from openmm_les.models.adapters.mace_blocks import (
    ElementLinear,
    Path,
    SymmetricContraction,
    make_readouts,
)
from openmm_les.models.adapters.mace_radial import PairRepulsion, RadialFunctions
from openmm_les.models.backbone import BackboneOutput
from openmm_les.models.constants import element_index


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
    def fix_atoms(self, numbers: Tensor, molecule_charges: Tensor) -> None:
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


__all__ = ["MACEBackbone", "MACEChargeHead"]
