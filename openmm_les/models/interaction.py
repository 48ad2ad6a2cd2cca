"""Rounds of message passing of the built-in backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from openmm_les.models.tensor_product import ChannelMixing, Features, TensorProduct


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
