"""Coulomb energy between two sets: Gaussian multipoles of a model, point charges around them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.bsplines import spline_table
from openmm_les.electrostatics.coupling_mesh import coupling_mesh
from openmm_les.electrostatics.coupling_pairs import (
    Sites,
    Slopes,
    add_pairs,
    derivatives_of,
    kernel_derivatives,
    no_slopes,
)
from openmm_les.electrostatics.cross_pairs import cross_pairs
from openmm_les.electrostatics.influence import influence_function
from openmm_les.electrostatics.isolated import safe_distances
from openmm_les.electrostatics.tuning import mesh_sizes, tune_mesh


class Coupling(NamedTuple):
    """Energy between Gaussians and points, and its derivatives."""

    energy: Tensor
    """scalar, double, eV"""
    potential: Tensor
    """[n_gaussians], eV/e, dE/dq of the Gaussians"""
    gradient: Tensor
    """[n_gaussians, 3], eV/Å, dE/dr of the Gaussians at fixed moments"""
    point_gradient: Tensor
    """[n_points, 3], eV/Å, dE/dr of the points"""
    closest: Tensor
    """scalar, Å, least distance of a watched point to a Gaussian; infinite where none is in reach"""
    field: Tensor
    """[n_gaussians, 3], eV/(e Å), -dE/du of the Gaussians' dipoles, whether they have some or not"""
    curvature: Tensor
    """[n_gaussians, 3, 3], eV/(e Å²), 2 dE/dQ of their quadrupoles; [0, 3, 3] where they have none"""


class ChargeCoupling(nn.Module):
    r"""``Σ_ij q_i Q_j erf(r_ij/w)/r_ij`` between Gaussians q and points Q, with all periodic images.

    Dipoles u and quadrupoles Θ of the Gaussians add ``Σ_i u_i·∇`` and ``½ Σ_i Θ_i:∇∇`` of the same
    potential. In a cell: pairs ``[erf(r/w) - erf(αr)]/r`` up to a cutoff, ``erf(αr)/r`` on a mesh, and
    ``-(π ke/V)(1/α² - σ²) Σq ΣQ``: like the model's own sum this one leaves k = 0 out. Without a
    cell: all pairs. No derivative is recorded; what is returned is constant to autograd.

    Parameters
    ----------
    smearing : σ in Å, of the model: a Gaussian of standard deviation σ/√2 meets a point by w = σ
    coulomb_constant : eV·Å/e²
    cutoff : Å, of the pairs in a cell; at most half the cell's narrowest width
    tolerance : what pairs leave out at the cutoff, and error of the mesh's forces over its forces
    point_smearing : τ in Å, makes the points Gaussians too, w² = σ² + τ². Short-ranged: backgrounds are
        those of points
    excluded : pairs (index of a Gaussian, index of a point) that a force field counts in part
    excluded_shares : of each excluded pair, the part of its interaction to take off again
    watched : indices of points whose approach to the Gaussians is reported
    dtype : of the arithmetic; positions are double always
    quadrupoles : the Gaussians may have some; the mesh then takes splines smooth enough for their forces

    Notes
    -----
    α and the mesh are numerics chosen from cutoff and tolerance; the energy does not depend on them
    beyond the tolerance. With quadrupoles, which meet third derivatives of what pairs leave out at the
    cutoff, the largest error over the largest force is up to 1.6 times 5e-4 and 24 times 1e-7, as measured.
    """

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        table: Tensor
        excluded: Tensor
        excluded_shares: Tensor
        watched: Tensor

    def __init__(
        self,
        smearing: float,
        coulomb_constant: float,
        cutoff: float = 12.0,
        tolerance: float = 1e-4,
        point_smearing: float = 0.0,
        excluded: Sequence[Tuple[int, int]] = (),
        excluded_shares: Sequence[float] = (),
        watched: Sequence[int] = (),
        dtype: torch.dtype = torch.float64,
        quadrupoles: bool = False,
    ) -> None:
        super().__init__()
        if not smearing > 0.0:
            raise ValueError(f"`smearing` must be positive, got {smearing}")
        if not cutoff > 0.0:
            raise ValueError(f"`cutoff` must be positive, got {cutoff}")
        if not 0.0 < tolerance < 1.0:
            raise ValueError(f"`tolerance` must lie between 0 and 1, got {tolerance}")
        if not (point_smearing >= 0.0 and math.isfinite(point_smearing)):
            raise ValueError(f"`point_smearing` must not be negative, got {point_smearing}")
        if len(excluded) != len(excluded_shares):
            raise ValueError(
                f"`excluded_shares` must have one number per pair of `excluded` ({len(excluded)}), "
                f"got {len(excluded_shares)}"
            )
        self.smearing = float(smearing)
        self.width = math.hypot(smearing, point_smearing)
        self.coulomb_constant = float(coulomb_constant)
        self.cutoff = float(cutoff)
        self.alpha = math.sqrt(math.log(1.0 / tolerance)) / cutoff
        if not self.alpha * self.width < 1.0:
            raise ValueError(
                f"`cutoff` {cutoff:g} is too short for charges {self.width:g} wide at `tolerance` "
                f"{tolerance:g}: it must exceed {self.width * math.sqrt(math.log(1.0 / tolerance)):.3g}"
            )
        self.quadrupolar = quadrupoles
        derivatives = 3 if quadrupoles else 2
        self.order, self.spacing = tune_mesh(tolerance, 1.0 / (math.sqrt(2.0) * self.alpha), derivatives)
        self.register_buffer("table", spline_table(self.order, derivatives).to(dtype), persistent=False)
        pairs = torch.tensor([list(pair) for pair in excluded], dtype=torch.int64).view(-1, 2)
        self.register_buffer("excluded", pairs)
        shares = torch.tensor(list(excluded_shares), dtype=torch.float64)
        self.register_buffer("excluded_shares", shares)
        self.register_buffer("watched", torch.tensor(list(watched), dtype=torch.int64))
        self.dtype = dtype
        # The cell of the last call and its influence function; no buffers, their shapes change.
        self.stored_cell = torch.zeros((3, 3), dtype=torch.float64)
        self.influence = torch.zeros(0)

    def forward(
        self,
        gaussians: Tensor,
        charges: Optional[Tensor],
        points: Tensor,
        point_charges: Tensor,
        cell: Optional[Tensor],
        dipoles: Optional[Tensor] = None,
        quadrupoles: Optional[Tensor] = None,
    ) -> Coupling:
        """Energy and derivatives.

        Parameters
        ----------
        gaussians : [n_gaussians, 3], Å, double, wrapped or not
        charges : [n_gaussians], e; None = not known yet: only potential and field are found, in half the
            time, the rest is zero
        points : [n_points, 3], Å, double, wrapped or not
        point_charges : [n_points], e
        cell : [3, 3], Å, double, rows are vectors, at least twice the cutoff wide; None = isolated
        dipoles : [n_gaussians, 3], e·Å, of the Gaussians; None = none
        quadrupoles : [n_gaussians, 3, 3], e·Å², symmetric second moments of the Gaussians; None = none

        Raises
        ------
        ValueError
            Quadrupoles for a coupling that was made without.
        """
        if quadrupoles is not None and not self.quadrupolar:
            raise ValueError("`quadrupoles` need a coupling made for them: ChargeCoupling(quadrupoles=True)")
        with torch.no_grad():
            sources = point_charges.to(self.dtype)
            q = torch.zeros_like(gaussians[:, 0], dtype=self.dtype)
            if charges is not None:
                q = charges.to(self.dtype)
            u: Optional[Tensor] = None
            if dipoles is not None:
                u = dipoles.to(self.dtype)
            second: Optional[Tensor] = None
            if quadrupoles is not None:
                second = quadrupoles.to(self.dtype)
                if dipoles is None:
                    u = torch.zeros_like(gaussians, dtype=self.dtype)
            sites = Sites(gaussians, q, u, second)
            total = no_slopes(sites, points)
            device = gaussians.device
            marks = torch.zeros(points.shape[0], dtype=torch.bool, device=device)
            marks[self.watched] = True
            closest = torch.full((), math.inf, dtype=torch.float64, device=device)
            if points.shape[0] > 0:
                strengths = self.coulomb_constant * sources
                if cell is None:
                    closest = self._add_all_pairs(sites, points, strengths, marks, total)
                else:
                    closest = self._add_near_pairs(sites, points, strengths, marks, cell, total)
                    self._add_mesh(sites, points, sources, cell, total, charges is None)
                if self.excluded.shape[0] > 0:
                    self._subtract_excluded(sites, points, strengths, cell, total)
            energy = torch.zeros((), dtype=torch.float64, device=device)
            if charges is not None:
                energy = (charges.to(torch.float64) * total.potential).sum()
            if dipoles is not None:
                energy = energy + (dipoles.to(torch.float64) * total.slope).sum()
            if quadrupoles is not None:
                energy = energy + 0.5 * (quadrupoles.to(torch.float64) * total.curvature).sum()
        return Coupling(
            energy,
            total.potential,
            total.gradient,
            total.point_gradient,
            closest,
            -total.slope,
            total.curvature,
        )

    def _add_all_pairs(
        self, sites: Sites, points: Tensor, strengths: Tensor, marks: Tensor, total: Slopes
    ) -> Tensor:
        """Every pair, without images; returns the least distance of a point with a mark."""
        gaussians, device = sites.positions, sites.positions.device
        closest = torch.full((), math.inf, dtype=torch.float64, device=device)
        pairs_per_block = 200_000  # bounds the memory
        block = max(1, pairs_per_block // gaussians.shape[0])
        for begin in range(0, points.shape[0], block):
            chosen = torch.arange(begin, min(begin + block, points.shape[0]), device=device)
            second = chosen.repeat(gaussians.shape[0])
            first = torch.arange(gaussians.shape[0], device=device).repeat_interleave(chosen.shape[0])
            vectors = gaussians.index_select(0, first) - points.index_select(0, second)
            distances = safe_distances(vectors)
            kernel = kernel_derivatives(distances.to(self.dtype), self.width, derivatives_of(sites))
            add_pairs(first, second, vectors, kernel, sites, strengths, total)
            closest = torch.minimum(closest, _least(distances, marks[second]))
        return closest

    def _add_near_pairs(
        self, sites: Sites, points: Tensor, strengths: Tensor, marks: Tensor, cell: Tensor, total: Slopes
    ) -> Tensor:
        """What the mesh leaves to pairs; returns the least distance of a point with a mark."""
        first, second, vectors = cross_pairs(sites.positions, points, cell, self.cutoff)
        distances = safe_distances(vectors)
        rounded = distances.to(self.dtype)
        near = kernel_derivatives(rounded, self.width, derivatives_of(sites))
        far = kernel_derivatives(rounded, 1.0 / self.alpha, derivatives_of(sites))
        kernel = [near[n] - far[n] for n in range(len(near))]
        add_pairs(first, second, vectors, kernel, sites, strengths, total)
        return _least(distances, marks[second])

    def _subtract_excluded(
        self, sites: Sites, points: Tensor, strengths: Tensor, cell: Optional[Tensor], total: Slopes
    ) -> None:
        """Take off the shares of the pairs that a force field counts in part."""
        first, second = self.excluded[:, 0], self.excluded[:, 1]
        vectors = sites.positions.index_select(0, first) - points.index_select(0, second)
        if cell is not None:
            vectors = vectors - torch.round(vectors @ torch.linalg.inv(cell)) @ cell
        kernel = kernel_derivatives(safe_distances(vectors), self.width, derivatives_of(sites))
        shares = [-self.excluded_shares * values for values in kernel]
        add_pairs(first, second, vectors, shares, sites, strengths, total)

    def _add_mesh(
        self,
        sites: Sites,
        points: Tensor,
        point_charges: Tensor,
        cell: Tensor,
        total: Slopes,
        potential_only: bool,
    ) -> None:
        """The mesh's part and the background."""
        mesh = mesh_sizes(cell, self.spacing, self.order)
        self._store(cell, mesh)
        found = coupling_mesh(
            sites, points, point_charges, cell, mesh, self.table, self.influence, potential_only
        )
        volume = float(torch.abs(torch.linalg.det(cell)))
        background = math.pi * self.coulomb_constant / volume * (self.alpha**-2 - self.smearing**2)
        total.potential.add_(found.potential).sub_(background * float(point_charges.to(torch.float64).sum()))
        total.slope.add_(found.slope)
        total.curvature.add_(found.curvature)
        total.gradient.add_(found.gradient)
        total.point_gradient.add_(found.point_gradient)

    def _store(self, cell: Tensor, mesh: List[int]) -> None:
        if self.stored_cell.device == cell.device and torch.equal(self.stored_cell, cell):
            return
        width = 1.0 / (math.sqrt(2.0) * self.alpha)
        influence = influence_function(cell, mesh, self.order, width, self.coulomb_constant)
        self.influence = influence.to(self.dtype)
        self.stored_cell = cell.clone()  # last: whoever finds this cell finds its table


def _least(distances: Tensor, marks: Tensor) -> Tensor:
    """Smallest of the ``distances`` that are marked, scalar; infinite where none is."""
    marked = distances[marks]
    none = torch.full((1,), math.inf, dtype=distances.dtype, device=distances.device)
    return torch.cat((marked, none)).min()


__all__ = ["ChargeCoupling", "Coupling"]
