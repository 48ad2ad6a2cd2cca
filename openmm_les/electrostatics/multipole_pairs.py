"""Pairs of Gaussian charges, dipoles and quadrupoles by derivatives of ``erf(r/w)/r``."""

from __future__ import annotations

import math
from typing import List, Tuple

import torch
from torch import Tensor


def smeared_derivatives(distances: Tensor, width: float, highest: int) -> List[Tensor]:
    r"""``f_0 = erf(r/w)/r`` and ``f_{n+1} = -f_n'(r)/r``, accurate down to r = 0.

    Parameters
    ----------
    distances : any shape, length, not negative
    width : w, same length; √2 σ between two Gaussians of the model's σ
    highest : n of the last function

    Returns
    -------
    f_0 ... f_highest, shape of ``distances``, 1/length^(2n+1)

    Notes
    -----
    ``f_n = (2/w²)^n 2/(√π w) F_n(r²/w²)`` with Boys' function F_n: its series near zero and the
    recursion downwards, the recursion upwards elsewhere. Helgaker, Jørgensen and Olsen, Molecular
    Electronic-Structure Theory (2000), section 9.8.2.
    """
    series_end, series_terms = 4.0, 26  # exact below; above, the recursion upwards is stable
    t = (distances / width) ** 2
    near = t < series_end
    small = torch.where(near, t, torch.zeros_like(t))
    large = torch.where(near, torch.full_like(t, series_end), t)

    decay = torch.exp(-small)
    term = torch.full_like(t, 1.0 / (2 * highest + 1))
    total = term
    for i in range(1, series_terms):
        term = term * (2.0 * small / (2 * highest + 2 * i + 1))
        total = total + term
    series = [decay * total]
    for n in range(highest - 1, -1, -1):
        series.append((2.0 * small * series[-1] + decay) / (2 * n + 1))

    decay = torch.exp(-large)
    root = torch.sqrt(large)
    recursion = [0.5 * math.sqrt(math.pi) * torch.erf(root) / root]
    for n in range(highest):
        recursion.append(((2 * n + 1) * recursion[-1] - decay) / (2.0 * large))

    functions: List[Tensor] = []
    scale = 2.0 / (math.sqrt(math.pi) * width)
    for n in range(highest + 1):
        functions.append(scale * torch.where(near, series[highest - n], recursion[n]))
        scale = scale * 2.0 / (width * width)
    return functions


def pair_interactions(
    vectors: Tensor,
    f: List[Tensor],
    charges: Tensor,
    dipoles: Tensor,
    quadrupoles: Tensor,
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    r"""Energy of all pairs, and what all multipoles do to each.

    Parameters
    ----------
    vectors : [n, n, 3], from source j (second) to i (first)
    f : f_0 ... f_5 of `smeared_derivatives` for each pair, [n, n], zero where a pair does not count
    charges : [n]
    dipoles : [n, 3]
    quadrupoles : [n, 3, 3], symmetric

    Returns
    -------
    energy : scalar
    potential : [n]
    slope : [n, 3], gradient of the potential
    gradient : [n, 3], of ``q φ + u·∇φ + ½ Q:∇∇φ`` over the place of i
    curvature : [n, 3, 3], second derivatives of the potential

    Notes
    -----
    With ``A = -q_j f_1 - (u_j·r - ½ tr Q_j) f_2 - ½ (r·Q_j·r) f_3`` the potential of j has the gradient
    ``A r + u_j f_1 + Q_j r f_2``; further derivatives follow from ``∇f_n = -f_{n+1} r``.
    """
    qj, uj = charges.unsqueeze(0), dipoles.unsqueeze(0)  # [1, n], [1, n, 3]
    vj = torch.einsum("jab,ijb->ija", quadrupoles, vectors)  # Q_j r
    vi = torch.einsum("iab,ijb->ija", quadrupoles, vectors)  # Q_i r
    half_traces = 0.5 * quadrupoles.diagonal(dim1=1, dim2=2).sum(1)  # [n]
    cj, ci = 0.5 * (vj * vectors).sum(-1), 0.5 * (vi * vectors).sum(-1)  # [n, n]
    dj = (uj * vectors).sum(-1) - half_traces.unsqueeze(0)
    ui, ti = dipoles.unsqueeze(1), half_traces.unsqueeze(1)

    # q_j f_n + (u_j·r - ½ tr Q_j) f_{n+1} + ½ r·Q_j·r f_{n+2}
    along = [qj * f[n] + dj * f[n + 1] + cj * f[n + 2] for n in range(4)]
    first, second, third = along[1], along[2], along[3]
    potential = along[0].sum(1)
    sideways = uj * f[1].unsqueeze(-1) + vj * f[2].unsqueeze(-1)
    slope = (sideways - first.unsqueeze(-1) * vectors).sum(1)

    # ∇∇φ · u_i
    bent = uj * f[2].unsqueeze(-1) + vj * f[3].unsqueeze(-1)  # -∇A + second r
    bent_more = uj * f[3].unsqueeze(-1) + vj * f[4].unsqueeze(-1)
    di = (ui * vectors).sum(-1)
    on_dipole = (
        (second * di - (bent * ui).sum(-1)).unsqueeze(-1) * vectors
        - first.unsqueeze(-1) * ui
        - bent * di.unsqueeze(-1)
        + f[2].unsqueeze(-1) * torch.einsum("jab,ib->ija", quadrupoles, dipoles)
    )
    # ∇ of ½ Q_i:∇∇φ, itself in `of_quadrupoles` below
    contracted = torch.einsum("iab,jab->ij", quadrupoles, quadrupoles)
    inward = (
        ti * second
        - ci * third
        + f[3] * (vi * uj).sum(-1)
        + f[4] * (vi * vj).sum(-1)
        - 0.5 * f[3] * contracted
    )
    on_quadrupole = (
        inward.unsqueeze(-1) * vectors
        - ti.unsqueeze(-1) * bent
        + second.unsqueeze(-1) * vi
        + ci.unsqueeze(-1) * bent_more
        - f[2].unsqueeze(-1) * torch.einsum("iab,jb->ija", quadrupoles, dipoles)
        - f[3].unsqueeze(-1)
        * (torch.einsum("iab,ijb->ija", quadrupoles, vj) + torch.einsum("jab,ijb->ija", quadrupoles, vi))
    )
    gradient = charges.unsqueeze(1) * slope + (on_dipole + on_quadrupole).sum(1)
    stretched = 0.5 * second.unsqueeze(-1) * vectors - bent
    half = torch.einsum("ija,ijb->iab", stretched, vectors) + torch.einsum(
        "ij,jab->iab", 0.5 * f[2], quadrupoles
    )
    unit = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    curvature = half + half.transpose(1, 2) - first.sum(1).view(-1, 1, 1) * unit
    energy = (charges * potential).sum() + (dipoles * slope).sum() + 0.5 * (quadrupoles * curvature).sum()
    return 0.5 * energy, potential, slope, gradient, curvature


__all__ = ["pair_interactions", "smeared_derivatives"]
