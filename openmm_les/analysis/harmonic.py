"""Harmonic infrared spectrum of an isolated molecule from a model's own Hessian and Born charges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from openmm_les.analysis.charges import ChargeModel
from openmm_les.analysis.spectra import CM_PER_ANGSTROM, Spectrum
from openmm_les.exceptions import OpenMMLESError
from openmm_les.units import AVOGADRO_CONSTANT, DALTON, SPEED_OF_LIGHT, VACUUM_PERMITTIVITY

KM_PER_MOL = AVOGADRO_CONSTANT * 1e-13 / (12.0 * VACUUM_PERMITTIVITY * SPEED_OF_LIGHT**2 * DALTON)
"""Intensity in km/mol of a mode with (dμ/dQ)² = 1 e²/Da: N_A (dμ/dQ)² / (12 ε₀ c²)."""


@dataclass(frozen=True)
class HarmonicSpectrum:
    """Normal modes of a molecule at a minimum, translations and rotations taken out."""

    wavenumbers: np.ndarray
    """[n_modes], cm⁻¹, ascending; negative for an imaginary frequency"""
    intensities: np.ndarray
    """[n_modes], km/mol"""
    modes: np.ndarray
    """[n_modes, n_atoms, 3], mass-weighted displacements of length 1"""
    positions: np.ndarray
    """[n_atoms, 3], Å, where the Hessian was taken"""

    def broadened(self, width: float = 20.0, max_wavenumber: float = 4000.0) -> Spectrum:
        """Gaussian lines of a full width at half maximum (cm⁻¹), in km/mol per cm⁻¹."""
        grid = np.linspace(0.0, max_wavenumber, int(max_wavenumber / width * 10) + 1)
        sigma = width / (2.0 * np.sqrt(2.0 * np.log(2.0)))
        distances = (grid[:, None] - self.wavenumbers) / sigma
        lines = np.exp(-0.5 * distances**2) / (sigma * np.sqrt(2.0 * np.pi))
        return Spectrum(grid, lines @ self.intensities, None, "km/mol per cm^-1", width)


def relax(model: ChargeModel, positions: np.ndarray, *, max_force: float = 1e-3) -> np.ndarray:
    """Positions of the nearest minimum of an isolated molecule, [n_atoms, 3] in Å.

    Parameters
    ----------
    model : bound to the atoms, best in double precision
    positions : [n_atoms, 3], Å, to start from
    max_force : eV/Å, largest component that may be left

    Raises
    ------
    OpenMMLESError
        No minimum was found.
    """

    def value_and_slope(flat: np.ndarray) -> tuple[float, np.ndarray]:
        energy, gradient, _ = energy_derivatives(model, flat.reshape(-1, 3), hessian=False)
        return energy - start, gradient.ravel()

    # Total energies are thousands of eV: differences keep the digits that tell convergence.
    start, _, _ = energy_derivatives(model, positions, hessian=False)
    options = {"maxiter": 5000, "maxfun": 20000, "gtol": 0.5 * max_force, "ftol": 1e-16, "maxcor": 30}
    found = minimize(
        value_and_slope,
        positions.ravel(),
        jac=True,
        method="L-BFGS-B",
        options=options,
    )
    left = float(np.abs(found.jac).max())
    if left > max_force:
        raise OpenMMLESError(f"the relaxation stopped at a force of {left:.2g} eV/Å: {found.message}")
    return found.x.reshape(-1, 3)


def harmonic_spectrum(model: ChargeModel, positions: np.ndarray) -> HarmonicSpectrum:
    """Normal modes and infrared intensities of an isolated molecule (double harmonic).

    Wilson, Decius and Cross, Molecular Vibrations (1955). Translations and rotations are projected
    out of the mass-weighted Hessian; what is left are 3 N − 6 modes (3 N − 5 of a linear molecule).

    Parameters
    ----------
    model : bound to the atoms, in double precision
    positions : [n_atoms, 3], Å, a minimum (`relax`)
    """
    _, _, hessian = energy_derivatives(model, positions)
    roots = np.sqrt(np.repeat(model.masses, 3))
    weighted = hessian / np.outer(roots, roots)
    inner = vibrational_space(positions, model.masses)  # [3 n, n_modes]
    values, vectors = np.linalg.eigh(inner.T @ weighted @ inner)
    vectors = inner @ vectors
    frequencies = np.sign(values) * np.sqrt(np.abs(values) / DALTON)  # 1/fs
    born = model.born_charges(positions[None])[0]  # [n, α, β]
    slopes = born.transpose(1, 0, 2).reshape(3, -1) / roots @ vectors  # [3, n_modes], e/√Da
    return HarmonicSpectrum(
        wavenumbers=frequencies / (2.0 * np.pi * SPEED_OF_LIGHT * CM_PER_ANGSTROM),
        intensities=KM_PER_MOL * (slopes**2).sum(0),
        modes=vectors.T.reshape(-1, model.n_atoms, 3),
        positions=positions,
    )


def vibrational_space(positions: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Orthonormal basis of mass-weighted displacements that neither shift nor turn, [3 n, n_modes]."""
    center = masses @ positions / masses.sum()
    arms = positions - center
    roots = np.sqrt(masses)[:, None]
    rigid = [np.broadcast_to(axis, arms.shape) * roots for axis in np.eye(3)]
    rigid += [np.cross(axis, arms) * roots for axis in np.eye(3)]
    left, sizes, _ = np.linalg.svd(np.stack([r.ravel() for r in rigid], 1))
    return left[:, int((sizes > 1e-4 * sizes.max()).sum()) :]


def energy_derivatives(
    model: ChargeModel, positions: np.ndarray, *, hessian: bool = True
) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy (eV), gradient ([n, 3], eV/Å) and Hessian ([3 n, 3 n], eV/Å²) of an isolated molecule.

    The Hessian is that of automatic differentiation, empty unless asked for.
    """
    (graph,) = model.graphs(positions[None], None)
    with torch.enable_grad():
        graph = graph._replace(positions=graph.positions.requires_grad_(True))
        prediction = model.model(graph)
        energy = (prediction.energy_short_range + prediction.energy_long_range).sum()
        (gradient,) = torch.autograd.grad(energy, graph.positions, create_graph=hessian)
        rows = []
        if hessian:
            for component in gradient.reshape(-1):
                (row,) = torch.autograd.grad(component, graph.positions, retain_graph=True)
                rows.append(row.reshape(-1))
    second = torch.stack(rows).double().numpy() if rows else np.zeros((0, 0))
    return float(energy.detach()), gradient.detach().double().numpy(), 0.5 * (second + second.T)


__all__ = ["HarmonicSpectrum", "energy_derivatives", "harmonic_spectrum", "relax"]
