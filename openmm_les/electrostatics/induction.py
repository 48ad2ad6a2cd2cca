r"""Dipoles that a field induces in polarizable Gaussian sites, and the energy of it all.

With the field F of everything permanent, inverse polarizabilities β = α⁻¹ and the interaction
``½ m·T m`` of dipoles among themselves, the induced dipoles m make

    E(m) = ½ m·β m - m·F + ½ m·T m

stationary: ``(β + T) m = F``, self-consistent; or without the last term ``m = α F``, in one shot.

Notes
-----
Point dipoles closer than ``(4 α α')^(1/6)`` polarise each other without end (Thole, Chem. Phys. 59,
341 (1981)). Gaussians of one width cannot where α stays below `polarizability_bound`: their Coulomb
energy including what each has with itself, ``½ m·T m + ½ ke f_1(0) m²``, is never negative, so that
``β + T`` is positive definite for all geometries wherever ``α < 1 / (ke f_1(0))``.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.ewald import wave_factors
from openmm_les.electrostatics.isolated import other_atoms, safe_distances
from openmm_les.electrostatics.multipole_pairs import smeared_derivatives
from openmm_les.electrostatics.multipole_solver import LatentMultipoles
from openmm_les.electrostatics.multipoles import MultipoleSum
from openmm_les.electrostatics.solver import LatentCoulomb

CATASTROPHE = (
    "polarization catastrophe: at these places, atoms so polarizable induce dipoles in each other without "
    "end; polarizabilities below `polarizability_bound` of the smearing never do"
)


def polarizability_bound(smearing: float) -> float:
    """Polarizability (as a volume, ke α) below which no geometry has a polarization catastrophe.

    ``1/f_1(0) = (3 √π / 4) (√2 σ)³``, 3.76 Å³ for σ = 1 Å; see the notes of this module.
    """
    return 0.75 * math.sqrt(math.pi) * (math.sqrt(2.0) * smearing) ** 3


def dipole_interactions(
    positions: Tensor,
    cell: Optional[Tensor],
    smearing: float,
    coulomb_constant: float,
    tolerance: float = 1e-9,
) -> Tensor:
    """T of ``½ u·T u``, the energy of dipoles among themselves, [3 n, 3 n] in eV/(e Å)².

    ``positions`` [n, 3] in Å, ``cell`` [3, 3] in Å or None; the other arguments, and what is left
    out of the sum, as in `ewald_multipole_sum`. Differentiable.
    """
    n = positions.shape[0]
    width = math.sqrt(2.0) * smearing
    vectors = positions.unsqueeze(1) - positions.unsqueeze(0)  # [i, j, 3]
    if cell is None:  # no early return: TorchScript fails on one in front of a `with` block
        distances = safe_distances(vectors)
        others = coulomb_constant * other_atoms(distances)
        f = smeared_derivatives(distances, width, 2)
        total = _pair_blocks(others * f[1], others * f[2], vectors)
    else:
        # As in `ewald_multipole_sum`, derivatives of the kernel decay later than the kernel itself.
        split, width2, waves, factors = wave_factors(
            cell, smearing, coulomb_constant, None, 1e-3 * tolerance, None
        )
        phases = (positions @ waves.t()).unsqueeze(1)  # [n, 1, n_k]
        even = (torch.cos(phases) * waves.t()).reshape(3 * n, -1)
        odd = (torch.sin(phases) * waves.t()).reshape(3 * n, -1)
        total = (2.0 * factors * even) @ even.t() + (2.0 * factors * odd) @ odd.t()
        itself = smeared_derivatives(torch.zeros(1, dtype=torch.float64), math.sqrt(2.0 * width2), 1)
        unit = torch.eye(3 * n, dtype=total.dtype, device=total.device)
        total = total - coulomb_constant * float(itself[1]) * unit
        if split > 0.0:
            with torch.no_grad():
                shifts = torch.round(vectors @ torch.linalg.inv(cell))
            vectors = vectors - shifts @ cell
            distances = safe_distances(vectors)
            others = coulomb_constant * other_atoms(distances)
            near = smeared_derivatives(distances, width, 2)
            far = smeared_derivatives(distances, 1.0 / split, 2)
            first, second = others * (near[1] - far[1]), others * (near[2] - far[2])
            total = total + _pair_blocks(first, second, vectors)
    return total


def _pair_blocks(first: Tensor, second: Tensor, vectors: Tensor) -> Tensor:
    """Blocks ``f_1 - f_2 r rᵀ`` of pairs ([n, n], [n, n], [n, n, 3]) as a matrix, [3 n, 3 n]."""
    n = vectors.shape[0]
    unit = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    blocks = first.view(n, n, 1, 1) * unit - second.view(n, n, 1, 1) * (
        vectors.unsqueeze(3) * vectors.unsqueeze(2)
    )
    return blocks.permute(0, 2, 1, 3).reshape(3 * n, 3 * n)


class Polarized(NamedTuple):
    """Energy of multipoles with induced dipoles among them, and its derivatives."""

    energy: Tensor
    """scalar, eV, of all moments among themselves and of inducing dipoles"""
    sums: MultipoleSum
    """potential, field and curvature of all moments, induced ones included; the gradient is that of
    ``energy`` at fixed moments, of both kinds, and fixed polarizabilities"""
    induced: Tensor
    """[n_atoms, 3], e·Å"""


class PolarizableMultipoles(nn.Module):
    """`LatentMultipoles` of which some sites are polarizable.

    Parameters
    ----------
    settings : of smearing, constant, tolerance and method; with the converged sum and no self term
    mutual : induced dipoles feel each other (self-consistent); False: in one shot
    dense_atoms : up to so many the equations are solved directly, beyond by conjugate gradients with
        the Coulomb sum as operator
    iterative_tolerance : residual over the field, root mean squares, at which these stop; the energy's
        error is of its square

    Raises
    ------
    ValueError
        A sum with a sharp cut or with self terms.
    """

    def __init__(
        self,
        settings: LatentCoulomb,
        mutual: bool = True,
        dense_atoms: int = 150,
        iterative_tolerance: float = 1e-6,
    ) -> None:
        super().__init__()
        if settings.k_cutoff is not None or settings.self_interaction:
            raise ValueError("multipoles need the converged Coulomb sum, without cut and self interaction")
        self.solver = LatentMultipoles(**settings.config())
        self.smearing = settings.smearing
        self.coulomb_constant = settings.coulomb_constant
        self.exact_tolerance = settings.exact_tolerance
        self.mutual = mutual
        self.dense_atoms = dense_atoms
        self.iterative_tolerance = iterative_tolerance

    def forward(
        self,
        positions: Tensor,
        charges: Tensor,
        dipoles: Tensor,
        quadrupoles: Optional[Tensor],
        inverse: Optional[Tensor],
        cell: Optional[Tensor],
        field: Optional[Tensor],
        differentiable: bool,
    ) -> Polarized:
        """Induced dipoles and all energies.

        Parameters
        ----------
        positions, charges, dipoles, quadrupoles, cell : of the permanent moments, as `LatentMultipoles`
        inverse : [n_atoms, 3, 3], eV/(e Å)², inverse polarizabilities; None = nothing is polarizable
        field : [n_atoms, 3], eV/(e Å), external; it induces, its energy is not counted
        differentiable : keep the induced dipoles differentiable, to second order; the equations are then
            solved directly, whatever their number

        Raises
        ------
        ValueError
            The polarizabilities and places of atoms make a polarization catastrophe. In a script the
            energy is NaN instead.
        """
        sums = self.solver(positions, charges, dipoles, quadrupoles, cell)
        energy, induced = sums.energy, torch.zeros_like(dipoles)
        if inverse is not None:
            felt = sums.field if field is None else sums.field + field
            induced = self.induce(positions, felt, inverse, cell, differentiable)
            sums = self.solver(positions, charges, dipoles + induced, quadrupoles, cell)
            stored = 0.5 * (induced * torch.einsum("iab,ib->ia", inverse, induced)).sum()
            energy = sums.energy + stored
            if not self.mutual:
                own = self.solver(positions, torch.zeros_like(charges), induced, None, cell)
                energy = energy - own.energy
                sums = MultipoleSum(
                    sums.energy, sums.potential, sums.gradient - own.gradient, sums.field, sums.curvature
                )
        return Polarized(energy, sums, induced)

    def induce(
        self, positions: Tensor, field: Tensor, inverse: Tensor, cell: Optional[Tensor], differentiable: bool
    ) -> Tensor:
        """Induced dipoles, [n_atoms, 3] in e·Å, in a ``field`` [n_atoms, 3] that knows none of them."""
        if not self.mutual:
            return torch.linalg.solve(inverse, field.unsqueeze(-1)).squeeze(-1)
        if differentiable or positions.shape[0] <= self.dense_atoms:
            return self.solve_directly(positions, field, inverse, cell)
        return self.solve_iteratively(positions, field, inverse, cell)

    def solve_directly(
        self, positions: Tensor, field: Tensor, inverse: Tensor, cell: Optional[Tensor]
    ) -> Tensor:
        """By a Cholesky factor of ``β + T``, which is at once the test that it is positive definite."""
        n = positions.shape[0]
        matrix = dipole_interactions(
            positions, cell, self.smearing, self.coulomb_constant, self.exact_tolerance
        )
        own = torch.eye(n, dtype=field.dtype, device=field.device).view(n, 1, n, 1) * inverse.unsqueeze(2)
        factor, failed = torch.linalg.cholesky_ex(matrix + own.reshape(3 * n, 3 * n))
        # In a frozen script an error raised in here would end the process instead of being told.
        if not torch.jit.is_scripting() and int(failed) > 0:
            raise ValueError(CATASTROPHE)
        induced = torch.cholesky_solve(field.reshape(-1, 1), factor).view(n, 3)
        return induced.masked_fill(failed > 0, math.nan)

    def solve_iteratively(
        self, positions: Tensor, field: Tensor, inverse: Tensor, cell: Optional[Tensor]
    ) -> Tensor:
        """By conjugate gradients, preconditioned by the polarizabilities of single sites.

        Hestenes and Stiefel, J. Res. Natl. Bur. Stand. 49, 409 (1952).
        """
        most = 200
        with torch.no_grad():
            alpha = torch.linalg.inv(inverse)
            nothing = torch.zeros_like(field[:, 0])
            induced = torch.zeros_like(field)
            residual = field.clone()
            # Single precision cannot tell residuals much smaller than this.
            goal = max(self.iterative_tolerance, 2e-6 if field.dtype == torch.float32 else 0.0)
            limit = float((goal * goal * field * field).sum())
            direction = torch.einsum("iab,ib->ia", alpha, residual)
            size = (residual * direction).sum()
            steps, done, positive = 0, bool((residual == 0.0).all()), True
            while not done and positive and steps < most:
                image = torch.einsum("iab,ib->ia", inverse, direction)
                image = image - self.solver(positions, nothing, direction, None, cell).field
                curvature = (direction * image).sum()
                positive = bool(curvature > 0.0)
                step = size / curvature
                induced = induced + step * direction
                residual = residual - step * image
                smoothed = torch.einsum("iab,ib->ia", alpha, residual)
                before, size = size, (residual * smoothed).sum()
                direction = smoothed + (size / before) * direction
                steps += 1
                done = bool((residual * residual).sum() <= limit)
            if not torch.jit.is_scripting() and not positive:
                raise ValueError(CATASTROPHE)
            if not torch.jit.is_scripting() and not done:
                raise ValueError(f"the induced dipoles did not converge in {most} steps")
            if not (done and positive):
                induced = torch.full_like(induced, math.nan)
        return induced


__all__ = [
    "Polarized",
    "PolarizableMultipoles",
    "dipole_interactions",
    "polarizability_bound",
]
