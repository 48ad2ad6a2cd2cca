"""Particle-mesh Ewald sum of Gaussian charges, in any cell, at O(N log N)."""

from __future__ import annotations

import math
from typing import List, Optional, Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.bsplines import spline_table
from openmm_les.electrostatics.influence import MeshTables, influence_function, mesh_self_terms
from openmm_les.electrostatics.isolated import safe_distances, smeared_kernel
from openmm_les.electrostatics.mesh import mesh_sum


def split_pair_sum(
    positions: Tensor,
    charges: Tensor,
    cell: Tensor,
    smearing: float,
    alpha: float,
    pairs: Tuple[Tensor, Tensor, Tensor],
) -> Tuple[Tensor, Tensor]:
    """What a broader mesh Gaussian leaves to pairs: potential and gradient without the constant.

    ``pairs``: directed centres, neighbours [n_pairs] and shifts [n_pairs, 3] in cell vectors, as
    `openmm_les.neighbors.all_pairs` gives them. Kernel ``[erf(r/√2σ) - erf(αr)]/r``.
    """
    centers, neighbors, shifts = pairs
    vectors = positions[centers] - positions[neighbors] - shifts @ cell
    distances = safe_distances(vectors)
    near, near_slope = smeared_kernel(distances, math.sqrt(2.0) * smearing)
    far, far_slope = smeared_kernel(distances, 1.0 / alpha)
    sources = charges[neighbors]
    potential = torch.zeros_like(charges).index_add(0, centers, (near - far) * sources)
    weights = (near_slope - far_slope) * sources
    field = torch.zeros_like(positions).index_add(0, centers, weights.unsqueeze(1) * vectors)
    return potential, charges.unsqueeze(1) * field


def pme_sum(
    positions: Tensor,
    charges: Tensor,
    cell: Tensor,
    smearing: float,
    coulomb_constant: float,
    mesh: List[int],
    order: int = 6,
    k_cutoff: Optional[float] = None,
    alpha: Optional[float] = None,
    pairs: Optional[Tuple[Tensor, Tensor, Tensor]] = None,
    influence: Optional[Tensor] = None,
    self_terms: Optional[Tensor] = None,
    table: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor, Tensor]:
    r"""Energy, potential and gradient of Gaussian charges in a periodic cell by a mesh.

    The sum of `ewald_sum` (self term removed, k = 0 left out), to the accuracy that
    `openmm_les.electrostatics.tuning` tells. ``alpha``, ``mesh`` and ``order`` are numerics.

    Parameters
    ----------
    positions : [n_atoms, 3], Å, wrapped or not
    charges : [n_atoms], e
    cell : [3, 3], Å, rows are vectors, either handedness
    smearing : σ in Å
    coulomb_constant : eV·Å/e²
    mesh : points along each cell vector; see `tuning.mesh_sizes`
    order : of the B-splines, 4 to 8
    k_cutoff : 1/Å, sharp cut of the sum; None = converged
    alpha : 1/Å, below 1/(√2 σ): a coarser mesh of broader Gaussians, and ``pairs`` add the rest;
        None = the model's own Gaussians on the mesh, no pairs
    pairs : directed pairs (centres, neighbours, shifts) up to where erfc(α r) is negligible
    influence, self_terms, table : of `influence_function`, `mesh_self_terms` and `spline_table`
        where they are at hand: the first two change with the cell only, the last never

    Returns
    -------
    energy : scalar, eV
    potential : [n_atoms], eV/e, dE/dq
    gradient : [n_atoms, 3], eV/Å, dE/dr at fixed charges

    Raises
    ------
    ValueError
        ``alpha`` without ``pairs`` or with ``k_cutoff``, an ``alpha`` that splits nothing, an
        ``order`` out of range or a mesh with fewer points than that.

    Notes
    -----
    Essmann et al., J. Chem. Phys. 103, 8577 (1995), with the influence function of Hockney and
    Eastwood and derivatives of the splines. Forces of a mesh do not add up to exactly zero.
    """
    if order < 4 or order > 8:
        raise ValueError(f"`order` must lie between 4 and 8, got {order}")
    if len(mesh) != 3 or min(mesh) < order:
        raise ValueError(f"`mesh` must be three sizes of at least `order` = {order}, got {mesh}")
    width = smearing
    if alpha is not None:
        if pairs is None or k_cutoff is not None:
            raise ValueError("`alpha` needs `pairs` and no `k_cutoff`: pairs add what the mesh leaves out")
        width = 1.0 / (math.sqrt(2.0) * alpha)
        if not width > smearing:
            raise ValueError(f"`alpha` must lie below 1/(√2 smearing), got {alpha} for smearing {smearing}")
    if table is None:
        table = spline_table(order, 1).to(device=positions.device, dtype=positions.dtype)
    if influence is None:
        influence = influence_function(cell, mesh, order, width, coulomb_constant, k_cutoff)
    if self_terms is None:
        self_terms = mesh_self_terms(influence, mesh, order)
    found = mesh_sum(positions, charges, None, None, cell, mesh, table, influence, self_terms)
    self_potential = charges * (2.0 * coulomb_constant / (math.sqrt(2.0 * math.pi) * width))
    potential = found.potential - self_potential
    gradient = found.gradient.t() @ found.to_mesh.t()
    energy = found.energy - 0.5 * (charges * self_potential).sum()
    if alpha is not None and pairs is not None:
        near, near_gradient = split_pair_sum(positions, charges, cell, smearing, alpha, pairs)
        # Gaussians of both widths leave out k = 0; the difference of their limits is constant.
        background = math.pi * coulomb_constant * (1.0 / (alpha * alpha) - 2.0 * smearing * smearing)
        volume = torch.abs(torch.linalg.det(cell))
        extra = coulomb_constant * near - background * charges.sum() / volume
        potential = potential + extra
        gradient = gradient + coulomb_constant * near_gradient
        energy = energy + 0.5 * (charges * extra).sum()
    return energy, potential, gradient


class ParticleMesh(nn.Module):
    """`pme_sum` at a given accuracy: chooses the mesh, and keeps what depends on the cell alone.

    Parameters
    ----------
    smearing : σ in Å
    coulomb_constant : eV·Å/e²
    k_cutoff : 1/Å, sharp cut of the sum; None = converged
    tolerance : error of the forces over the forces, root mean squares; see `tuning.tune_mesh`
    """

    def __init__(
        self,
        smearing: float = 1.0,
        coulomb_constant: float = 14.399645,
        k_cutoff: Optional[float] = None,
        tolerance: float = 1e-4,
    ) -> None:
        super().__init__()
        self.tables = MeshTables(smearing, coulomb_constant, k_cutoff, tolerance, 1)

    def forward(self, positions: Tensor, charges: Tensor, cell: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Energy, potential and gradient as `pme_sum` returns them."""
        influence, self_terms = self.tables(cell)
        return pme_sum(
            positions,
            charges,
            cell,
            self.tables.smearing,
            self.tables.coulomb_constant,
            self.tables.sizes(cell),
            self.tables.order,
            k_cutoff=self.tables.k_cutoff,
            influence=influence,
            self_terms=self_terms,
            table=self.tables.table.to(positions),
        )


__all__ = ["ParticleMesh", "pme_sum", "split_pair_sum"]
