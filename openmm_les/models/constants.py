"""Constants of a module, rounded from double once for whatever precision the module is in."""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor, nn


class ExactConstants(nn.Module):
    """Module whose constant buffers survive ``.float().double()``.

    Converting a buffer from single to double keeps its seven digits: a network built in single
    precision would then be invariant to rotations to 1e-7 only, however wide its numbers.
    """

    __jit_ignored_attributes__ = ("_exact",)

    def __init__(self) -> None:
        super().__init__()
        self._exact = dict[str, Tensor]()

    @torch.jit.unused
    def register_constant(self, name: str, value: Tensor) -> None:
        """Buffer ``name`` from a float64 ``value``, in the default dtype, not part of checkpoints."""
        self._exact[name] = value
        self.register_buffer(name, value.to(torch.get_default_dtype()), persistent=False)

    @torch.jit.unused
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        for name, exact in self._exact.items():
            setattr(self, name, exact.to(getattr(self, name)))
        return self
