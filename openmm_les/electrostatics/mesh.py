"""Reciprocal sum over a mesh: spreading, transforming, gathering; by hand or on autograd's record."""

from __future__ import annotations

import math
from typing import List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from openmm_les.electrostatics.bsplines import spline_weights


def inverse_cell(cell: Tensor) -> Tensor:
    """Inverse of a cell [3, 3] by cross products: unlike `torch.linalg.inv` it never waits for a GPU."""
    first, second, third = cell[0], cell[1], cell[2]
    across = torch.linalg.cross(second, third)
    columns = [across, torch.linalg.cross(third, first), torch.linalg.cross(first, second)]
    return torch.stack(columns, 1) / (first * across).sum()


def _filled(numbers: List[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Tensor of a few numbers, made where it is wanted: a copy to a GPU would wait for it."""
    return torch.cat([torch.full((1,), number, dtype=dtype, device=device) for number in numbers])


def mesh_positions(positions: Tensor, inverse_cell: Tensor, mesh: List[int]) -> Tuple[Tensor, Tensor]:
    """First node of each atom and its centred position in that mesh box.

    ``positions`` [n_atoms, 3], wrapped or not, ``inverse_cell`` [3, 3]. Returns ``bases``
    [3, n_atoms] int64 in [0, mesh) and ``t`` [3, n_atoms] in [-½, ½], differentiable.
    """
    sizes = _filled(mesh, torch.int64, positions.device).view(3, 1)
    scaled = (positions @ inverse_cell).t()
    scaled = (scaled - torch.floor(scaled)) * sizes
    with torch.no_grad():
        # A coordinate just below zero may round to the far edge; the last box ends there. NaN, as
        # a whole number, is far outside: it must give an energy of NaN, not a wild write.
        bases = torch.minimum(scaled.to(torch.int64), sizes - 1).clamp(min=0)
    return bases, scaled - bases - 0.5


def _mesh_lines(bases: Tensor, mesh: List[int], order: int, row: int) -> Tensor:
    """Number of each atom's first node on its order² lines along the third axis.

    ``row`` is the length of such a line in memory. Returns [order, order, n_atoms], int64.
    """
    nodes = torch.arange(order, device=bases.device).view(-1, 1)
    first = torch.remainder(bases[0] + nodes, mesh[0])
    second = torch.remainder(bases[1] + nodes, mesh[1])
    return (first.unsqueeze(1) * mesh[1] + second.unsqueeze(0)) * row


def _mesh_nodes(bases: Tensor, mesh: List[int], order: int) -> Tensor:
    """Number of each atom's nodes on the mesh, [order, order, order, n_atoms], int64."""
    nodes = torch.arange(order, device=bases.device).view(-1, 1)
    third = torch.remainder(bases[2] + nodes, mesh[2])
    return _mesh_lines(bases, mesh, order, mesh[2]).unsqueeze(2) + third


def mesh_moments(
    charges: Tensor, dipoles: Optional[Tensor], quadrupoles: Optional[Tensor], to_mesh: Tensor
) -> Tensor:
    """Moments in mesh spacings: what multiplies the rows of `gather` in an energy.

    Parameters
    ----------
    charges : [n_atoms], e
    dipoles : [n_atoms, 3], e·Å, or None
    quadrupoles : [n_atoms, 3, 3], e·Å², beside dipoles, or None
    to_mesh : [3, 3], 1/Å, positions @ to_mesh is in mesh spacings

    Returns
    -------
    [1, 4 or 10, n_atoms]: charges; dipoles; of quadrupoles Q ½Q_11, Q_12, Q_13, ½Q_22, Q_23, ½Q_33
    """
    rows = charges.unsqueeze(0)
    if dipoles is not None:
        rows = torch.cat((rows, (dipoles @ to_mesh).t()))
    if quadrupoles is not None:
        turned = (to_mesh.t() @ quadrupoles @ to_mesh).permute(1, 2, 0)
        rows = torch.cat(
            (
                rows,
                0.5 * turned[0, :1],
                0.5 * (turned[0, 1:] + turned[1:, 0]),
                0.5 * turned[1, 1:2],
                0.5 * (turned[1, 2:] + turned[2:, 1]),
                0.5 * turned[2, 2:],
            )
        )
    return rows


def moment_gradient(rows: Tensor, moments: Tensor) -> Tensor:
    """Derivatives over places of ``Σ moments · rows``, [3, n_atoms] per mesh spacing.

    ``rows`` of `gather`, of one derivative more than ``moments`` of `mesh_moments` have.
    """
    if moments.shape[0] == 1:
        return moments * rows[1:4]
    if moments.shape[0] == 4:
        raised = rows[[1, 4, 5, 6, 2, 5, 7, 8, 3, 6, 8, 9]].view(3, 4, -1)
    else:
        # fmt: off
        raised = rows[[
            1, 4, 5, 6, 10, 11, 12, 13, 14, 15,
            2, 5, 7, 8, 11, 13, 14, 16, 17, 18,
            3, 6, 8, 9, 12, 14, 15, 17, 18, 19,
        ]].view(3, 10, -1)
        # fmt: on
    return (raised * moments).sum(1)


def mesh_curvature(rows: Tensor, to_mesh: Tensor) -> Tensor:
    """Second derivatives, [n_atoms, 3, 3] per Å², of those per spacing (11, 12, 13, 22, 23, 33)."""
    bent = rows[[0, 1, 2, 1, 3, 4, 2, 4, 5]].t().reshape(-1, 3, 3)
    return to_mesh @ bent @ to_mesh.t()


def _source_planes(weights: Tensor, moments: Tensor) -> List[Tensor]:
    """Factors of the third axis' weights, and of their derivatives, in what an atom puts on the mesh.

    ``weights`` [≥ 2, order, 3, n_atoms], ``moments`` of `mesh_moments`. Returns one, two (dipoles) or
    three (quadrupoles) of [order, order, n_atoms].
    """
    x, y = weights[:, :, 0], weights[:, :, 1]
    plain = moments[0] * x[0]
    if moments.shape[0] == 1:
        return [plain.unsqueeze(1) * y[0].unsqueeze(0)]
    plain = plain + moments[1] * x[1]
    along_2, along_3 = moments[2] * x[0], moments[3] * x[0]
    if moments.shape[0] > 4:
        plain = plain + moments[4] * x[2]
        along_2, along_3 = along_2 + moments[5] * x[1], along_3 + moments[6] * x[1]
    values = plain.unsqueeze(1) * y[0].unsqueeze(0) + along_2.unsqueeze(1) * y[1].unsqueeze(0)
    slopes = along_3.unsqueeze(1) * y[0].unsqueeze(0)
    if moments.shape[0] == 4:
        return [values, slopes]
    values = values + (moments[7] * x[0]).unsqueeze(1) * y[2].unsqueeze(0)
    slopes = slopes + (moments[8] * x[0]).unsqueeze(1) * y[1].unsqueeze(0)
    return [values, slopes, (moments[9] * x[0]).unsqueeze(1) * y[0].unsqueeze(0)]


def _block(atoms: Tensor) -> int:
    """How many of the atoms ([n_atoms] of anything) to do at once: on a CPU what stays in its cache."""
    return 4096 if not atoms.is_cuda else max(atoms.shape[0], 1)


def spread(bases: Tensor, weights: Tensor, moments: Tensor, mesh: List[int]) -> Tensor:
    """Charge mesh of `mesh_moments` without a record for differentiation, [mesh]."""
    order = weights.shape[1]
    atoms_per_block = _block(moments[0])
    halo = order - 1
    row = mesh[2] + halo  # room past the end: nodes along the third axis need no wrapping
    length = mesh[0] * mesh[1] * row - halo
    memory = torch.zeros(mesh[0] * mesh[1] * row, dtype=moments.dtype, device=moments.device)
    for begin in range(0, moments.shape[1], atoms_per_block):
        end = min(begin + atoms_per_block, moments.shape[1])
        block = weights[:, :, :, begin:end]
        planes = _source_planes(block, moments[:, begin:end])
        lines = _mesh_lines(bases[:, begin:end], mesh, order, row) + bases[2, begin:end]
        lines = lines.view(-1)
        for j in range(order):
            source = planes[0] * block[0, j, 2]
            for d in range(1, len(planes)):
                source = source.addcmul(planes[d], block[d, j, 2])
            # One number per line, not per node: adding j to it is a shifted view of the mesh.
            memory[j : j + length].scatter_add_(0, lines, source.view(-1))
    padded = memory.view(mesh[0], mesh[1], row)
    padded[:, :, :halo] += padded[:, :, mesh[2] :]
    return padded[:, :, : mesh[2]]


def gather(potential: Tensor, bases: Tensor, weights: Tensor) -> Tensor:
    """Mesh ``potential`` and its derivatives at the atoms, as `_contract` lists them, no record kept."""
    order, n_atoms = weights.shape[1], bases.shape[1]
    atoms_per_block = _block(weights[0, 0, 0])
    mesh = [potential.shape[0], potential.shape[1], potential.shape[2]]
    halo = order - 1
    row = mesh[2] + halo
    length = mesh[0] * mesh[1] * row - halo
    memory = torch.cat((potential, potential[:, :, :halo]), 2).view(-1)
    rows = [4, 10, 20][weights.shape[0] - 2]
    result = torch.empty((rows, n_atoms), dtype=potential.dtype, device=potential.device)
    for begin in range(0, n_atoms, atoms_per_block):
        end = min(begin + atoms_per_block, n_atoms)
        block = weights[:, :, :, begin:end]
        lines = _mesh_lines(bases[:, begin:end], mesh, order, row) + bases[2, begin:end]
        shape = lines.shape
        lines = lines.view(-1)
        values = memory[:length].index_select(0, lines).view(shape)
        collapsed = [values * block[d, 0, 2] for d in range(block.shape[0])]
        for j in range(1, order):
            values = memory[j : j + length].index_select(0, lines).view(shape)
            for d in range(block.shape[0]):
                collapsed[d].addcmul_(values, block[d, j, 2])
        result[:, begin:end] = _contract(collapsed, block)
    return result


def _contract(collapsed: List[Tensor], weights: Tensor) -> Tensor:
    """Sum over the first two axes what is already summed over the third.

    ``collapsed``: [order, order, n_atoms] for each derivative along the third axis. Returns rows
    of values, first derivatives (1, 2, 3) and, where ``weights`` holds them, second ones (11, 12, 13,
    22, 23, 33) and third ones (111, 112, 113, 122, 123, 133, 222, 223, 233, 333), in mesh spacings:
    [4, 10 or 20, n_atoms].
    """
    x, y = weights[:, :, 0], weights[:, :, 1]  # [derivative, order, n_atoms]
    plain = (collapsed[0] * y[0]).sum(1)
    along_2 = (collapsed[0] * y[1]).sum(1)
    along_3 = (collapsed[1] * y[0]).sum(1)
    rows = [
        (plain * x[0]).sum(0),
        (plain * x[1]).sum(0),
        (along_2 * x[0]).sum(0),
        (along_3 * x[0]).sum(0),
    ]
    if len(collapsed) > 2:
        seconds = [
            (collapsed[0] * y[2]).sum(1),
            (collapsed[1] * y[1]).sum(1),
            (collapsed[2] * y[0]).sum(1),
        ]
        rows += [(plain * x[2]).sum(0), (along_2 * x[1]).sum(0), (along_3 * x[1]).sum(0)]
        rows += [(second * x[0]).sum(0) for second in seconds]
        if len(collapsed) > 3:
            rows += [(plain * x[3]).sum(0), (along_2 * x[2]).sum(0), (along_3 * x[2]).sum(0)]
            rows += [(second * x[1]).sum(0) for second in seconds]
            rows += [((collapsed[d] * y[3 - d]).sum(1) * x[0]).sum(0) for d in range(4)]
    return torch.stack(rows)


class MeshSum(NamedTuple):
    """Energy of multipoles on a mesh and its derivatives, per power of a mesh spacing."""

    energy: Tensor
    """scalar, eV"""
    potential: Tensor
    """[n_atoms], eV/e, dE/dq"""
    slope: Tensor
    """[3, n_atoms], eV/e, dE/du: gradient of the potential, per spacing"""
    curvature: Tensor
    """[6, n_atoms], eV/e, 2 dE/dQ, as `_contract` lists it, per spacing²; empty without dipoles"""
    gradient: Tensor
    """[3, n_atoms], eV, dE/dr at fixed moments, per spacing"""
    to_mesh: Tensor
    """[3, 3], 1/Å, positions @ to_mesh is in mesh spacings"""


def mesh_sum(
    positions: Tensor,
    charges: Tensor,
    dipoles: Optional[Tensor],
    quadrupoles: Optional[Tensor],
    cell: Tensor,
    mesh: List[int],
    table: Tensor,
    influence: Tensor,
    self_terms: Tensor,
) -> MeshSum:
    """Reciprocal sum over the mesh: energy, and the potential and its derivatives at the atoms.

    Self terms included, k = 0 left out. Differentiable, to second order in positions and moments,
    wherever gradients are enabled and an argument asks for them; else by hand-written
    derivatives, with the fewest passes over memory.

    Parameters
    ----------
    positions : [n_atoms, 3], Å
    charges : [n_atoms], e
    dipoles : [n_atoms, 3], e·Å, or None
    quadrupoles : [n_atoms, 3, 3], e·Å², beside dipoles, or None
    cell : [3, 3], Å
    mesh : points along each cell vector, each at least the order of the splines
    table : of `spline_table`, dtype of positions, with one derivative more than the moments have
    influence : of `influence_function`, dtype of positions
    self_terms : of `mesh_self_terms`, dtype of positions
    """
    inverse = inverse_cell(cell)
    to_mesh = inverse * _filled(mesh, cell.dtype, cell.device)
    moments = mesh_moments(charges, dipoles, quadrupoles, to_mesh)
    bases, t = mesh_positions(positions, inverse, mesh)
    weights = spline_weights(t, table)
    angles = (2.0 * math.pi) * t
    amplitudes = self_terms[1:].unsqueeze(1)
    own = charges * (self_terms[0] + (amplitudes * torch.cos(angles)).sum(0))
    # `own` depends on positions, charges and cell, so it tells whether autograd wants a record.
    if own.requires_grad or moments.requires_grad:
        energy, rows = _mesh_sum_recorded(bases, weights, moments, mesh, influence)
    else:
        waves = torch.fft.rfftn(spread(bases, weights, moments, mesh))
        waves.mul_(influence)
        rows = gather(torch.fft.irfftn(waves, mesh, norm="forward"), bases, weights)
        energy = 0.5 * (moments * rows[: moments.shape[0]]).sum()
    # Per charge²: the energy taken off is charges * own, its slope -charges² * this.
    slopes = (2.0 * math.pi) * amplitudes * torch.sin(angles)  # [3, n_atoms]
    slope = rows[1:4] + charges * slopes
    energy = energy - (charges * own).sum()
    potential = rows[0] - 2.0 * own
    if moments.shape[0] == 1:
        gradient = charges * slope
    else:
        # A charge's error at its own place differs next to it: half of it acts on the dipole there.
        # What dipoles and quadrupoles have with themselves stays: their meshes are finer.
        energy = energy + (charges * moments[1:4] * slopes).sum()
        potential = potential + (moments[1:4] * slopes).sum(0)
        gradient = moment_gradient(rows, moments) + charges * charges * slopes
        bends = (4.0 * math.pi * math.pi) * charges * amplitudes * torch.cos(angles)
        gradient = gradient + bends * moments[1:4]
    return MeshSum(energy, potential, slope, rows[4:10], gradient, to_mesh)


def _mesh_sum_recorded(
    bases: Tensor, weights: Tensor, moments: Tensor, mesh: List[int], influence: Tensor
) -> Tuple[Tensor, Tensor]:
    """Energy and rows of `_contract` by operations that autograd follows to any order."""
    nodes = _mesh_nodes(bases, mesh, weights.shape[1])
    shape = nodes.shape
    nodes = nodes.view(-1)
    planes = _source_planes(weights, moments)
    sources = planes[0].unsqueeze(2) * weights[0, :, 2]
    for d in range(1, len(planes)):
        sources = sources + planes[d].unsqueeze(2) * weights[d, :, 2]
    grid = torch.zeros(mesh[0] * mesh[1] * mesh[2], dtype=moments.dtype, device=moments.device)
    waves = torch.fft.rfftn(grid.index_add(0, nodes, sources.reshape(-1)).view(mesh))
    # The energy from the waves: its derivative passes the mesh once, not twice.
    share = torch.ones(influence.shape[2], dtype=influence.dtype, device=influence.device)
    share[0] = 0.5  # waves of the half spectrum stand for two, except these; Nyquist's are zero
    energy = (share * influence * torch.view_as_real(waves).square().sum(-1)).sum()
    potential = torch.fft.irfftn(waves * influence, mesh, norm="forward").view(-1)
    values = potential.index_select(0, nodes).view(shape)
    collapsed = [(values * weights[d, :, 2]).sum(2) for d in range(weights.shape[0])]
    return energy, _contract(collapsed, weights)


__all__ = [
    "MeshSum",
    "gather",
    "inverse_cell",
    "mesh_curvature",
    "mesh_moments",
    "mesh_positions",
    "mesh_sum",
    "moment_gradient",
    "spread",
]
