"""Coulomb sum of Gaussian charges without periodic images."""

from __future__ import annotations

import math
from typing import Tuple

import torch
from torch import Tensor


def smeared_kernel(distances: Tensor, width: float) -> Tuple[Tensor, Tensor]:
    r"""``erf(r/w)/r`` and its derivative over r, both finite at r = 0.

    Parameters
    ----------
    distances : any shape, length, strictly positive (see `safe_distances`)
    width : same length; √2 σ between two Gaussians of the model's σ, σ against a point charge

    Returns
    -------
    kernel : 1/length
    slope : ``kernel'(r) / r``, 1/length³, so that a gradient is ``slope * vector``
    """
    kernel = torch.erf(distances / width) / distances
    gaussian = (2.0 / (math.sqrt(math.pi) * width)) * torch.exp(-((distances / width) ** 2))
    return kernel, (gaussian - kernel) / (distances * distances)


def safe_distances(vectors: Tensor) -> Tensor:
    """Lengths of [..., 3] vectors with a floor (1e-4) that keeps derivatives finite at zero."""
    return torch.sqrt((vectors * vectors).sum(-1).clamp(min=1e-8))


def other_atoms(distances: Tensor) -> Tensor:
    """One for each pair [n, n] of two, zero for each atom with itself."""
    return 1.0 - torch.eye(distances.shape[0], dtype=distances.dtype, device=distances.device)


def self_energy(charges: Tensor, smearing: float, coulomb_constant: float) -> Tensor:
    r"""Interaction of each Gaussian with itself, ``ke Σ q² / (√(2π) σ)``, energy."""
    return 0.5 * self_hardness(smearing, coulomb_constant) * (charges * charges).sum()


def self_hardness(smearing: float, coulomb_constant: float) -> float:
    r"""Second derivative of `self_energy` over a charge, ``2 ke / (√(2π) σ)``, eV/e²."""
    return 2.0 * coulomb_constant / (math.sqrt(2.0 * math.pi) * smearing)


def isolated_energy(positions: Tensor, charges: Tensor, smearing: float, coulomb_constant: float) -> Tensor:
    r"""``ke Σ_{i<j} q_i q_j erf(r_ij / (√2 σ)) / r_ij``, differentiable to second order.

    Parameters
    ----------
    positions : [n_atoms, 3], Å
    charges : [n_atoms], e
    smearing : σ in Å; each charge is a Gaussian of standard deviation σ/√2
    coulomb_constant : eV·Å/e²

    Returns
    -------
    energy : scalar, eV. Cheng, npj Comput. Mater. 11, 80 (2025).
    """
    energy, _, _ = isolated_sum(positions, charges, smearing, coulomb_constant)
    return energy


def isolated_sum(
    positions: Tensor, charges: Tensor, smearing: float, coulomb_constant: float
) -> Tuple[Tensor, Tensor, Tensor]:
    """Energy (eV), dE/dq ([n_atoms], eV/e) and dE/dr at fixed charges ([n_atoms, 3], eV/Å).

    Arguments as in `isolated_energy`.
    """
    vectors = positions.unsqueeze(1) - positions.unsqueeze(0)  # [i, j, 3] = r_i - r_j
    others = 1.0 - torch.eye(positions.shape[0], dtype=positions.dtype, device=positions.device)
    kernel, slope = smeared_kernel(safe_distances(vectors), math.sqrt(2.0) * smearing)
    potential = coulomb_constant * ((kernel * others) @ charges)
    weights = coulomb_constant * (slope * others) * charges.unsqueeze(0)  # [i, j]
    gradient = charges.unsqueeze(1) * (weights.unsqueeze(-1) * vectors).sum(1)
    return 0.5 * (charges * potential).sum(), potential, gradient
