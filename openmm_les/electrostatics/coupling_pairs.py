"""Pairs of Gaussian multipoles and point charges: what they add to an interaction's derivatives."""

from __future__ import annotations

from typing import List, NamedTuple, Optional

import torch
from torch import Tensor

from openmm_les.electrostatics.isolated import smeared_kernel
from openmm_les.electrostatics.multipole_pairs import smeared_derivatives


class Sites(NamedTuple):
    """Gaussian charges, dipoles and quadrupoles."""

    positions: Tensor
    """[n_gaussians, 3], Å, double"""
    charges: Tensor
    """[n_gaussians], e"""
    dipoles: Optional[Tensor]
    """[n_gaussians, 3], e·Å, or None"""
    quadrupoles: Optional[Tensor]
    """[n_gaussians, 3, 3], e·Å², symmetric second moments, beside dipoles; None = none"""


class Slopes(NamedTuple):
    """Potential of points at Gaussians, and gradients of the interaction."""

    potential: Tensor
    """[n_gaussians], eV/e"""
    slope: Tensor
    """[n_gaussians, 3], eV/(e Å), gradient of the potential"""
    curvature: Tensor
    """[n_gaussians, 3, 3], eV/(e Å²), its second derivatives; [0, 3, 3] without quadrupoles"""
    gradient: Tensor
    """[n_gaussians, 3], eV/Å, of the energy over the Gaussians' places"""
    point_gradient: Tensor
    """[n_points, 3], eV/Å, of the energy over the points' places"""


def derivatives_of(sites: Sites) -> int:
    """How many derivatives of the potential the forces on these take: 1, 2 or 3."""
    if sites.quadrupoles is not None:
        return 3
    return 1 if sites.dipoles is None else 2


def no_slopes(sites: Sites, points: Tensor) -> Slopes:
    """Zeros in double, to add to."""
    places = sites.positions
    n_bent = places.shape[0] if sites.quadrupoles is not None else 0
    return Slopes(
        torch.zeros(places.shape[0], dtype=torch.float64, device=places.device),
        torch.zeros(places.shape, dtype=torch.float64, device=places.device),
        torch.zeros((n_bent, 3, 3), dtype=torch.float64, device=places.device),
        torch.zeros(places.shape, dtype=torch.float64, device=places.device),
        torch.zeros(points.shape, dtype=torch.float64, device=places.device),
    )


def kernel_derivatives(distances: Tensor, width: float, highest: int) -> List[Tensor]:
    """``(1/r d/dr)^n`` of ``erf(r/w)/r`` for n = 0 ... highest, at most 3, each of the distances' shape."""
    value, slope = smeared_kernel(distances, width)
    derivatives = [value, slope]
    if highest > 1:
        functions = smeared_derivatives(distances, width, highest)
        derivatives.append(functions[2])
        if highest > 2:
            derivatives.append(-functions[3])
    return derivatives


def add_pairs(
    first: Tensor,
    second: Tensor,
    vectors: Tensor,
    kernel: List[Tensor],
    sites: Sites,
    strengths: Tensor,
    slopes: Slopes,
) -> None:
    """Add pairs of Gaussians and points.

    Parameters
    ----------
    first : [n_pairs], index of the Gaussian
    second : [n_pairs], index of the point
    vectors : [n_pairs, 3], Å, double, from the point to the Gaussian
    kernel : as `kernel_derivatives`, up to `derivatives_of` the sites; each [n_pairs]
    sites : the Gaussians
    strengths : [n_points], eV·Å/e, Coulomb's constant times the points' charges
    slopes : added to in place
    """
    sources = strengths.index_select(0, second)
    slopes.potential.index_add_(0, first, (kernel[0] * sources).to(torch.float64))
    once = (kernel[1] * sources).to(torch.float64).unsqueeze(1)
    slope = once * vectors
    slopes.slope.index_add_(0, first, slope)
    pulls = sites.charges.index_select(0, first).to(torch.float64).unsqueeze(1) * slope
    dipoles = sites.dipoles
    if dipoles is not None:
        twice = (kernel[2] * sources).to(torch.float64).unsqueeze(1)
        moments = dipoles.index_select(0, first).to(torch.float64)
        pulls = pulls + twice * (moments * vectors).sum(1, keepdim=True) * vectors + once * moments
        quadrupoles = sites.quadrupoles
        if quadrupoles is not None:
            thrice = (kernel[3] * sources).to(torch.float64).unsqueeze(1)
            tensors = quadrupoles.index_select(0, first).to(torch.float64)
            inward = torch.bmm(tensors, vectors.unsqueeze(2)).squeeze(2)
            traces = tensors.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
            along = 0.5 * (thrice * (inward * vectors).sum(1, keepdim=True) + twice * traces)
            pulls = pulls + along * vectors + twice * inward
            unit = torch.eye(3, dtype=torch.float64, device=vectors.device)
            bent = (twice * vectors).unsqueeze(2) * vectors.unsqueeze(1) + once.unsqueeze(2) * unit
            slopes.curvature.index_add_(0, first, bent)
    slopes.gradient.index_add_(0, first, pulls)
    slopes.point_gradient.index_add_(0, second, pulls, alpha=-1.0)


__all__ = ["Sites", "Slopes", "add_pairs", "derivatives_of", "kernel_derivatives", "no_slopes"]
