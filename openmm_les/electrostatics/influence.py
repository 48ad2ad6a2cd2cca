"""What a mesh sum needs of the cell alone: influence function and self terms, and a store of both."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, List, Optional, Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.bsplines import (
    alias_sum,
    neighbor_alias_sum,
    optimal_factor,
    spline_spectrum,
    spline_table,
)
from openmm_les.electrostatics.tuning import mesh_sizes, tune_mesh


def influence_function(
    cell: Tensor,
    mesh: List[int],
    order: int,
    width: float,
    coulomb_constant: float,
    k_cutoff: Optional[float] = None,
) -> Tensor:
    r"""What turns the charge mesh's Fourier transform into that of the potential.

    ``(4π ke/V) exp(-w²k²/2)/k²`` times `optimal_factor` of each axis; zero at k = 0.

    Parameters
    ----------
    cell : [3, 3], Å, rows are vectors, either handedness
    mesh : points along each cell vector
    order : of the splines
    width : w in Å, smearing of the charges on the mesh; 1/(√2 α) with a splitting parameter α
    coulomb_constant : eV·Å/e²
    k_cutoff : 1/Å, sharp cut of the sum; None = converged

    Returns
    -------
    [mesh[0], mesh[1], mesh[2] // 2 + 1], dtype of ``cell``, differentiable in it; for `torch.fft.rfftn`
    """
    dtype, device = cell.dtype, cell.device
    n1 = (torch.fft.fftfreq(mesh[0], dtype=dtype, device=device) * mesh[0]).view(-1, 1, 1)
    n2 = (torch.fft.fftfreq(mesh[1], dtype=dtype, device=device) * mesh[1]).view(1, -1, 1)
    n3 = (torch.fft.rfftfreq(mesh[2], dtype=dtype, device=device) * mesh[2]).view(1, 1, -1)
    waves = 2.0 * math.pi * torch.linalg.inv(cell).t()  # rows are the reciprocal vectors
    q = waves @ waves.t()
    plane = q[0, 0] * n1 * n1 + q[1, 1] * n2 * n2 + 2.0 * q[0, 1] * n1 * n2  # [n1, n2, 1]
    squares = plane + n3 * (2.0 * (q[0, 2] * n1 + q[1, 2] * n2) + q[2, 2] * n3)
    factors = [optimal_factor(size, order).to(device=device, dtype=dtype) for size in mesh]
    factors[2] = factors[2][: mesh[2] // 2 + 1]
    splines = factors[0].view(-1, 1, 1) * factors[1].view(1, -1, 1) * factors[2]
    origin = squares == 0.0  # exact: the whole numbers of k = 0 are zeros
    squares = torch.where(origin, torch.ones_like(squares), squares)
    splines = splines.masked_fill(origin, 0.0)
    if k_cutoff is not None:
        splines = splines.masked_fill(squares > k_cutoff * k_cutoff, 0.0)
    volume = torch.abs(torch.linalg.det(cell))
    scale = 4.0 * math.pi * coulomb_constant / volume
    return scale * splines * torch.exp((-0.5 * width * width) * squares) / squares


def mesh_self_terms(influence: Tensor, mesh: List[int], order: int) -> Tensor:
    r"""Error of the mesh in a charge's interaction with itself: what to take off again.

    Between the nodes, at t of `mesh_positions`, the mesh gives a charge the energy
    ``q² [c_0 + Σ_a c_a cos(2π t_a)]`` too much; higher harmonics are smaller by orders of
    magnitude. In a liquid this is the largest part of the mesh's error in the forces.

    Parameters
    ----------
    influence : of `influence_function` for the same mesh and order

    Returns
    -------
    c : [4], eV/e², differentiable in ``influence``

    Notes
    -----
    Self forces of meshes: Ballenegger, Cerdà and Holm, Comput. Phys. Commun. 182, 1919 (2011).
    The sum over aliases m, m' of ``½ q² Σ_k G W_m W_m' exp(2πi (m - m')·u)``: m = m' gives c_0
    (less the exact self energy), neighbours along one axis the others.
    """
    dtype, device = influence.dtype, influence.device
    same: List[Tensor] = []
    exact: List[Tensor] = []
    neighbors: List[Tensor] = []
    for size in mesh:
        aliases = alias_sum(size, order)
        same.append(aliases.to(device=device, dtype=dtype))
        exact.append((aliases / spline_spectrum(size, order)) ** 2)
        neighbors.append(neighbor_alias_sum(size, order).to(device=device, dtype=dtype))
    exact = [values.to(device=device, dtype=dtype) for values in exact]
    half = influence.shape[2]
    twice = torch.full((half,), 2.0, dtype=dtype, device=device)
    twice[0] = 1.0  # the half spectrum counts all other waves twice; Nyquist's are zero
    third = influence @ (twice * same[2][:half])  # [mesh[0], mesh[1]]
    # The centre of an odd spline lies between nodes, of an even one on a node, where t = ½.
    sign = 1.0 if order % 2 == 1 else -1.0
    mean = (third @ same[1]) @ same[0] - ((influence @ (twice * exact[2][:half])) @ exact[1]) @ exact[0]
    along_3 = ((influence @ (twice * neighbors[2][:half])) @ same[1]) @ same[0]
    along_2 = (third @ neighbors[1]) @ same[0]
    along_1 = (third @ same[1]) @ neighbors[0]
    return torch.stack((0.5 * mean, sign * along_1, sign * along_2, sign * along_3))


class MeshTables(nn.Module):
    """Mesh of a given accuracy, and what follows from the cell alone.

    The mesh follows from the cell, not from the cells before it, so the energy is a function of
    the state. Each instance has its own store; a cell that differs in one bit renews it.

    Parameters
    ----------
    smearing : σ in Å
    coulomb_constant : eV·Å/e²
    k_cutoff : 1/Å, sharp cut of the sum; None = converged
    tolerance : error of the forces between charges, see `tuning.tune_mesh`
    derivatives : of the splines in ``table``
    """

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        table: Tensor

    def __init__(
        self,
        smearing: float,
        coulomb_constant: float,
        k_cutoff: Optional[float],
        tolerance: float,
        derivatives: int,
    ) -> None:
        super().__init__()
        self.smearing = float(smearing)
        self.coulomb_constant = float(coulomb_constant)
        self.k_cutoff = k_cutoff
        self.order, self.spacing = tune_mesh(tolerance, smearing, derivatives)
        self.register_buffer("table", spline_table(self.order, derivatives), persistent=False)
        # The cell of the last call and its tables. No buffers: their shapes follow the cell, and what
        # copies buffers between modules (averaging of weights, DDP) would tear them apart.
        self.stored_cell = torch.zeros((3, 3), dtype=torch.float64)
        self.influence = torch.zeros(0)
        self.self_terms = torch.zeros(0)
        self.held = False
        """Whether to take what `hold` was given last, whatever the cell, without asking a GPU for it"""
        self.held_sizes = [0, 0, 0]
        self.held_influence = torch.zeros(0)
        self.held_self_terms = torch.zeros(0)

    @torch.jit.export
    def hold(self, cell: Tensor) -> bool:
        """Keep the tables of a cell where those of the last one lay, if they have the same shape.

        For recorded CUDA graphs, which read them there. Returns whether the place is a new one.
        """
        sizes = self.sizes(cell)
        influence, self_terms = self.forward(cell)
        if self.held_sizes == sizes and self.held_influence.device == influence.device:
            self.held_influence.copy_(influence)
            self.held_self_terms.copy_(self_terms)
            return False
        self.held_sizes = sizes
        self.held_influence, self.held_self_terms = influence.clone(), self_terms.clone()
        return True

    def sizes(self, cell: Tensor) -> List[int]:
        """Points of the mesh along each vector of a cell [3, 3], Å."""
        # One exit: TorchScript fails on an early return in front of a `with` block.
        sizes = self.held_sizes
        if not self.held:
            with torch.no_grad():
                sizes = mesh_sizes(cell, self.spacing, self.order)
        return sizes

    def forward(self, cell: Tensor) -> Tuple[Tensor, Tensor]:
        """Influence function and self terms of a cell [3, 3] in Å, differentiable where it asks."""
        if self.held:
            return self.held_influence, self.held_self_terms
        known = self.stored_cell
        fits = known.dtype == cell.dtype and known.device == cell.device and not cell.requires_grad
        if fits and torch.equal(known, cell):
            return self.influence, self.self_terms
        influence = influence_function(
            cell, self.sizes(cell), self.order, self.smearing, self.coulomb_constant, self.k_cutoff
        )
        self_terms = mesh_self_terms(influence, self.sizes(cell), self.order)
        if not cell.requires_grad:
            self.influence, self.self_terms = influence, self_terms
            self.stored_cell = cell.clone()  # last: whoever finds this cell finds its tables
        return influence, self_terms


__all__ = ["MeshTables", "influence_function", "mesh_self_terms"]
