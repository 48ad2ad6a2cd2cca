"""Exact periodic Coulomb sum of Gaussian charges (Ewald), in any cell."""

from __future__ import annotations

import math
from typing import Optional, Tuple

import torch
from torch import Tensor

from openmm_les.electrostatics.isolated import (
    other_atoms,
    safe_distances,
    self_energy,
    self_hardness,
    smeared_kernel,
)
from openmm_les.neighbors import perpendicular_widths


def wave_vectors(cell: Tensor, cutoff: float) -> Tensor:
    """Half of the reciprocal lattice inside a sphere, without k = 0.

    Parameters
    ----------
    cell : [3, 3], Å, rows are vectors, either handedness
    cutoff : largest ``|k|``, 1/Å

    Returns
    -------
    [n_k, 3], 1/Å; differentiable in ``cell``. ``-k`` of each is left out.
    """
    with torch.no_grad():
        lengths = torch.linalg.norm(cell, dim=1)
        reach = torch.floor(cutoff * lengths / (2.0 * math.pi)).to(torch.int64)
        n1, n2, n3 = int(reach[0]), int(reach[1]), int(reach[2])
        device = cell.device
        grid = torch.stack(
            torch.meshgrid(
                torch.arange(0, n1 + 1, device=device),
                torch.arange(-n2, n2 + 1, device=device),
                torch.arange(-n3, n3 + 1, device=device),
                indexing="ij",
            ),
            -1,
        ).view(-1, 3)
        # Of the plane n1 = 0 keep one half too: the entries after the middle one (0, 0, 0).
        first_plane = (2 * n2 + 1) * (2 * n3 + 1)
        integers = grid[first_plane // 2 + 1 :].to(cell.dtype)
        waves = integers @ (2.0 * math.pi * torch.linalg.inv(cell).t())
        integers = integers[(waves * waves).sum(-1) <= cutoff * cutoff]
    return integers @ (2.0 * math.pi * torch.linalg.inv(cell).t())


def splitting(cell: Tensor, smearing: float, tolerance: float) -> float:
    """Ewald splitting parameter α in 1/Å that lets pairs end at half the cell's narrowest width.

    0.0 where splitting does not pay: the model's own Gaussians are then the narrower ones and
    the reciprocal sum alone is the whole sum. Numerics only, the energy does not depend on it.
    """
    with torch.no_grad():
        half_width = 0.5 * float(perpendicular_widths(cell).min())
    alpha = math.sqrt(math.log(1.0 / tolerance)) / half_width
    return alpha if alpha < 1.0 / (math.sqrt(2.0) * smearing) else 0.0


def wave_factors(
    cell: Tensor,
    smearing: float,
    coulomb_constant: float,
    k_cutoff: Optional[float],
    tolerance: float,
    alpha: Optional[float],
) -> Tuple[float, float, Tensor, Tensor]:
    """What the reciprocal sum runs over; arguments as in `ewald_sum`.

    Returns
    -------
    split : 1/Å, α of the pairs beside it; 0 = none
    width2 : Å², square of the width of the Gaussians it runs over
    waves : [n_k, 3], 1/Å, of `wave_vectors`
    factors : [n_k], eV/e²; its potential is ``2 Σ_k factor Σ_j q_j cos(k·(r_i - r_j))``
    """
    # Chosen once per cell; where a sharp cut is part of the model nothing may be split off.
    split = 0.0
    if k_cutoff is None:
        split = alpha if alpha is not None else splitting(cell, smearing, tolerance)
    width2 = smearing * smearing  # exp(-width2 k²/2)
    if split > 0.0:
        width2 = 0.5 / (split * split)
    largest = math.sqrt(2.0 * math.log(1.0 / tolerance) / width2)
    if k_cutoff is not None:
        largest = k_cutoff
    volume = torch.abs(torch.linalg.det(cell))
    waves = wave_vectors(cell, largest)  # [n_k, 3]
    squares = (waves * waves).sum(-1)
    # 2π ke/V over the full sphere; the half sphere counts twice.
    factors = (4.0 * math.pi * coulomb_constant) / volume * torch.exp(-0.5 * width2 * squares) / squares
    return split, width2, waves, factors


def split_background(split: float, smearing: float, coulomb_constant: float) -> float:
    """What splitting changes in the potential of a unit charge, times the volume: eV Å³/e.

    Gaussians of both widths leave out k = 0; the difference of their limits is constant.
    """
    return math.pi * coulomb_constant * (1.0 / (split * split) - 2.0 * smearing * smearing)


def split_kernel(
    positions: Tensor, cell: Tensor, smearing: float, alpha: float
) -> Tuple[Tensor, Tensor, Tensor]:
    """Pair kernel beside the reciprocal sum, between nearest images.

    Returns
    -------
    kernel : [n_atoms, n_atoms], 1/Å, zero on the diagonal
    slope : the same, ``kernel'(r) / r``, 1/Å³
    vectors : [n_atoms, n_atoms, 3], Å, from the second atom to the first
    """
    vectors = positions.unsqueeze(1) - positions.unsqueeze(0)
    with torch.no_grad():
        shifts = torch.round(vectors @ torch.linalg.inv(cell))
    vectors = vectors - shifts @ cell
    distances = safe_distances(vectors)
    others = other_atoms(distances)
    near, near_slope = smeared_kernel(distances, math.sqrt(2.0) * smearing)
    far, far_slope = smeared_kernel(distances, 1.0 / alpha)
    return (near - far) * others, (near_slope - far_slope) * others, vectors


def ewald_sum(
    positions: Tensor,
    charges: Tensor,
    cell: Tensor,
    smearing: float,
    coulomb_constant: float,
    k_cutoff: Optional[float] = None,
    tolerance: float = 1e-9,
    alpha: Optional[float] = None,
) -> Tuple[Tensor, Tensor, Tensor]:
    r"""Energy, potential and gradient of Gaussian charges in a periodic cell, self term removed.

    ``(2π ke/V) Σ_{k≠0} exp(-σ²k²/2)/k² |S(k)|² - ke Σ q²/(√(2π) σ)``. Every output is
    differentiable in positions, charges and cell.

    Parameters
    ----------
    positions : [n_atoms, 3], Å, wrapped or not
    charges : [n_atoms], e; a net charge is met by a uniform background (k = 0 left out)
    cell : [3, 3], Å, rows are vectors, either handedness
    smearing : σ in Å
    coulomb_constant : eV·Å/e²
    k_cutoff : 1/Å, sharp cut of the sum as in some published models; None = converged
    tolerance : relative size of what the converged sum leaves out
    alpha : 1/Å, Ewald splitting parameter; None = chosen by `splitting`, 0 = no splitting

    Returns
    -------
    energy : scalar, eV
    potential : [n_atoms], eV/e, dE/dq
    gradient : [n_atoms, 3], eV/Å, dE/dr at fixed charges

    Notes
    -----
    Cheng, npj Comput. Mater. 11, 80 (2025). With splitting (α < 1/(√2 σ)) the reciprocal sum
    runs over Gaussians of width 1/α and the pair kernel [erf(r/√2σ) - erf(αr)]/r adds the rest.
    """
    split, width2, waves, factors = wave_factors(cell, smearing, coulomb_constant, k_cutoff, tolerance, alpha)
    volume = torch.abs(torch.linalg.det(cell))
    phases = positions @ waves.t()  # [n_atoms, n_k]
    cosines, sines = torch.cos(phases), torch.sin(phases)
    real, imaginary = charges @ cosines, charges @ sines  # [n_k]
    potential = 2.0 * (cosines @ (factors * real) + sines @ (factors * imaginary))
    field = cosines * (factors * imaginary) - sines * (factors * real)  # [n_atoms, n_k]
    gradient = 2.0 * charges.unsqueeze(1) * (field @ waves)
    potential = potential - charges * self_hardness(math.sqrt(width2), coulomb_constant)
    if split > 0.0:
        pair_potential, pair_gradient = _split_pairs(positions, charges, cell, smearing, split)
        background = split_background(split, smearing, coulomb_constant)
        potential = potential + coulomb_constant * pair_potential - background * charges.sum() / volume
        gradient = gradient + coulomb_constant * pair_gradient
    return 0.5 * (charges * potential).sum(), potential, gradient


def _split_pairs(
    positions: Tensor, charges: Tensor, cell: Tensor, smearing: float, alpha: float
) -> Tuple[Tensor, Tensor]:
    """Nearest-image part of the split sum without the Coulomb constant: potential, gradient."""
    kernel, slope, vectors = split_kernel(positions, cell, smearing, alpha)
    weights = slope * charges.unsqueeze(0)
    return kernel @ charges, charges.unsqueeze(1) * (weights.unsqueeze(-1) * vectors).sum(1)


def ewald_energy(
    positions: Tensor,
    charges: Tensor,
    cell: Tensor,
    smearing: float,
    coulomb_constant: float,
    k_cutoff: Optional[float] = None,
    tolerance: float = 1e-9,
) -> Tensor:
    """The energy of `ewald_sum` alone, scalar in eV."""
    energy, _, _ = ewald_sum(positions, charges, cell, smearing, coulomb_constant, k_cutoff, tolerance)
    return energy


__all__ = [
    "ewald_energy",
    "ewald_sum",
    "self_energy",
    "split_background",
    "split_kernel",
    "splitting",
    "wave_factors",
    "wave_vectors",
]
