"""Figures of what the analysis finds, as PNG: units on every axis, errors as bands, references as lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from openmm_les.analysis.dielectric import DielectricConstant
from openmm_les.analysis.dipoles import DipoleSeries
from openmm_les.analysis.harmonic import HarmonicSpectrum
from openmm_les.analysis.polarizability import PolarizabilitySeries
from openmm_les.analysis.radial import RadialDistribution
from openmm_les.analysis.spectra import Spectrum
from openmm_les.analysis.statistics import ChargeStatistics
from openmm_les.units import E_ANGSTROM_PER_DEBYE

# Jmol's colours of elements, hydrogen darkened to be seen on white.
ELEMENT_COLORS = {
    "H": "#9a9a9a", "C": "#4d4d4d", "N": "#3050f8", "O": "#e02020", "F": "#6fbf3f", "S": "#d9a520",
    "Cl": "#1fae1f", "Na": "#8a4fc9",
}  # fmt: skip

REFERENCE_BANDS: dict[str, tuple[str, dict[str, float]]] = {
    "water": (
        "liquid water, measured (Venyaminov and Prendergast 1997)",
        {"bend": 1643.5, "O–H stretch": 3404.0},
    ),
    "peptide": (
        "amide bands, typical (Barth 2007)",
        {"amide III": 1280.0, "amide II": 1550.0, "amide I": 1650.0, "amide A": 3300.0},
    ),
}
"""Band positions in cm⁻¹ to hold a spectrum against, by name: source and bands."""


@contextmanager
def figure_to(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure of a size in inches, drawn to ``path`` when the block ends."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display, whatever backend is configured
    yield figure
    figure.savefig(path, dpi=200)


def plot_spectrum(
    spectrum: Spectrum,
    path: Path,
    title: str,
    *,
    states: Spectrum | None = None,
    harmonic: HarmonicSpectrum | None = None,
    reference: str | None = None,
) -> None:
    """Infrared spectrum with its error band; density of states below, harmonic lines and bands beside.

    Parameters
    ----------
    spectrum : from `infrared_spectrum`
    states : "all" of `density_of_states`
    harmonic : drawn with lines as wide as the spectrum's resolution
    reference : one of `REFERENCE_BANDS`
    """
    n_panels = 1 if states is None else 2
    with figure_to(path, 6.5, 2.2 + 1.6 * n_panels) as figure:
        ratios = [2.0, 1.0][:n_panels]
        panels = np.atleast_1d(figure.subplots(n_panels, 1, sharex=True, height_ratios=ratios))
        top = panels[0]
        absorption = spectrum.unit == "cm^-1"
        scale = 1e-3 if absorption else 1.0
        label = f"MD, resolution {spectrum.resolution:.0f} cm$^{{-1}}$"
        _banded(top, spectrum, scale, "#1f4e9c", label)
        if harmonic is not None:
            lines = harmonic.broadened(spectrum.resolution, float(spectrum.wavenumbers[-1]))
            top.plot(lines.wavenumbers, lines.intensity, color="#d95f02", linewidth=0.9, label="harmonic")
            strong = harmonic.intensities > 0.5
            heights = -0.04 * max(spectrum.intensity.max(), lines.intensity.max())
            top.vlines(harmonic.wavenumbers[strong], heights, 0.0, color="#d95f02", linewidth=0.8)
        top.set_ylabel(
            "n(ν̃) α(ν̃)  (10$^3$ cm$^{-1}$)" if absorption else "absorption (km mol$^{-1}$ / cm$^{-1}$)"
        )
        if reference is not None:
            _mark_bands(top, *REFERENCE_BANDS[reference])
        # Above the panel: inside it, bands may stand anywhere.
        top.legend(fontsize=8, frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        if states is not None:
            _banded(panels[1], states, 1.0, "#4d4d4d", "")
            panels[1].set_ylabel("density of states\n(1 / cm$^{-1}$)")
            panels[1].set_ylim(bottom=0.0)
        panels[-1].set_xlabel("wavenumber ν̃ (cm$^{-1}$)")
        panels[-1].set_xlim(0.0, float(spectrum.wavenumbers[-1]))
        figure.suptitle(title, fontsize=10)


def plot_dielectric(result: DielectricConstant, path: Path, title: str) -> None:
    """What the constant was as the trajectory went on, with its final value and error."""
    with figure_to(path, 5.5, 3.4) as figure:
        axes = figure.subplots()
        axes.plot(result.running_times, result.running_values, color="#1f4e9c", linewidth=1.2)
        band = (result.value - result.error, result.value + result.error)
        axes.axhspan(*band, color="#1f4e9c", alpha=0.15, linewidth=0)
        label = f"ε = {result.value:.1f} ± {result.error:.1f}, ε∞ = {result.epsilon_infinity:g}"
        axes.axhline(result.value, color="#1f4e9c", linewidth=0.8, linestyle="--", label=label)
        axes.set_xlabel("length of the trajectory used (ps)")
        axes.set_ylabel("static dielectric constant ε")
        axes.set_xlim(left=0.0)
        axes.legend(fontsize=8, frameon=False)
        axes.set_title(f"{title}, T = {result.temperature:g} K", fontsize=10)


def plot_radial(distribution: RadialDistribution, path: Path, title: str) -> None:
    """g(r) with its error band."""
    with figure_to(path, 5.5, 3.4) as figure:
        axes = figure.subplots()
        r, g = distribution.distances, distribution.values
        axes.plot(r, g, color="#1f4e9c", linewidth=1.2, label=distribution.label)
        if distribution.errors is not None:
            low, high = g - distribution.errors, g + distribution.errors
            axes.fill_between(r, low, high, color="#1f4e9c", alpha=0.25, linewidth=0)
        axes.axhline(1.0, color="black", linewidth=0.6, linestyle=":")
        axes.set_xlabel("distance r (Å)")
        axes.set_ylabel("g(r)")
        axes.set_xlim(0.0, r[-1])
        axes.set_ylim(bottom=0.0)
        axes.legend(fontsize=8, frameon=False)
        axes.set_title(title, fontsize=10)


def plot_dipoles(series: DipoleSeries, molecules: Mapping[str, np.ndarray], path: Path, title: str) -> None:
    """Distribution of molecular dipoles by kind of molecule, and the dipole of all atoms in time.

    ``molecules``: kind to lengths of dipoles, e·Å.
    """
    with figure_to(path, 6.5, 5.0) as figure:
        upper, lower = figure.subplots(2, 1)
        for k, (name, lengths) in enumerate(sorted(molecules.items(), key=lambda item: -len(item[1]))[:8]):
            debye = lengths / E_ANGSTROM_PER_DEBYE
            label = f"{name}: {debye.mean():.2f} ± {debye.std():.2f} D"
            # Kinds that never change (an ion's zero) have no width to draw.
            if debye.std() > 1e-9:
                upper.hist(
                    debye, bins=_bins(debye), density=True, histtype="step", color=f"C{k}", label=label
                )
            else:
                upper.axvline(debye.mean(), color=f"C{k}", label=label)
        upper.set_xlabel("dipole moment of a molecule |μ| (D)")
        upper.set_ylabel("probability density (1/D)")
        upper.set_xlim(left=0.0)
        upper.legend(fontsize=8, frameon=False)
        times, axis_label = _time_axis(series.times)
        for axis, name in enumerate("xyz"):
            lower.plot(
                times, series.dipoles[:, axis] / E_ANGSTROM_PER_DEBYE, linewidth=0.8, label=f"$M_{name}$"
            )
        lower.set_xlabel(axis_label)
        lower.set_ylabel("dipole of all atoms (D)")
        lower.legend(fontsize=8, frameon=False, ncols=3)
        figure.suptitle(title, fontsize=10)


def plot_charges(statistics: ChargeStatistics, samples: np.ndarray, path: Path, title: str) -> None:
    """Distribution of charges by element, and the mean charge of every residue.

    ``samples`` [n_frames, n_atoms] in e, some frames for the distributions.
    """
    symbols = np.array([atom.element.symbol for atom in statistics.topology.atoms])
    residues = list(statistics.topology.residues)
    shown = [r.index for r in residues if not r.is_water][:60] or [r.index for r in residues][:60]
    with figure_to(path, 6.5, 5.6) as figure:
        upper, lower = figure.subplots(2, 1)
        names = list(statistics.element_mean)
        for k, name in enumerate(names):
            values = samples[:, symbols == name].ravel()
            color = ELEMENT_COLORS.get(name, "#7f7f7f")
            if values.std() > 1e-9:
                parts = upper.violinplot(values, [k], widths=0.8, showextrema=False)
                for body in parts["bodies"]:
                    body.set(facecolor=color, alpha=0.5)
            upper.errorbar(
                [k], [statistics.element_mean[name]], [statistics.element_deviation[name]],
                fmt="o", color=color, markersize=4, capsize=3,
            )  # fmt: skip
        upper.axhline(0.0, color="black", linewidth=0.6, linestyle=":")
        upper.set_xticks(range(len(names)), names)
        upper.set_ylabel("charge of an atom (e)")
        upper.set_xlabel("element; points: mean and standard deviation over atoms and frames")
        places = np.arange(len(shown))
        lower.bar(
            places, statistics.residue_mean[shown], yerr=statistics.residue_deviation[shown],
            color="#1f4e9c", alpha=0.7, error_kw={"linewidth": 0.8},
        )  # fmt: skip
        lower.axhline(0.0, color="black", linewidth=0.6)
        lower.set_xticks(places, [str(residues[i]) for i in shown], rotation=90, fontsize=7)
        lower.set_ylabel("charge of a residue (e)")
        lower.set_xlabel("residue; bars: mean, whiskers: standard deviation in time")
        figure.suptitle(f"{title}, {statistics.n_frames} frames", fontsize=10)


def plot_polarizability(series: PolarizabilitySeries, path: Path, title: str) -> None:
    """Isotropic part and anisotropy in time, and the distribution of each."""
    parts = {"isotropic": series.isotropic, "anisotropy": series.anisotropy}
    times, axis_label = _time_axis(series.times)
    with figure_to(path, 6.5, 3.2) as figure:
        left, right = figure.subplots(1, 2)
        for name, values in parts.items():
            label = f"{name}: {values.mean():.2f} ± {values.std():.2f} Å³"
            left.plot(times, values, linewidth=0.8)
            right.hist(values, bins=_bins(values), histtype="step", label=label)
        left.set_xlabel(axis_label)
        left.set_ylabel("polarizability (Å³)")
        right.set_xlabel("polarizability (Å³)")
        right.set_ylabel("frames")
        right.legend(fontsize=8, frameon=False)
        figure.suptitle(title, fontsize=10)


def _time_axis(times: np.ndarray) -> tuple[np.ndarray, str]:
    """Times since the first frame and what they are; numbers of frames where times are unknown."""
    if np.isnan(times).any():
        return np.arange(len(times)), "frame"
    return times - times[0], "time (ps)"


def plot_born(born: Mapping[str, np.ndarray], violation: float, path: Path, title: str) -> None:
    """Distribution of isotropic Born charges tr Z/3 by element.

    ``born``: element to values in e; ``violation`` of the acoustic sum rule, e.
    """
    with figure_to(path, 5.5, 3.6) as figure:
        axes = figure.subplots()
        for name, values in born.items():
            color = ELEMENT_COLORS.get(name, "#7f7f7f")
            label = f"{name}: {values.mean():+.2f} ± {values.std():.2f} e"
            if values.std() > 1e-9:
                axes.hist(
                    values,
                    bins=_bins(values),
                    density=True,
                    histtype="stepfilled",
                    alpha=0.5,
                    color=color,
                    label=label,
                )
        axes.axvline(0.0, color="black", linewidth=0.6, linestyle=":")
        axes.set_xlabel("isotropic Born effective charge tr Z*/3 (e)")
        axes.set_ylabel("probability density (1/e)")
        axes.set_yscale("log")
        axes.legend(fontsize=8, frameon=False)
        axes.set_title(f"{title}; sum rule kept to {violation:.0e} e", fontsize=10)


def _banded(axes: Any, spectrum: Spectrum, scale: float, color: str, label: str) -> None:
    x, y = spectrum.wavenumbers, scale * spectrum.intensity
    axes.plot(x, y, color=color, linewidth=1.1, label=label or None)
    if spectrum.error is not None:
        error = scale * spectrum.error
        axes.fill_between(x, y - error, y + error, color=color, alpha=0.25, linewidth=0)


def _bins(values: np.ndarray) -> int:
    return int(np.clip(np.sqrt(values.size), 8, 60))


def _mark_bands(axes: Any, source: str, bands: Mapping[str, float]) -> None:
    names: Sequence[str] = list(bands)
    for k, name in enumerate(names):
        label = source if k == 0 else None
        axes.axvline(bands[name], color="#2a7f3f", linewidth=0.8, linestyle="--", label=label)
        axes.annotate(
            name, (bands[name], 1.0), xycoords=("data", "axes fraction"), fontsize=7, color="#2a7f3f",
            rotation=90, ha="right", va="top", xytext=(-1, -3), textcoords="offset points",
        )  # fmt: skip


__all__ = [
    "REFERENCE_BANDS",
    "plot_born",
    "plot_charges",
    "plot_dielectric",
    "plot_dipoles",
    "plot_polarizability",
    "plot_radial",
    "plot_spectrum",
]
