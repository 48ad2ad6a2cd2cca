r"""Infrared spectra and vibrational densities of states from autocorrelation functions.

Classical nuclei move, so that spectra carry a quantum correction chosen by name. With S(ω) the
Fourier transform of ⟨Ṁ(0)·Ṁ(t)⟩ and x = ħω/kT, the absorption is

    n(ω) α(ω) = f(x) S(ω) / (6 ε₀ c V kT)

(McQuarrie, Statistical Mechanics, ch. 21, with the corrections of Ramírez et al., J. Chem. Phys.
121, 3973 (2004)): f = 1 is their "harmonic" correction, exact for harmonic motion.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import fft, signal

from openmm_les.analysis.dipoles import DipoleSeries
from openmm_les.analysis.tables import write_csv
from openmm_les.analysis.trajectories import TrajectorySource
from openmm_les.elements import symbol
from openmm_les.units import (
    AVOGADRO_CONSTANT,
    BOLTZMANN_CONSTANT,
    FS_PER_PS,
    PLANCK_CONSTANT_REDUCED,
    SPEED_OF_LIGHT,
    VACUUM_PERMITTIVITY,
)

QUANTUM_CORRECTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "harmonic": np.ones_like,
    "standard": lambda x: 2.0 * np.tanh(x / 2.0) / x,
    "schofield": lambda x: 2.0 * np.sinh(x / 2.0) / x,
    "none": lambda x: -np.expm1(-x) / x,
}
"""f(x) of each correction by name; "none" is the bare classical line shape in the quantum formula."""

# Full width at half maximum of a window's transform, in bins of one over its length.
WINDOWS = {"hann": 2.0, "blackman": 2.30, "hamming": 1.81, "boxcar": 1.21}

_TRANSFORMED = 20_000_000  # numbers at once, of velocities

CM_PER_ANGSTROM = 1e-8
MOLAR_KM = AVOGADRO_CONSTANT * 1e-21
"""Å² per molecule in km/mol per cm⁻¹."""


@dataclass(frozen=True)
class Spectrum:
    """An intensity against wavenumber."""

    wavenumbers: np.ndarray
    """[n], cm⁻¹, from 0"""
    intensity: np.ndarray
    """[n]"""
    error: np.ndarray | None
    """[n], standard error over blocks of the trajectory, or None with fewer than two"""
    unit: str
    resolution: float
    """cm⁻¹, full width at half maximum of a sharp line"""

    def integral(self, low: float = 0.0, high: float = np.inf) -> float:
        """Integral from ``low`` to ``high`` (cm⁻¹), in the unit times cm⁻¹."""
        chosen = (self.wavenumbers >= low) & (self.wavenumbers <= high)
        return float(np.trapezoid(self.intensity[chosen], self.wavenumbers[chosen]))

    def peaks(self, prominence: float = 0.05) -> np.ndarray:
        """Wavenumbers of maxima that rise by ``prominence`` of the largest, cm⁻¹, ascending.

        Refined by a parabola through three points.
        """
        y = self.intensity
        found, _ = signal.find_peaks(y, prominence=prominence * y.max())
        below, top, above = y[found - 1], y[found], y[found + 1]
        shift = 0.5 * (below - above) / (below - 2.0 * top + above)
        return self.wavenumbers[found] + shift * (self.wavenumbers[1] - self.wavenumbers[0])

    def save(self, path: str | Path) -> None:
        """Write as CSV: wavenumber, intensity, standard error."""
        error = np.full_like(self.intensity, np.nan) if self.error is None else self.error
        header = ["wavenumber (cm^-1)", f"intensity ({self.unit})", "standard error"]
        write_csv(path, header, zip(self.wavenumbers, self.intensity, error))


def infrared_spectrum(
    series: DipoleSeries,
    temperature: float,
    *,
    resolution: float | None = None,
    max_wavenumber: float = 4000.0,
    quantum_correction: str = "harmonic",
    window: str = "hann",
    n_blocks: int = 5,
) -> Spectrum:
    """Infrared absorption from the fluctuations of the dipole.

    With volumes, n(ω)α(ω) in cm⁻¹ (Napierian absorption coefficient times refractive index);
    without, the molar Napierian absorption in km/mol per cm⁻¹, whose integral over a band is the
    usual intensity in km/mol.

    Parameters
    ----------
    series : currents where it has them, else differences of dipoles, with their exact transfer
        function taken out
    temperature : K, of the trajectory
    resolution : cm⁻¹, sets the length of the autocorrelation function; None = 10, or what a tenth
        of the trajectory allows
    max_wavenumber : cm⁻¹
    quantum_correction : one of `QUANTUM_CORRECTIONS`
    window : of the autocorrelation function, one of `WINDOWS`
    n_blocks : of the trajectory, for the mean and its error

    Raises
    ------
    ValueError
        Frames too far apart for ``max_wavenumber``, uneven, or too few for the resolution.
    """
    if quantum_correction not in QUANTUM_CORRECTIONS:
        raise ValueError(
            f"`quantum_correction` must be one of {', '.join(QUANTUM_CORRECTIONS)}, "
            f"got {quantum_correction!r}"
        )
    spacing = series.spacing() * FS_PER_PS
    rates = series.currents
    if rates is None:
        rates = np.diff(series.dipoles, axis=0) / spacing
    n_lags, resolution = check_spectrum(
        len(rates), spacing, temperature, resolution, max_wavenumber, window=window
    )
    n_blocks = max(1, min(n_blocks, len(rates) // (2 * n_lags)))
    functions = np.stack(
        [autocorrelation(block, n_lags).sum(-1) for block in np.array_split(rates, n_blocks)]
    )  # [n_blocks, n_lags + 1]
    wavenumbers, densities = transform(functions, spacing, window)
    if series.currents is None:
        densities = densities * difference_correction(wavenumbers, spacing)
    beta = 1.0 / (BOLTZMANN_CONSTANT * temperature)
    x = beta * PLANCK_CONSTANT_REDUCED * angular_frequency(wavenumbers)
    factors = np.ones_like(x)
    factors[1:] = QUANTUM_CORRECTIONS[quantum_correction](x[1:])
    section = densities * factors * beta / (6.0 * SPEED_OF_LIGHT * VACUUM_PERMITTIVITY)  # Å²
    if series.volumes is None:
        intensity, unit = section * MOLAR_KM, "km/mol per cm^-1"
    else:
        intensity, unit = section / series.volumes.mean() / CM_PER_ANGSTROM, "cm^-1"
    return _spectrum(wavenumbers, intensity, max_wavenumber, unit, resolution)


def density_of_states(
    source: TrajectorySource,
    masses: np.ndarray,
    numbers: np.ndarray,
    *,
    resolution: float = 10.0,
    max_wavenumber: float = 4000.0,
    window: str = "hann",
) -> dict[str, Spectrum]:
    """Vibrational density of states from mass-weighted velocity autocorrelation functions.

    From the velocities of the trajectory if it is read with them, else from differences of
    positions. Memory is that of a few correlation times, however long the trajectory.

    Parameters
    ----------
    source : frames
    masses : [n_atoms], Da
    numbers : [n_atoms], atomic numbers
    resolution, max_wavenumber, window : as in `infrared_spectrum`

    Returns
    -------
    Spectra by element symbol, and "all", in degrees of freedom per cm⁻¹: "all" integrates to 3 N.

    Raises
    ------
    ValueError
        As `infrared_spectrum`.
    """
    spacing = source.uniform_spacing() * FS_PER_PS
    check_spacing(spacing, max_wavenumber)
    n_lags, resolution = lags_for(len(source), spacing, resolution, window)
    elements = np.unique(numbers)
    of_element = (numbers == elements[:, None]).astype(np.float64)  # [n_elements, n_atoms]
    functions = np.stack(
        [
            _of_elements(of_element, masses, block, n_lags)
            for block in _velocity_blocks(source, spacing, 4 * n_lags, 2 * n_lags)
        ]
    )  # [n_blocks, n_elements, n_lags + 1], Da·Å²/fs²
    wavenumbers, densities = transform(functions, spacing, window)  # [n_blocks, n_elements, n]
    if not source.velocities:
        densities = densities * difference_correction(wavenumbers, spacing)
    # Up to the Nyquist limit they are all degrees of freedom; differences hide some before the correction.
    densities *= 3.0 * len(masses) / np.trapezoid(densities.mean(0).sum(0), wavenumbers)
    names = [symbol(int(z)) for z in elements]
    return {
        name: _spectrum(wavenumbers, part, max_wavenumber, "1/cm^-1", resolution)
        for name, part in (*zip(names, np.moveaxis(densities, 1, 0)), ("all", densities.sum(1)))
    }


def _of_elements(of_element: np.ndarray, masses: np.ndarray, block: np.ndarray, n_lags: int) -> np.ndarray:
    """Autocorrelation functions, by mass, [n_elements, n_lags + 1] of velocities [n_frames, n_atoms, 3]."""
    total = np.zeros((len(of_element), n_lags + 1))
    step = max(1, _TRANSFORMED // (12 * len(block)))  # three axes, padded, and complex
    for first in range(0, len(masses), step):
        some = slice(first, first + step)
        of_atoms = autocorrelation(block[:, some], n_lags).sum(-1).T
        total += of_element[:, some] @ (masses[some, None] * of_atoms)
    return total


def check_spectrum(
    n_rates: int,
    spacing: float,
    temperature: float,
    resolution: float | None,
    max_wavenumber: float,
    *,
    window: str = "hann",
) -> tuple[int, float]:
    """As `lags_for`, for ``n_rates`` changes of dipoles ``spacing`` fs apart, which need not be there yet.

    Raises
    ------
    ValueError
        They give no such spectrum, see `infrared_spectrum`.
    """
    if not temperature > 0.0:
        raise ValueError(f"`temperature` must be positive, got {temperature}")
    check_spacing(spacing, max_wavenumber)
    return lags_for(n_rates, spacing, resolution, window)


def check_spacing(spacing: float, max_wavenumber: float) -> None:
    """Raise ValueError where frames ``spacing`` fs apart cannot show ``max_wavenumber`` (cm⁻¹)."""
    nyquist = 1.0 / (2.0 * SPEED_OF_LIGHT * spacing * CM_PER_ANGSTROM)
    if max_wavenumber > nyquist:
        needed = math.floor(100.0 * spacing * nyquist / max_wavenumber) / 100.0
        raise ValueError(
            f"frames {spacing:.3g} fs apart show wavenumbers up to {nyquist:.0f} cm^-1, and fold faster "
            f"motion onto them: for {max_wavenumber:.0f} cm^-1 write a frame every {needed:g} fs or "
            "more often"
        )


def lags_for(n_frames: int, spacing: float, resolution: float | None, window: str) -> tuple[int, float]:
    """Length of the autocorrelation function in frames, and the resolution it gives in cm⁻¹.

    Parameters
    ----------
    n_frames : there are
    spacing : fs
    resolution : cm⁻¹ wanted, or None
    window : one of `WINDOWS`
    """
    if window not in WINDOWS:
        raise ValueError(f"`window` must be one of {', '.join(WINDOWS)}, got {window!r}")
    if resolution is not None and not resolution > 0.0:
        raise ValueError(f"`resolution` must be positive, got {resolution}")
    # A window over lags from -L to L: its length is 2 L.
    product = WINDOWS[window] / (2.0 * SPEED_OF_LIGHT * CM_PER_ANGSTROM)  # resolution times L, cm⁻¹ fs
    duration = n_frames * spacing
    if resolution is None:
        resolution = max(10.0, product / (duration / 10.0))
    n_lags = round(product / resolution / spacing)
    if n_lags < 2 or 2 * n_lags > n_frames:
        needed = 2.0 * product / resolution / FS_PER_PS
        raise ValueError(
            f"a resolution of {resolution:.3g} cm^-1 needs {needed:.3g} ps, there are "
            f"{duration / FS_PER_PS:.3g} ps in {n_frames} frames"
        )
    return n_lags, product / (n_lags * spacing)


def autocorrelation(values: np.ndarray, n_lags: int) -> np.ndarray:
    """⟨v(0) v(t)⟩ of each column for 0 to ``n_lags`` frames, [n_lags + 1, ...].

    ``values`` [n_frames, ...]. Averages over all origins, by the theorem of Wiener and Khinchin.
    """
    n = len(values)
    size = fft.next_fast_len(n + n_lags, real=True)
    transformed = fft.rfft(values, size, axis=0)
    power = transformed.real**2 + transformed.imag**2
    sums = fft.irfft(power, size, axis=0)[: n_lags + 1]
    counts = n - np.arange(n_lags + 1)
    return sums / counts.reshape(-1, *[1] * (values.ndim - 1))


def transform(functions: np.ndarray, spacing: float, window: str) -> tuple[np.ndarray, np.ndarray]:
    """Fourier transforms ∫ C(t) w(t) exp(-iωt) dt of autocorrelation functions.

    Parameters
    ----------
    functions : [..., n_lags + 1]
    spacing : fs
    window : over lags from -n_lags to n_lags; one at lag 0, so that integrals stay

    Returns
    -------
    wavenumbers : [n], cm⁻¹, to the Nyquist limit
    densities : [..., n], unit of the functions times fs
    """
    n_lags = functions.shape[-1] - 1
    weights = signal.get_window(window, 2 * n_lags + 1, fftbins=False)[n_lags:]
    size = fft.next_fast_len(16 * n_lags, real=True)
    padded = np.zeros((*functions.shape[:-1], size))
    padded[..., : n_lags + 1] = functions * weights
    padded[..., size - n_lags :] = (functions * weights)[..., :0:-1]  # even in time
    densities = fft.rfft(padded, axis=-1).real * spacing
    frequencies = fft.rfftfreq(size, spacing)  # 1/fs
    return frequencies / SPEED_OF_LIGHT / CM_PER_ANGSTROM, densities


def difference_correction(wavenumbers: np.ndarray, spacing: float) -> np.ndarray:
    """What takes the spectrum of ``(y(t + h) − y(t)) / h`` to that of dy/dt: (x / sin x)², x = ωh/2.

    ``wavenumbers`` in cm⁻¹, ``spacing`` h in fs.
    """
    x = 0.5 * angular_frequency(wavenumbers) * spacing
    return 1.0 / np.sinc(x / np.pi) ** 2


def angular_frequency(wavenumbers: np.ndarray) -> np.ndarray:
    """ω in 1/fs of wavenumbers in cm⁻¹."""
    return 2.0 * np.pi * SPEED_OF_LIGHT * CM_PER_ANGSTROM * wavenumbers


def _velocity_blocks(source: TrajectorySource, spacing: float, size: int, least: int):
    """Velocities [n, n_atoms, 3] in Å/fs, in blocks of ``size`` frames; a last one from ``least`` on."""
    held: list[np.ndarray] = []
    count = 0
    last = None
    for frames in source:
        if frames.velocities is not None:
            values = frames.velocities
        else:
            places = frames.positions if last is None else np.concatenate([last, frames.positions])
            values = np.diff(places, axis=0)
            last = frames.positions[-1:]
            if frames.cells is not None:
                cells = frames.cells[len(frames.cells) - len(values) :]
                values = values - np.round(values @ np.linalg.inv(cells)) @ cells
            values = values / spacing
        held.append(values)
        count += len(values)
        while count >= size:
            joined = np.concatenate(held)
            yield joined[:size]
            held, count = [joined[size:]], count - size
    if count >= least:
        yield np.concatenate(held)


def _spectrum(
    wavenumbers: np.ndarray, blocks: np.ndarray, max_wavenumber: float, unit: str, resolution: float
) -> Spectrum:
    kept = wavenumbers <= max_wavenumber
    n = len(blocks)
    error = blocks.std(0, ddof=1)[kept] / np.sqrt(n) if n > 1 else None
    return Spectrum(wavenumbers[kept], blocks.mean(0)[kept], error, unit, resolution)


__all__ = [
    "QUANTUM_CORRECTIONS",
    "WINDOWS",
    "Spectrum",
    "autocorrelation",
    "density_of_states",
    "infrared_spectrum",
]
