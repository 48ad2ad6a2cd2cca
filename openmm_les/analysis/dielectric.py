"""Static dielectric constant from the fluctuations of the cell's dipole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openmm_les.analysis.dipoles import DipoleSeries
from openmm_les.units import BOLTZMANN_CONSTANT, VACUUM_PERMITTIVITY


@dataclass(frozen=True)
class DielectricConstant:
    """Result of `dielectric_constant`."""

    value: float
    error: float
    """Standard error by a jackknife over blocks"""
    epsilon_infinity: float
    temperature: float
    """K"""
    volume: float
    """Å³, mean"""
    mean_dipole: np.ndarray
    """[3], e·Å; zero in a fluid that was followed for long enough"""
    running_times: np.ndarray
    """[n], ps since the first frame that counts"""
    running_values: np.ndarray
    """[n], what the trajectory gives up to that time"""


def dielectric_constant(
    series: DipoleSeries, temperature: float, *, discard: float = 0.0, n_blocks: int = 5
) -> DielectricConstant:
    r"""ε = ε∞ + (⟨M²⟩ − ⟨M⟩²) / (3 ε₀ V kT), for periodic systems without a surface term (tin foil).

    Neumann, Mol. Phys. 50, 841 (1983). Rigid fixed-charge models have ε∞ = 1. Dipoles of a series
    made with another ``epsilon_infinity`` are already √ε∞ times the model's.

    Parameters
    ----------
    series : with volumes, of a fluid without ions, whose dipole has no bounds
    temperature : K, of the trajectory
    discard : ps to leave out at the beginning
    n_blocks : for the error; blocks should be longer than the dipole's relaxation, about 10 ps in
        water

    Raises
    ------
    ValueError
        No volumes, ions, unknown times, too few frames, or a temperature that is not positive.
    """
    times_known = not np.isnan(series.times).any()
    series = series.since(discard) if times_known else series
    if series.volumes is None:
        raise ValueError("a dielectric constant needs a periodic system: the dipoles come without volumes")
    n = len(series)
    check_fluctuations(n, temperature, n_blocks, ions=series.ions, times_known=times_known)
    dipoles, volumes = series.dipoles, series.volumes
    # About a fixed point first: a large mean would eat the digits of the difference of squares.
    sums = _sums(dipoles - dipoles.mean(0), volumes)
    everything = _constant(sums.sum(0), temperature, series.epsilon_infinity)
    blocks = np.stack([part.sum(0) for part in np.array_split(sums, n_blocks)])
    without = np.array(
        [_constant(blocks.sum(0) - block, temperature, series.epsilon_infinity) for block in blocks]
    )
    error = np.sqrt((n_blocks - 1) * without.var())
    running = np.cumsum(sums, axis=0)
    places = np.unique(np.linspace(1, n - 1, 200).astype(int))
    return DielectricConstant(
        value=everything,
        error=float(error),
        epsilon_infinity=series.epsilon_infinity,
        temperature=temperature,
        volume=float(volumes.mean()),
        mean_dipole=dipoles.mean(0),
        running_times=series.times[places] - series.times[0],
        running_values=np.array(
            [_constant(running[k], temperature, series.epsilon_infinity) for k in places]
        ),
    )


def check_fluctuations(
    n_frames: int, temperature: float, n_blocks: int, *, ions: int, times_known: bool
) -> None:
    """Raise ValueError, before or after dipoles are computed, where they give no `dielectric_constant`."""
    if ions:
        raise ValueError(
            f"the dipoles are of a system with {ions} charged molecules: its response at frequency "
            "zero is that of their currents, not of fluctuations of a dipole"
        )
    if not times_known:
        raise ValueError(
            "the times of the frames are unknown: give their spacing (`frame_spacing`, --frame-spacing)"
        )
    if not temperature > 0.0:
        raise ValueError(f"`temperature` must be positive, got {temperature}")
    if n_blocks < 2:
        raise ValueError(f"`n_blocks` must be at least 2, got {n_blocks}")
    if n_frames < 2 * n_blocks:
        raise ValueError(f"{n_frames} frames are too few for {n_blocks} blocks")


def _sums(dipoles: np.ndarray, volumes: np.ndarray) -> np.ndarray:
    """What the constant needs of each frame, [n_frames, 6]: count, M, M², V."""
    squares = (dipoles**2).sum(1, keepdims=True)
    return np.concatenate([np.ones((len(dipoles), 1)), dipoles, squares, volumes[:, None]], 1)


def _constant(sums: np.ndarray, temperature: float, epsilon_infinity: float) -> float:
    mean = sums[1:] / sums[0]
    variance = mean[3] - (mean[:3] ** 2).sum()
    return float(
        epsilon_infinity + variance / (3.0 * VACUUM_PERMITTIVITY * mean[4] * BOLTZMANN_CONSTANT * temperature)
    )


__all__ = ["DielectricConstant", "check_fluctuations", "dielectric_constant"]
