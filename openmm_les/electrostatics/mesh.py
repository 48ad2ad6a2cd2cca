"""Reciprocal sum over a mesh: spreading, transforming, gathering; by hand or on autograd's record."""

from __future__ import annotations

import math
from typing import List, Optional, Tuple

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


def _source_planes(weights: Tensor, charges: Tensor, dipoles: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
    """Factors of the third axis' weights and of their slopes in what an atom puts on the mesh.

    ``weights`` [≥ 2, order, 3, n_atoms], ``charges`` [n_atoms], ``dipoles`` [3, n_atoms] in mesh
    spacings. Returns two of [order, order, n_atoms]; the second is empty without dipoles.
    """
    first, second = weights[0, :, 0], weights[0, :, 1]
    if dipoles is None:
        values = (charges * first).unsqueeze(1) * second.unsqueeze(0)
        return values, torch.zeros(0, dtype=values.dtype, device=values.device)
    values = (charges * first + dipoles[0] * weights[1, :, 0]).unsqueeze(1) * second.unsqueeze(0)
    values = values + first.unsqueeze(1) * (dipoles[1] * weights[1, :, 1]).unsqueeze(0)
    return values, (dipoles[2] * first).unsqueeze(1) * second.unsqueeze(0)


def _block(atoms: Tensor) -> int:
    """How many of the atoms ([n_atoms] of anything) to do at once: on a CPU what stays in its cache."""
    return 4096 if not atoms.is_cuda else max(atoms.shape[0], 1)


def spread(
    bases: Tensor, weights: Tensor, charges: Tensor, dipoles: Optional[Tensor], mesh: List[int]
) -> Tensor:
    """Charge mesh without a record for differentiation, [mesh]."""
    order = weights.shape[1]
    atoms_per_block = _block(charges)
    halo = order - 1
    row = mesh[2] + halo  # room past the end: nodes along the third axis need no wrapping
    length = mesh[0] * mesh[1] * row - halo
    memory = torch.zeros(mesh[0] * mesh[1] * row, dtype=charges.dtype, device=charges.device)
    for begin in range(0, charges.shape[0], atoms_per_block):
        end = min(begin + atoms_per_block, charges.shape[0])
        block = weights[:, :, :, begin:end]
        moments: Optional[Tensor] = None
        if dipoles is not None:
            moments = dipoles[:, begin:end]
        values, slopes = _source_planes(block, charges[begin:end], moments)
        lines = _mesh_lines(bases[:, begin:end], mesh, order, row) + bases[2, begin:end]
        lines = lines.view(-1)
        for j in range(order):
            source = values * block[0, j, 2]
            if dipoles is not None:
                source = source.addcmul(slopes, block[1, j, 2])
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
    rows = 4 if weights.shape[0] == 2 else 10
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
    of values, first derivatives (1, 2, 3) and, where ``weights`` holds second derivatives, those
    (11, 12, 13, 22, 23, 33), in mesh spacings: [4 or 10, n_atoms].
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
        rows += [
            (plain * x[2]).sum(0),
            (along_2 * x[1]).sum(0),
            (along_3 * x[1]).sum(0),
            ((collapsed[0] * y[2]).sum(1) * x[0]).sum(0),
            ((collapsed[1] * y[1]).sum(1) * x[0]).sum(0),
            ((collapsed[2] * y[0]).sum(1) * x[0]).sum(0),
        ]
    return torch.stack(rows)


def mesh_sum(
    positions: Tensor,
    charges: Tensor,
    dipoles: Optional[Tensor],
    cell: Tensor,
    mesh: List[int],
    table: Tensor,
    influence: Tensor,
    self_terms: Tensor,
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reciprocal sum over the mesh: energy, and the potential and its derivatives at the atoms.

    Self terms included, k = 0 left out. Differentiable, to second order in positions, charges and
    dipoles, wherever gradients are enabled and an argument asks for them; else by hand-written
    derivatives, with the fewest passes over memory.

    Parameters
    ----------
    positions : [n_atoms, 3], Å
    charges : [n_atoms], e
    dipoles : [n_atoms, 3], e·Å, or None
    cell : [3, 3], Å
    mesh : points along each cell vector, each at least the order of the splines
    table : of `spline_table`, dtype of positions, with two derivatives where there are dipoles
    influence : of `influence_function`, dtype of positions
    self_terms : of `mesh_self_terms`, dtype of positions

    Returns
    -------
    energy : scalar, eV
    potential : [n_atoms], eV/e, dE/dq
    derivatives : [3 or 9, n_atoms], of what multiplies the charge in the energy, as `_contract`
        lists them, eV/e per power of a mesh spacing
    to_mesh : [3, 3], 1/Å, positions @ to_mesh is in mesh spacings
    """
    inverse = inverse_cell(cell)
    to_mesh = inverse * _filled(mesh, cell.dtype, cell.device)
    moments: Optional[Tensor] = None
    if dipoles is not None:
        moments = (dipoles @ to_mesh).t()
    bases, t = mesh_positions(positions, inverse, mesh)
    weights = spline_weights(t, table)
    angles = (2.0 * math.pi) * t
    amplitudes = self_terms[1:].unsqueeze(1)
    own = charges * (self_terms[0] + (amplitudes * torch.cos(angles)).sum(0))
    # `own` depends on positions, charges and cell, so it tells whether autograd wants a record.
    recorded = own.requires_grad
    if moments is not None:
        recorded = recorded or moments.requires_grad
    if recorded:
        energy, rows = _mesh_sum_recorded(bases, weights, charges, moments, mesh, influence)
    else:
        waves = torch.fft.rfftn(spread(bases, weights, charges, moments, mesh))
        waves.mul_(influence)
        rows = gather(torch.fft.irfftn(waves, mesh, norm="forward"), bases, weights)
        energy = 0.5 * (charges * rows[0]).sum()
        if moments is not None:
            energy = energy + 0.5 * (moments * rows[1:4]).sum()
    # Derivatives are per charge: the energy taken off is charges * own, its slope -charges * this.
    slopes = (2.0 * math.pi) * amplitudes * torch.sin(angles)  # [3, n_atoms]
    derivatives = torch.cat((rows[1:4] + charges * slopes, rows[4:]))
    energy = energy - (charges * own).sum()
    potential = rows[0] - 2.0 * own
    if moments is not None:
        # A charge's error at its own place differs next to it: half of it acts on the dipole there.
        energy = energy + (charges * moments * slopes).sum()
        potential = potential + (moments * slopes).sum(0)
        bends = (4.0 * math.pi * math.pi) * charges * amplitudes * torch.cos(angles)
        nothing = torch.zeros_like(bends[0])
        diagonal = torch.stack([bends[0], nothing, nothing, bends[1], nothing, bends[2]])
        derivatives = derivatives + torch.cat((torch.zeros_like(slopes), diagonal))
    return energy, potential, derivatives, to_mesh


def _mesh_sum_recorded(
    bases: Tensor,
    weights: Tensor,
    charges: Tensor,
    dipoles: Optional[Tensor],
    mesh: List[int],
    influence: Tensor,
) -> Tuple[Tensor, Tensor]:
    """Energy and rows of `_contract` by operations that autograd follows to any order."""
    nodes = _mesh_nodes(bases, mesh, weights.shape[1])
    shape = nodes.shape
    nodes = nodes.view(-1)
    values, slopes = _source_planes(weights, charges, dipoles)
    sources = values.unsqueeze(2) * weights[0, :, 2]
    if dipoles is not None:
        sources = sources + slopes.unsqueeze(2) * weights[1, :, 2]
    grid = torch.zeros(mesh[0] * mesh[1] * mesh[2], dtype=charges.dtype, device=charges.device)
    waves = torch.fft.rfftn(grid.index_add(0, nodes, sources.reshape(-1)).view(mesh))
    # The energy from the waves: its derivative passes the mesh once, not twice.
    share = torch.ones(influence.shape[2], dtype=influence.dtype, device=influence.device)
    share[0] = 0.5  # waves of the half spectrum stand for two, except these; Nyquist's are zero
    energy = (share * influence * torch.view_as_real(waves).square().sum(-1)).sum()
    potential = torch.fft.irfftn(waves * influence, mesh, norm="forward").view(-1)
    values = potential.index_select(0, nodes).view(shape)
    collapsed = [(values * weights[d, :, 2]).sum(2) for d in range(weights.shape[0])]
    return energy, _contract(collapsed, weights)


__all__ = ["gather", "inverse_cell", "mesh_positions", "mesh_sum", "spread"]
