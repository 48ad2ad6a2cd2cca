"""The Coulomb sum of Gaussian charges as a matrix between them."""

from __future__ import annotations

import math
from typing import Optional

import torch
from torch import Tensor

from openmm_les.electrostatics.ewald import split_background, split_kernel, wave_factors
from openmm_les.electrostatics.isolated import other_atoms, safe_distances, self_hardness, smeared_kernel


def coulomb_matrix(
    positions: Tensor,
    cell: Optional[Tensor],
    smearing: float,
    coulomb_constant: float,
    k_cutoff: Optional[float] = None,
    tolerance: float = 1e-9,
) -> Tensor:
    r"""K of the energy ``½ q·K q`` that `isolated_sum` and `ewald_sum` give, self term removed.

    Parameters
    ----------
    positions : [n_atoms, 3], Å
    cell : [3, 3], Å, rows are vectors; None = isolated
    smearing, coulomb_constant, k_cutoff, tolerance : as in `ewald_sum`

    Returns
    -------
    [n_atoms, n_atoms], eV/e², symmetric, differentiable in positions and cell

    Notes
    -----
    Gaussians with their self terms have a Coulomb energy of at least zero, so that K plus
    `self_hardness` on the diagonal has no negative eigenvalue, in a cell as outside.
    """
    if cell is None:
        vectors = positions.unsqueeze(1) - positions.unsqueeze(0)
        distances = safe_distances(vectors)
        kernel, _ = smeared_kernel(distances, math.sqrt(2.0) * smearing)
        matrix = coulomb_constant * other_atoms(distances) * kernel
    else:
        split, width2, waves, factors = wave_factors(
            cell, smearing, coulomb_constant, k_cutoff, tolerance, None
        )
        phases = positions @ waves.t()  # [n_atoms, n_k]
        cosines, sines = torch.cos(phases), torch.sin(phases)
        matrix = 2.0 * ((cosines * factors) @ cosines.t() + (sines * factors) @ sines.t())
        own = self_hardness(math.sqrt(width2), coulomb_constant)
        matrix = matrix - own * torch.eye(positions.shape[0], dtype=positions.dtype, device=positions.device)
        if split > 0.0:
            pairs, _, _ = split_kernel(positions, cell, smearing, split)
            volume = torch.abs(torch.linalg.det(cell))
            background = split_background(split, smearing, coulomb_constant) / volume
            matrix = matrix + coulomb_constant * pairs - background
    return matrix


__all__ = ["coulomb_matrix"]
