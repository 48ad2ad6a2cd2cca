"""Muon for weight matrices, AdamW for the rest, in one optimizer; the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

# Quintic iteration of K. Jordan et al., "Muon" (2024), https://kellerjordan.github.io/posts/muon/
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_SMALLEST_SIDE = 16


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices, about, by Newton-Schulz iteration, [m, rows, columns]."""
    x = matrices / matrices.flatten(1).norm(dim=1).clamp(min=1e-7).view(-1, 1, 1)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    a, b, c = _COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(1, 2) if tall else x


class MuonAdamW(Optimizer):
    """Orthogonalised momentum for weight matrices and AdamW for all other parameters.

    Parameters
    ----------
    parameters : of the model; matrices with both sides of 16 or more go to Muon, except
        embedding tables (see `split_parameters`)
    learning_rate : of both; Muon's update is scaled by ``0.2 √max(rows, columns)`` to the root
        mean square of an AdamW update (Liu et al., arXiv:2502.16982, eq. 4)
    weight_decay : decoupled, of Muon's matrices only
    momentum : of Muon, Nesterov's form
    betas : of AdamW

    Notes
    -----
    ``torch.optim.Muon`` does the same in bfloat16, one matrix after the other: on a CPU four
    times as long (50 against 11 ms for the default model). Here matrices of one shape go
    together, in their own precision.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        *,
        learning_rate: float = 4e-3,
        weight_decay: float = 3e-2,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        groups = [
            {"params": list(matrices), "muon": True, "weight_decay": weight_decay},
            {"params": list(others), "muon": False, "weight_decay": 0.0},
        ]
        defaults = {"lr": learning_rate, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            pairs = [(p, p.grad) for p in group["params"] if p.grad is not None]
            if group["muon"]:
                self._muon(pairs, group)
            else:
                self._adamw(pairs, group)
        return loss

    def _muon(self, pairs: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
        """Update of matrices, each with its gradient; those of one shape go together."""
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for p, gradient in pairs:
            by_shape.setdefault(p.shape, []).append((p, gradient))
        for shape, same in by_shape.items():
            momenta = []
            for p, gradient in same:
                moment = self.state[p].setdefault("moment", torch.zeros_like(p))
                moment.lerp_(gradient, 1.0 - group["momentum"])
                momenta.append(gradient.lerp(moment, group["momentum"]))
            updates = orthogonalize(torch.stack(momenta))
            step = 0.2 * math.sqrt(max(shape)) * group["lr"]
            for (p, _), update in zip(same, updates):
                p.mul_(1.0 - group["lr"] * group["weight_decay"]).sub_(update, alpha=step)

    def _adamw(self, pairs: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
        """Update of all other parameters, each with its gradient."""
        first_beta, second_beta = group["betas"]
        for p, gradient in pairs:
            state = self.state[p]
            if not state:
                state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            state["step"] += 1
            state["mean"].lerp_(gradient, 1.0 - first_beta)
            state["square"].lerp_(gradient * gradient, 1.0 - second_beta)
            mean_bias = 1.0 - first_beta ** state["step"]
            root = (state["square"] / (1.0 - second_beta ** state["step"])).sqrt_().add_(group["eps"])
            p.addcdiv_(state["mean"], root, value=-group["lr"] / mean_bias)


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weight matrices for Muon, and all other trainable parameters."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for p in model.parameters():
        if p.requires_grad:
            is_matrix = p.ndim == 2 and min(p.shape) >= _SMALLEST_SIDE and id(p) not in tables
            (matrices if is_matrix else others).append(p)
    return matrices, others


def learning_rate_factor(step: int, progress: float, warm_up: int = 200, last: float = 0.01) -> float:
    """Linear rise over ``warm_up`` steps, cosine from 1 to ``last`` as ``progress`` goes 0 to 1."""
    cosine = last + (1.0 - last) * 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return cosine * min(1.0, (step + 1) / warm_up)


__all__ = ["MuonAdamW", "learning_rate_factor", "orthogonalize", "split_parameters"]
