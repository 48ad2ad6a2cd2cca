"""Interaction of Gaussian multipoles and point charges over one mesh."""

from __future__ import annotations

from typing import List

import torch
from torch import Tensor

from openmm_les.electrostatics.bsplines import spline_weights
from openmm_les.electrostatics.coupling_pairs import Sites, Slopes, derivatives_of
from openmm_les.electrostatics.mesh import (
    gather,
    mesh_curvature,
    mesh_moments,
    mesh_positions,
    moment_gradient,
    spread,
)


def coupling_mesh(
    sites: Sites,
    points: Tensor,
    point_charges: Tensor,
    cell: Tensor,
    mesh: List[int],
    table: Tensor,
    influence: Tensor,
    potential_only: bool = False,
) -> Slopes:
    """Interaction of two sets over one mesh, k = 0 left out.

    Parameters
    ----------
    sites : Gaussians, moments of the mesh's dtype
    points : [n_points, 3], Å, double
    point_charges : [n_points], e, of the mesh's dtype
    cell : [3, 3], Å, double
    mesh : points along each cell vector
    table : of `spline_table` with `derivatives_of` the sites or more, in the mesh's dtype
    influence : of `influence_function`, in the mesh's dtype; even, so that action equals reaction
    potential_only : leave out what the points feel; ``point_gradient`` is then zero

    Returns
    -------
    Potential and gradients in the mesh's dtype

    Notes
    -----
    Each set is spread once; the Gaussians read the points' potential and the points the
    Gaussians'. Derivatives of the splines make the forces exact derivatives of the energy.
    """
    inverse = torch.linalg.inv(cell)
    to_mesh = (inverse * torch.tensor(mesh, dtype=cell.dtype, device=cell.device)).to(point_charges.dtype)
    order = table.shape[1]
    moments = mesh_moments(sites.charges, sites.dipoles, sites.quadrupoles, to_mesh)
    bases, t = mesh_positions(sites.positions, inverse, mesh)
    weights = spline_weights(t.to(table.dtype), table[: (1 + derivatives_of(sites)) * order])
    point_moments = point_charges.unsqueeze(0)
    point_bases, point_t = mesh_positions(points, inverse, mesh)
    point_weights = spline_weights(point_t.to(table.dtype), table[: 2 * order])
    waves = torch.fft.rfftn(spread(point_bases, point_weights, point_moments, mesh))
    rows = gather(torch.fft.irfftn(waves.mul_(influence), mesh, norm="forward"), bases, weights)
    point_gradient = torch.zeros_like(points, dtype=point_charges.dtype)
    if not potential_only:
        waves = torch.fft.rfftn(spread(bases, weights, moments, mesh))
        potential = torch.fft.irfftn(waves.mul_(influence), mesh, norm="forward")
        point_rows = gather(potential, point_bases, point_weights)
        point_gradient = moment_gradient(point_rows, point_moments).t() @ to_mesh.t()
    slope = rows[1:4].t() @ to_mesh.t()
    if moments.shape[0] == 1:
        gradient = sites.charges.unsqueeze(1) * slope
    else:
        gradient = moment_gradient(rows, moments).t() @ to_mesh.t()
    curvature = torch.zeros((0, 3, 3), dtype=rows.dtype, device=rows.device)
    if sites.quadrupoles is not None:
        curvature = mesh_curvature(rows[4:10], to_mesh)
    return Slopes(rows[0], slope, curvature, gradient, point_gradient)


__all__ = ["coupling_mesh"]
