"""Scalars, vectors and rank-2 tensors of atoms, and their products.

Components come first ([3, n, c] vectors, [5, n, c] tensors), which turns products and channel mixing
into wide matrix products.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from openmm_les.models.constants import ExactConstants


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
