"""Particle-mesh Ewald sum of Gaussian charges, in any cell, at O(N log N)."""

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
    spline_weights,
)
from openmm_les.electrostatics.isolated import safe_distances, smeared_kernel
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


def mesh_positions(positions: Tensor, inverse_cell: Tensor, mesh: List[int]) -> Tuple[Tensor, Tensor]:
    """First node of each atom and its centred position in that mesh box.

    ``positions`` [n_atoms, 3], wrapped or not, ``inverse_cell`` [3, 3]. Returns ``bases``
    [3, n_atoms] int64 in [0, mesh) and ``t`` [3, n_atoms] in [-½, ½], differentiable.
    """
    sizes = torch.tensor(mesh, dtype=torch.int64, device=positions.device).view(3, 1)
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


def spread(
    bases: Tensor, weights: Tensor, charges: Tensor, dipoles: Optional[Tensor], mesh: List[int]
) -> Tensor:
    """Charge mesh without a record for differentiation, [mesh]."""
    atoms_per_block = 4096  # the temporaries of a block stay in a CPU's cache
    order = weights.shape[1]
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
    atoms_per_block = 4096
    order, n_atoms = weights.shape[1], bases.shape[1]
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
    inverse = torch.linalg.inv(cell)
    to_mesh = inverse * torch.tensor(mesh, dtype=cell.dtype, device=cell.device)
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
    own_slopes = (2.0 * math.pi) * charges * (amplitudes * torch.sin(angles))
    derivatives = torch.cat((rows[1:4] + own_slopes, rows[4:]))
    return energy - (charges * own).sum(), rows[0] - 2.0 * own, derivatives, to_mesh


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
    energy, potential, derivatives, to_mesh = mesh_sum(
        positions, charges, None, cell, mesh, table, influence, self_terms
    )
    self_potential = charges * (2.0 * coulomb_constant / (math.sqrt(2.0 * math.pi) * width))
    potential = potential - self_potential
    gradient = charges.unsqueeze(1) * (derivatives.t() @ to_mesh.t())
    energy = energy - 0.5 * (charges * self_potential).sum()
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

    The mesh follows from the cell, not from the cells before it, so the energy is a function of
    the state. Each instance has its own store; a cell that differs in one bit renews it.

    Parameters
    ----------
    smearing : σ in Å
    coulomb_constant : eV·Å/e²
    k_cutoff : 1/Å, sharp cut of the sum; None = converged
    tolerance : error of the forces over the forces, root mean squares; see `tuning.tune_mesh`
    """

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        table: Tensor

    def __init__(
        self,
        smearing: float = 1.0,
        coulomb_constant: float = 14.399645,
        k_cutoff: Optional[float] = None,
        tolerance: float = 1e-4,
    ) -> None:
        super().__init__()
        self.smearing = float(smearing)
        self.coulomb_constant = float(coulomb_constant)
        self.k_cutoff = k_cutoff
        self.order, self.spacing = tune_mesh(tolerance, smearing)
        self.register_buffer("table", spline_table(self.order, 1), persistent=False)
        # The cell of the last call and its tables. No buffers: their shapes follow the cell, and what
        # copies buffers between modules (averaging of weights, DDP) would tear them apart.
        self.stored_cell = torch.zeros((3, 3), dtype=torch.float64)
        self.influence = torch.zeros(0)
        self.self_terms = torch.zeros(0)

    def forward(self, positions: Tensor, charges: Tensor, cell: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Energy, potential and gradient as `pme_sum` returns them."""
        with torch.no_grad():
            mesh = mesh_sizes(cell, self.spacing, self.order)
        influence: Optional[Tensor] = None
        self_terms: Optional[Tensor] = None
        if not cell.requires_grad:
            self._store(cell, mesh)
            influence, self_terms = self.influence, self.self_terms
        return pme_sum(
            positions,
            charges,
            cell,
            self.smearing,
            self.coulomb_constant,
            mesh,
            self.order,
            k_cutoff=self.k_cutoff,
            influence=influence,
            self_terms=self_terms,
            table=self.table.to(positions),
        )

    def _store(self, cell: Tensor, mesh: List[int]) -> None:
        known = self.stored_cell
        if known.dtype == cell.dtype and known.device == cell.device and torch.equal(known, cell):
            return
        influence = influence_function(
            cell, mesh, self.order, self.smearing, self.coulomb_constant, self.k_cutoff
        )
        self.self_terms = mesh_self_terms(influence, mesh, self.order)
        self.influence = influence
        self.stored_cell = cell.clone()  # last: whoever finds this cell finds its tables


__all__ = [
    "ParticleMesh",
    "influence_function",
    "mesh_self_terms",
    "mesh_sum",
    "pme_sum",
    "split_pair_sum",
]
