r"""Exact Coulomb sums of Gaussian charges, dipoles and quadrupoles, isolated or in any cell.

A quadrupole is the second moment, ``Q = Σ q x xᵀ`` without a factor; its trace counts, because
Gaussians see it. A site's energy in a potential is ``q φ + u·∇φ + ½ Q:∇∇φ``.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from openmm_les.electrostatics.ewald import split_background, wave_factors
from openmm_les.electrostatics.isolated import other_atoms, safe_distances
from openmm_les.electrostatics.multipole_pairs import pair_interactions, smeared_derivatives


class MultipoleSum(NamedTuple):
    """Energy of multipoles and its derivatives, all differentiable."""

    energy: Tensor
    """scalar, eV"""
    potential: Tensor
    """[n_atoms], eV/e, dE/dq"""
    gradient: Tensor
    """[n_atoms, 3], eV/Å, dE/dr at fixed moments"""
    field: Tensor
    """[n_atoms, 3], eV/(e Å), -dE/du"""
    curvature: Optional[Tensor]
    """[n_atoms, 3, 3], eV/(e Å²), 2 dE/dQ, second derivatives of the potential; None where a mesh has no
    quadrupoles"""


def multipole_self_sum(
    charges: Tensor, dipoles: Tensor, quadrupoles: Optional[Tensor], width: float, coulomb_constant: float
) -> MultipoleSum:
    """What each site has with itself by the kernel ``erf(r/width)/r``; arguments as the sums below.

    ``ke ½ [q² f_0 + u² f_1 - q tr Q f_1 + ¼ (tr² Q + 2 Q:Q) f_2]`` at r = 0.
    """
    if quadrupoles is None:
        quadrupoles = _none(dipoles)
    f = smeared_derivatives(torch.zeros(1, dtype=torch.float64), width, 2)
    f0, f1, f2 = (coulomb_constant * float(value) for value in f)
    traces = quadrupoles.diagonal(dim1=1, dim2=2).sum(1)
    squares = traces * traces + 2.0 * (quadrupoles * quadrupoles).sum((1, 2))
    potential = charges * f0 - 0.5 * f1 * traces
    energy = 0.5 * (
        (charges * (potential - 0.5 * f1 * traces)).sum()
        + f1 * (dipoles * dipoles).sum()
        + 0.25 * f2 * squares.sum()
    )
    unit = torch.eye(3, dtype=dipoles.dtype, device=dipoles.device)
    curvature = f2 * quadrupoles + (0.5 * f2 * traces - f1 * charges).view(-1, 1, 1) * unit
    return MultipoleSum(energy, potential, torch.zeros_like(dipoles), -f1 * dipoles, curvature)


def isolated_multipole_sum(
    positions: Tensor,
    charges: Tensor,
    dipoles: Tensor,
    quadrupoles: Optional[Tensor],
    smearing: float,
    coulomb_constant: float,
) -> MultipoleSum:
    """Multipoles without periodic images, all pairs.

    Parameters
    ----------
    positions : [n_atoms, 3], Å
    charges : [n_atoms], e
    dipoles : [n_atoms, 3], e·Å
    quadrupoles : [n_atoms, 3, 3], e·Å², symmetric; None = none
    smearing : σ in Å
    coulomb_constant : eV·Å/e²
    """
    if quadrupoles is None:
        quadrupoles = _none(dipoles)
    vectors = positions.unsqueeze(1) - positions.unsqueeze(0)  # [i, j, 3] = r_i - r_j
    distances = safe_distances(vectors)
    f = smeared_derivatives(distances, math.sqrt(2.0) * smearing, 5)
    others = coulomb_constant * other_atoms(distances)
    energy, potential, slope, gradient, curvature = pair_interactions(
        vectors, [others * value for value in f], charges, dipoles, quadrupoles
    )
    return MultipoleSum(energy, potential, gradient, -slope, curvature)


def ewald_multipole_sum(
    positions: Tensor,
    charges: Tensor,
    dipoles: Tensor,
    quadrupoles: Optional[Tensor],
    cell: Tensor,
    smearing: float,
    coulomb_constant: float,
    k_cutoff: Optional[float] = None,
    tolerance: float = 1e-9,
    alpha: Optional[float] = None,
) -> MultipoleSum:
    r"""Multipoles in a periodic cell, self terms removed, k = 0 left out.

    ``(2π ke/V) Σ_{k≠0} exp(-σ²k²/2)/k² |S(k)|²`` with
    ``S(k) = Σ (q + i k·u - ½ k·Q·k) exp(i k·r)``, less `multipole_self_sum`.

    Parameters
    ----------
    positions : [n_atoms, 3], Å, wrapped or not
    charges : [n_atoms], e; a net charge is met by a uniform background
    dipoles : [n_atoms, 3], e·Å
    quadrupoles : [n_atoms, 3, 3], e·Å², symmetric; None = none
    cell : [3, 3], Å, rows are vectors, either handedness
    smearing, coulomb_constant, k_cutoff, tolerance, alpha : as `ewald_sum`

    Notes
    -----
    Aguado and Madden, J. Chem. Phys. 119, 7471 (2003), for Gaussians in place of points.
    """
    if quadrupoles is None:
        quadrupoles = _none(dipoles)
    # Derivatives of the kernel decay later than the kernel itself.
    split, width2, waves, factors = wave_factors(
        cell, smearing, coulomb_constant, k_cutoff, 1e-3 * tolerance, alpha
    )
    phases = positions @ waves.t()  # [n_atoms, n_k]
    cosines, sines = torch.cos(phases), torch.sin(phases)
    even = charges.unsqueeze(1) - 0.5 * ((quadrupoles @ waves.t()) * waves.t()).sum(1)  # [n_atoms, n_k]
    odd = dipoles @ waves.t()
    source_real = even * cosines - odd * sines
    source_imaginary = even * sines + odd * cosines
    real, imaginary = source_real.sum(0), source_imaginary.sum(0)  # [n_k]
    energy = (factors * (real * real + imaginary * imaginary)).sum()
    real, imaginary = 2.0 * factors * real, 2.0 * factors * imaginary
    potential = cosines @ real + sines @ imaginary
    slope = (cosines * imaginary - sines * real) @ waves
    curvature = -torch.einsum("ik,ka,kb->iab", cosines * real + sines * imaginary, waves, waves)
    gradient = (source_real * imaginary - source_imaginary * real) @ waves
    own = multipole_self_sum(charges, dipoles, quadrupoles, math.sqrt(2.0 * width2), coulomb_constant)
    energy, potential, slope = energy - own.energy, potential - own.potential, slope + own.field
    own_curvature = own.curvature
    if own_curvature is not None:
        curvature = curvature - own_curvature
    if split > 0.0:
        vectors = positions.unsqueeze(1) - positions.unsqueeze(0)
        with torch.no_grad():
            shifts = torch.round(vectors @ torch.linalg.inv(cell))
        vectors = vectors - shifts @ cell
        distances = safe_distances(vectors)
        near = smeared_derivatives(distances, math.sqrt(2.0) * smearing, 5)
        far = smeared_derivatives(distances, 1.0 / split, 5)
        others = coulomb_constant * other_atoms(distances)
        pairs = pair_interactions(
            vectors, [others * (near[n] - far[n]) for n in range(6)], charges, dipoles, quadrupoles
        )
        volume = torch.abs(torch.linalg.det(cell))
        background = split_background(split, smearing, coulomb_constant) * charges.sum() / volume
        energy = energy + pairs[0] - 0.5 * background * charges.sum()
        potential = potential + pairs[1] - background
        slope = slope + pairs[2]
        gradient = gradient + pairs[3]
        curvature = curvature + pairs[4]
    return MultipoleSum(energy, potential, gradient, -slope, curvature)


def _none(dipoles: Tensor) -> Tensor:
    """Quadrupoles of zero for ``dipoles`` [n, 3]."""
    return torch.zeros_like(dipoles).unsqueeze(-1).expand(-1, -1, 3)


__all__ = [
    "MultipoleSum",
    "ewald_multipole_sum",
    "isolated_multipole_sum",
    "multipole_self_sum",
]
