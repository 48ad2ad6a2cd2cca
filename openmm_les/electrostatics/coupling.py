"""Coulomb energy between two sets: Gaussian charges and dipoles of a model, points around them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.bsplines import spline_table, spline_weights
from openmm_les.electrostatics.cross_pairs import cross_pairs
from openmm_les.electrostatics.influence import influence_function
from openmm_les.electrostatics.isolated import safe_distances, smeared_kernel
from openmm_les.electrostatics.mesh import gather, mesh_positions, spread
from openmm_les.electrostatics.multipole_pairs import smeared_derivatives
from openmm_les.electrostatics.tuning import mesh_sizes, tune_mesh


class Coupling(NamedTuple):
    """Energy between Gaussians and points, and its derivatives."""

    energy: Tensor
    """scalar, double, eV"""
    potential: Tensor
    """[n_gaussians], eV/e, dE/dq of the Gaussians"""
    gradient: Tensor
    """[n_gaussians, 3], eV/Å, dE/dr of the Gaussians at fixed charges and dipoles"""
    point_gradient: Tensor
    """[n_points, 3], eV/Å, dE/dr of the points"""
    closest: Tensor
    """scalar, Å, least distance of a watched point to a Gaussian; infinite where none is in reach"""
    field: Tensor
    """[n_gaussians, 3], eV/(e Å), -dE/du of the Gaussians' dipoles, whether they have some or not"""


def coupling_mesh(
    gaussians: Tensor,
    charges: Tensor,
    points: Tensor,
    point_charges: Tensor,
    cell: Tensor,
    mesh: List[int],
    table: Tensor,
    influence: Tensor,
    dipoles: Optional[Tensor] = None,
    potential_only: bool = False,
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Interaction of two charge sets over one mesh, k = 0 left out.

    Parameters
    ----------
    gaussians : [n_gaussians, 3], Å, double
    charges : [n_gaussians], e, of the mesh's dtype
    points : [n_points, 3], Å, double
    point_charges : [n_points], e, of the mesh's dtype
    cell : [3, 3], Å, double
    mesh : points along each cell vector
    table : of `spline_table` with one derivative, with two where there are dipoles, in the mesh's dtype
    influence : of `influence_function`, in the mesh's dtype; even, so that action equals reaction
    dipoles : [n_gaussians, 3], e·Å, of the mesh's dtype; None = none
    potential_only : leave out what the points feel; ``point_gradient`` is then zero

    Returns
    -------
    potential : [n_gaussians], eV/e
    gradient : [n_gaussians, 3], eV/Å
    point_gradient : [n_points, 3], eV/Å
    slope : [n_gaussians, 3], eV/(e Å), gradient of the potential

    Notes
    -----
    Each set is spread once; the Gaussians read the points' potential and the points the
    Gaussians'. Derivatives of the splines make the forces exact derivatives of the energy.
    """
    inverse = torch.linalg.inv(cell)
    to_mesh = (inverse * torch.tensor(mesh, dtype=cell.dtype, device=cell.device)).to(charges.dtype)
    bases, t = mesh_positions(gaussians, inverse, mesh)
    once = table[: 2 * table.shape[1]]
    weights = spline_weights(t.to(charges.dtype), once if dipoles is None else table)
    moments: Optional[Tensor] = None
    if dipoles is not None:
        moments = (dipoles @ to_mesh).t()
    point_bases, point_t = mesh_positions(points, inverse, mesh)
    point_weights = spline_weights(point_t.to(charges.dtype), once)
    waves = torch.fft.rfftn(spread(point_bases, point_weights, point_charges, None, mesh))
    rows = gather(torch.fft.irfftn(waves.mul_(influence), mesh, norm="forward"), bases, weights)
    slope = rows[1:4].t() @ to_mesh.t()
    gradient = charges.unsqueeze(1) * slope
    if moments is not None:
        second = rows[[4, 5, 6, 5, 7, 8, 6, 8, 9]].view(3, 3, -1)
        gradient = gradient + (second * moments).sum(1).t() @ to_mesh.t()
    point_gradient = torch.zeros_like(points, dtype=charges.dtype)
    if not potential_only:
        waves = torch.fft.rfftn(spread(bases, weights, charges, moments, mesh))
        potential = torch.fft.irfftn(waves.mul_(influence), mesh, norm="forward")
        point_rows = gather(potential, point_bases, point_weights)
        point_gradient = point_charges.unsqueeze(1) * (point_rows[1:4].t() @ to_mesh.t())
    return rows[0], gradient, point_gradient, slope


class ChargeCoupling(nn.Module):
    r"""``Σ_ij q_i Q_j erf(r_ij/w)/r_ij`` between Gaussians q and points Q, with all periodic images.

    Dipoles u of the Gaussians add ``Σ_i u_i·∇`` of the same potential. In a cell: pairs
    ``[erf(r/w) - erf(αr)]/r`` up to a cutoff, ``erf(αr)/r`` on a mesh, and
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

    Notes
    -----
    α and the mesh are numerics chosen from cutoff and tolerance; the energy does not depend on them
    beyond the tolerance.
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
        self.order, self.spacing = tune_mesh(tolerance, 1.0 / (math.sqrt(2.0) * self.alpha))
        self.register_buffer("table", spline_table(self.order, 2).to(dtype), persistent=False)
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
        """
        with torch.no_grad():
            sources = point_charges.to(self.dtype)
            q = torch.zeros_like(gaussians[:, 0], dtype=self.dtype)
            if charges is not None:
                q = charges.to(self.dtype)
            u: Optional[Tensor] = None
            if dipoles is not None:
                u = dipoles.to(self.dtype)
            device = gaussians.device
            totals = [
                torch.zeros(q.shape, dtype=torch.float64, device=device),  # potential
                torch.zeros(gaussians.shape, dtype=torch.float64, device=device),  # its gradient
                torch.zeros(gaussians.shape, dtype=torch.float64, device=device),  # the energy's
                torch.zeros(points.shape, dtype=torch.float64, device=device),
            ]
            marks = torch.zeros(points.shape[0], dtype=torch.bool, device=device)
            marks[self.watched] = True
            closest = torch.full((), math.inf, dtype=torch.float64, device=device)
            if points.shape[0] > 0:
                if cell is None:
                    closest = self._add_all_pairs(gaussians, q, u, points, sources, marks, totals)
                else:
                    closest = self._add_near_pairs(gaussians, q, u, points, sources, marks, cell, totals)
                    self._add_mesh(gaussians, q, u, points, sources, cell, totals, charges is None)
                if self.excluded.shape[0] > 0:
                    self._subtract_excluded(gaussians, q, u, points, sources, cell, totals)
            energy = torch.zeros((), dtype=torch.float64, device=device)
            if charges is not None:
                energy = (charges.to(torch.float64) * totals[0]).sum()
            if dipoles is not None:
                energy = energy + (dipoles.to(torch.float64) * totals[1]).sum()
        return Coupling(energy, totals[0], totals[2], totals[3], closest, -totals[1])

    # Each of these adds its part of the potential, its gradient, the energy's gradient and the points'
    # gradient to ``totals``.

    def _add_all_pairs(
        self,
        gaussians: Tensor,
        charges: Tensor,
        dipoles: Optional[Tensor],
        points: Tensor,
        point_charges: Tensor,
        marks: Tensor,
        totals: List[Tensor],
    ) -> Tensor:
        """Every pair, without images; returns the least distance of a point with a mark."""
        device = gaussians.device
        closest = torch.full((), math.inf, dtype=torch.float64, device=device)
        pairs_per_block = 200_000  # bounds the memory
        block = max(1, pairs_per_block // gaussians.shape[0])
        for begin in range(0, points.shape[0], block):
            chosen = torch.arange(begin, min(begin + block, points.shape[0]), device=device)
            second = chosen.repeat(gaussians.shape[0])
            first = torch.arange(gaussians.shape[0], device=device).repeat_interleave(chosen.shape[0])
            vectors = gaussians.index_select(0, first) - points.index_select(0, second)
            distances = safe_distances(vectors)
            rounded = distances.to(self.dtype)
            values, slopes = smeared_kernel(rounded, self.width)
            self._add_pairs(first, second, vectors, values, slopes, charges, point_charges, totals)
            if dipoles is not None:
                bends = smeared_derivatives(rounded, self.width, 2)[2]
                self._add_dipoles(first, second, vectors, slopes, bends, dipoles, point_charges, totals)
            closest = torch.minimum(closest, _least(distances, marks[second]))
        return closest

    def _add_near_pairs(
        self,
        gaussians: Tensor,
        charges: Tensor,
        dipoles: Optional[Tensor],
        points: Tensor,
        point_charges: Tensor,
        marks: Tensor,
        cell: Tensor,
        totals: List[Tensor],
    ) -> Tensor:
        """What the mesh leaves to pairs; returns the least distance of a point with a mark."""
        first, second, vectors = cross_pairs(gaussians, points, cell, self.cutoff)
        distances = safe_distances(vectors)
        rounded = distances.to(self.dtype)
        near, near_slopes = smeared_kernel(rounded, self.width)
        far, far_slopes = smeared_kernel(rounded, 1.0 / self.alpha)
        slopes = near_slopes - far_slopes
        self._add_pairs(first, second, vectors, near - far, slopes, charges, point_charges, totals)
        if dipoles is not None:
            bends = smeared_derivatives(rounded, self.width, 2)[2]
            bends = bends - smeared_derivatives(rounded, 1.0 / self.alpha, 2)[2]
            self._add_dipoles(first, second, vectors, slopes, bends, dipoles, point_charges, totals)
        return _least(distances, marks[second])

    def _subtract_excluded(
        self,
        gaussians: Tensor,
        charges: Tensor,
        dipoles: Optional[Tensor],
        points: Tensor,
        point_charges: Tensor,
        cell: Optional[Tensor],
        totals: List[Tensor],
    ) -> None:
        first, second = self.excluded[:, 0], self.excluded[:, 1]
        vectors = gaussians.index_select(0, first) - points.index_select(0, second)
        if cell is not None:
            vectors = vectors - torch.round(vectors @ torch.linalg.inv(cell)) @ cell
        distances = safe_distances(vectors)
        values, slopes = smeared_kernel(distances, self.width)
        values, slopes = -self.excluded_shares * values, -self.excluded_shares * slopes
        self._add_pairs(first, second, vectors, values, slopes, charges, point_charges, totals)
        if dipoles is not None:
            bends = -self.excluded_shares * smeared_derivatives(distances, self.width, 2)[2]
            self._add_dipoles(first, second, vectors, slopes, bends, dipoles, point_charges, totals)

    def _add_pairs(
        self,
        first: Tensor,
        second: Tensor,
        vectors: Tensor,
        values: Tensor,
        slopes: Tensor,
        charges: Tensor,
        point_charges: Tensor,
        totals: List[Tensor],
    ) -> None:
        """Pairs with a kernel of ``values`` and ``slopes`` as `smeared_kernel` defines them."""
        sources = self.coulomb_constant * point_charges.index_select(0, second)
        totals[0].index_add_(0, first, (values * sources).to(torch.float64))
        slope = (slopes * sources).to(torch.float64).unsqueeze(1) * vectors
        totals[1].index_add_(0, first, slope)
        pulls = charges.index_select(0, first).to(torch.float64).unsqueeze(1) * slope
        totals[2].index_add_(0, first, pulls)
        totals[3].index_add_(0, second, pulls, alpha=-1.0)

    def _add_dipoles(
        self,
        first: Tensor,
        second: Tensor,
        vectors: Tensor,
        slopes: Tensor,
        bends: Tensor,
        dipoles: Tensor,
        point_charges: Tensor,
        totals: List[Tensor],
    ) -> None:
        """Gradient of pairs' ``u·∇φ``; ``slopes`` and ``bends`` are -f_1 and f_2 of `smeared_derivatives`."""
        sources = (self.coulomb_constant * point_charges.index_select(0, second)).to(torch.float64)
        moments = dipoles.index_select(0, first).to(torch.float64)
        along = (bends.to(torch.float64) * (moments * vectors).sum(1)).unsqueeze(1) * vectors
        pulls = sources.unsqueeze(1) * (along + slopes.to(torch.float64).unsqueeze(1) * moments)
        totals[2].index_add_(0, first, pulls)
        totals[3].index_add_(0, second, pulls, alpha=-1.0)

    def _add_mesh(
        self,
        gaussians: Tensor,
        charges: Tensor,
        dipoles: Optional[Tensor],
        points: Tensor,
        point_charges: Tensor,
        cell: Tensor,
        totals: List[Tensor],
        potential_only: bool,
    ) -> None:
        """The mesh's part and the background."""
        mesh = mesh_sizes(cell, self.spacing, self.order)
        self._store(cell, mesh)
        potential, gradient, point_gradient, slope = coupling_mesh(
            gaussians,
            charges,
            points,
            point_charges,
            cell,
            mesh,
            self.table,
            self.influence,
            dipoles,
            potential_only,
        )
        volume = float(torch.abs(torch.linalg.det(cell)))
        background = math.pi * self.coulomb_constant / volume * (self.alpha**-2 - self.smearing**2)
        totals[0].add_(potential).sub_(background * float(point_charges.to(torch.float64).sum()))
        totals[1].add_(slope)
        totals[2].add_(gradient)
        totals[3].add_(point_gradient)

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


__all__ = ["ChargeCoupling", "Coupling", "coupling_mesh"]
