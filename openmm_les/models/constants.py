"""Constants of modules: exact in every precision, and tables over elements."""

from __future__ import annotations

from typing import Any, Callable, List

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


def element_index(elements: List[int]) -> Tensor:
    """Place of each atomic number in ``elements``, [119] int64; -1 for those that are not there.

    Raises
    ------
    ValueError
        No elements, one twice, or a number that is no element's.
    """
    known = set(range(1, 119))
    if len(elements) == 0 or len(set(elements)) != len(elements) or not known.issuperset(elements):
        raise ValueError(f"`elements` must be distinct atomic numbers from 1 to 118, got {list(elements)}")
    index = torch.full((119,), -1, dtype=torch.int64)
    index[torch.tensor(elements)] = torch.arange(len(elements))
    return index
