"""Parts of a MACE layer: couplings, matrices by element, products of messages, readouts.

Atoms are sorted by element; features of degree l are [n_atoms, 2l + 1, channels].
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.models.adapters.angular import wigner_3j
from openmm_les.models.constants import ExactConstants


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


def make_readouts(settings: Sequence[Dict[str, Any]]) -> Tuple[nn.ModuleList, List[int]]:
    """Readouts and the layers whose scalars they read."""
    layers = [int(each["layer"]) for each in settings]
    arguments = [{k: v for k, v in each.items() if k != "layer"} for each in settings]
    return nn.ModuleList([Readout(**each) for each in arguments]), layers


__all__ = ["ElementLinear", "Path", "Readout", "SymmetricContraction", "make_readouts"]
