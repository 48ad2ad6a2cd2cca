"""Pictures of a training run and of a model's errors."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openmm_les.training.data import fit_reference_energies
from openmm_les.training.metrics import Predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_POINTS = 30_000


def plot_curves(log: Path, path: Path) -> None:
    """Errors and learning rate along a run, from its CSV log, as PNG."""
    with log.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = {key: np.array([float(row[key] or "nan") for row in rows]) for key in rows[0]}
    figure = _figure(1, 3)
    axes = figure.subplots(1, 3)
    step = columns["step"]
    panels = (
        (
            "force error, meV/Å",
            1e3,
            {"train_force_error": "training, length", "valid_force_mae": "validation MAE"},
        ),
        ("energy MAE, meV/atom", 1e3, {"train_energy_mae": "training", "valid_energy_mae": "validation"}),
    )
    for axis, (title, scale, lines) in zip(axes, panels):
        for key, label in lines.items():
            axis.plot(step, scale * columns[key], ".-", label=label)
        axis.set(title=title, xlabel="step", yscale="log")
        axis.legend()
    axes[2].plot(step, columns["valid_charge_spread"], ".-", label="std(q), e")
    axes[2].plot(step, columns["valid_dipole_r"], ".-", label="dipole r")
    axes[2].plot(
        step, columns["learning_rate"] / columns["learning_rate"].max(), label="learning rate, relative"
    )
    axes[2].set(title="charges of the validation set", xlabel="step")
    axes[2].legend()
    figure.savefig(path)


def plot_parity(predictions: Predictions, path: Path, title: str = "") -> None:
    """Predictions against labels, a panel for each kind of label there is, as PNG."""
    c = predictions.configurations
    present = np.unique(c.numbers).tolist()
    references = np.zeros(119)
    references[present] = fit_reference_energies(c, present)
    base = np.add.reduceat(references[c.numbers], c.offsets[:-1])
    own, reference = predictions.dipoles()
    panels = {
        "energy less the elements', eV/atom": (
            (c.energy - base) / c.sizes,
            (predictions.energy - base) / c.sizes,
        ),
        "forces, eV/Å": (c.forces, predictions.forces),
        "stress, eV/Å³": (c.stress, predictions.stress),
        "dipole, e·Å": (reference, own),
        "Born charges, e": (c.born_charges, predictions.born_charges),
        "polarizability, Å³": (c.polarizability, predictions.polarizability),
    }
    pairs = {}
    for name, (x, y) in panels.items():
        both = np.isfinite(x.ravel()) & np.isfinite(y.ravel())
        if both.any():
            pairs[name] = (x.ravel()[both], y.ravel()[both])
    figure = _figure(1, len(pairs))
    for axis, (name, (x, y)) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs.items()):
        _parity(axis, x, y, name)
    figure.suptitle(title)
    figure.savefig(path)


def _figure(rows: int, columns: int) -> Figure:
    """Figure that draws to files only, whatever display there is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.0 * columns, 3.6 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _parity(axis: Axes, x: np.ndarray, y: np.ndarray, name: str) -> None:
    """One panel: points, the diagonal, the error."""
    if len(x) > _MOST_POINTS:
        drawn = np.random.default_rng(0).permutation(len(x))[:_MOST_POINTS]
        shown_x, shown_y = x[drawn], y[drawn]
    else:
        shown_x, shown_y = x, y
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    axis.plot(ends, ends, color="0.6", linewidth=1.0)
    axis.plot(shown_x, shown_y, ".", markersize=2.0, alpha=0.4, rasterized=True)
    axis.set(title=f"{name}\nMAE {np.abs(x - y).mean():.3g}", xlabel="label", ylabel="model")


__all__ = ["plot_curves", "plot_parity"]
