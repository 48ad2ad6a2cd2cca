"""Reads the table of energies of a run, sums it up and plots it."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Energies:
    """Columns of ``energies.csv``; volume and density are None for a run without a box."""

    step: np.ndarray
    """[n_rows]"""
    time: np.ndarray
    """[n_rows], ps"""
    potential: np.ndarray
    """[n_rows], kJ/mol"""
    kinetic: np.ndarray
    """[n_rows], kJ/mol"""
    total: np.ndarray
    """[n_rows], kJ/mol"""
    temperature: np.ndarray
    """[n_rows], K"""
    volume: np.ndarray | None
    """[n_rows], nm³"""
    density: np.ndarray | None
    """[n_rows], g/mL"""
    speed: np.ndarray
    """[n_rows], ns/day, NaN where a row has none"""

    def since(self, time: float) -> Energies:
        """The rows from a time (ps) on, at least the last one."""
        kept = self.time >= min(time, self.time[-1])
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        kept_columns: dict[str, Any] = {k: None if v is None else v[kept] for k, v in columns.items()}
        return Energies(**kept_columns)


@dataclass(frozen=True)
class Mean:
    """Mean and standard deviation over rows of a run."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class EnergySummary:
    """What a run comes down to; means and drift leave its beginning out."""

    time: float
    """ps"""
    potential: Mean
    """kJ/mol"""
    kinetic: Mean
    """kJ/mol"""
    total: Mean
    """kJ/mol"""
    temperature: Mean
    """K"""
    density: Mean | None
    """g/mL"""
    drift: float
    """kJ/mol/ps, slope of a straight line through the total energy; NaN for fewer than three rows"""
    speed: float
    """ns/day, median over the reports; NaN when no report has one"""


def read_energies(path: Path) -> Energies:
    """The table that a run wrote.

    Raises
    ------
    ValueError
        for a file that is no such table, or has no rows
    """
    names = {
        "step": "step",
        "time": "time (ps)",
        "potential": "potential energy (kJ/mol)",
        "kinetic": "kinetic energy (kJ/mol)",
        "total": "total energy (kJ/mol)",
        "temperature": "temperature (K)",
        "volume": "volume (nm^3)",
        "density": "density (g/mL)",
        "speed": "speed (ns/day)",
    }
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not set(names.values()) <= set(rows[0]):
        raise ValueError(f"{path} is not a table of energies, or has no rows")
    columns = {
        key: np.array([float(row[name]) if row[name] else np.nan for row in rows])
        for key, name in names.items()
    }
    periodic = np.isfinite(columns["volume"]).all()
    return Energies(
        **{key: columns[key] for key in names if key not in ("volume", "density")},
        volume=columns["volume"] if periodic else None,
        density=columns["density"] if periodic else None,
    )


def summarize(energies: Energies, discard: float = 0.5) -> EnergySummary:
    """Means, fluctuations, drift and speed of a run.

    Parameters
    ----------
    discard : part of the run to leave out as equilibration, from 0 to below 1
    """
    if not 0 <= discard < 1:
        raise ValueError(f"`discard` must lie between 0 and 1, got {discard}")
    length = float(energies.time[-1])
    energies = energies.since(discard * length)
    drift = np.nan
    if len(energies.time) > 2:
        drift = np.polynomial.Polynomial.fit(energies.time, energies.total, 1).convert().coef[1]
    speeds = energies.speed[np.isfinite(energies.speed)]
    return EnergySummary(
        time=length,
        potential=_mean(energies.potential),
        kinetic=_mean(energies.kinetic),
        total=_mean(energies.total),
        temperature=_mean(energies.temperature),
        density=None if energies.density is None else _mean(energies.density),
        drift=float(drift),
        speed=float(np.median(speeds)) if len(speeds) else float("nan"),
    )


def plot_energies(energies: Energies, path: Path, title: str) -> None:
    """Energies, temperature and (with a box) volume against time, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_panels = 2 if energies.volume is None else 3
    figure = Figure(figsize=(7.0, 2.3 * n_panels), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display, whatever backend is configured
    panels = figure.subplots(n_panels, 1, sharex=True)
    for values, name in (
        (energies.potential, "potential"),
        (energies.kinetic, "kinetic"),
        (energies.total, "total"),
    ):
        panels[0].plot(
            energies.time, values - values[0], label=f"{name} (starts at {values[0]:.0f})", linewidth=1.0
        )
    panels[0].set_ylabel("energy − start (kJ/mol)")
    panels[0].legend(fontsize="small", frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    panels[1].plot(energies.time, energies.temperature, color="tab:red", linewidth=1.0)
    panels[1].set_ylabel("temperature (K)")
    if energies.volume is not None:
        panels[2].plot(energies.time, energies.volume, color="tab:purple", linewidth=1.0)
        panels[2].set_ylabel("volume (nm³)")
        panels[2].ticklabel_format(useOffset=False)
    panels[-1].set_xlabel("time (ps)")
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def _mean(values: np.ndarray) -> Mean:
    return Mean(float(values.mean()), float(values.std()))
