"""Charges of every frame on disk, and their statistics by atom, residue and element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mdtraj
import numpy as np

from openmm_les.analysis.charges import ChargeModel
from openmm_les.analysis.tables import write_csv
from openmm_les.analysis.trajectories import Frames, TrajectorySource
from openmm_les.elements import symbol
from openmm_les.records import Quantity, RecordWriter
from openmm_les.units import KJ_PER_MOL_PER_EV

CHARGE = "particles/atoms/charge"
_ENERGIES = ("observables/energy_short_range", "observables/energy_long_range")


class RunningMoments:
    """Means and standard deviations of columns that come in parts (Chan, Golub and LeVeque, 1983)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = np.zeros(0)
        self._squares = np.zeros(0)

    def add(self, rows: np.ndarray) -> None:
        """Take in ``rows`` [n, n_columns]."""
        mean = rows.mean(0)
        squares = ((rows - mean) ** 2).sum(0)
        if self.count == 0:
            self.count, self.mean, self._squares = len(rows), mean, squares
            return
        total = self.count + len(rows)
        delta = mean - self.mean
        self._squares = self._squares + squares + delta**2 * self.count * len(rows) / total
        self.mean = self.mean + delta * len(rows) / total
        self.count = total

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation of each column."""
        return np.sqrt(self._squares / max(self.count, 1))


@dataclass(frozen=True)
class ChargeStatistics:
    """Means and standard deviations over the frames of a trajectory, e."""

    topology: mdtraj.Topology
    n_frames: int
    atom_mean: np.ndarray
    """[n_atoms]"""
    atom_deviation: np.ndarray
    """[n_atoms], in time"""
    residue_mean: np.ndarray
    """[n_residues], of the residue's charge"""
    residue_deviation: np.ndarray
    """[n_residues], in time"""
    element_mean: dict[str, float]
    element_deviation: dict[str, float]
    """Over atoms and frames"""

    def save(self, folder: Path) -> list[Path]:
        """Write ``charges_by_atom.csv``, ``…_by_residue.csv`` and ``…_by_element.csv``."""
        atoms, residues = list(self.topology.atoms), list(self.topology.residues)
        tables: dict[str, tuple[list[str], list[tuple[object, ...]], Sequence[float], Sequence[float]]] = {
            "atom": (
                ["index", "residue", "name", "element"],
                [(a.index, str(a.residue), a.name, a.element.symbol) for a in atoms],
                self.atom_mean.tolist(),
                self.atom_deviation.tolist(),
            ),
            "residue": (
                ["index", "residue", "atoms"],
                [(r.index, str(r), r.n_atoms) for r in residues],
                self.residue_mean.tolist(),
                self.residue_deviation.tolist(),
            ),
            "element": (
                ["element"],
                [(name,) for name in self.element_mean],
                list(self.element_mean.values()),
                list(self.element_deviation.values()),
            ),
        }
        paths = []
        for kind, (header, rows, means, deviations) in tables.items():
            path = folder / f"charges_by_{kind}.csv"
            lines = [(*row, f"{mean:.6f}", f"{std:.6f}") for row, mean, std in zip(rows, means, deviations)]
            write_csv(path, [*header, "mean charge (e)", "standard deviation (e)"], lines)
            paths.append(path)
        return paths


def charge_statistics(
    source: TrajectorySource,
    model: ChargeModel,
    *,
    output: str | Path | None = None,
    energies: bool = False,
    each: Callable[[Frames, np.ndarray], None] | None = None,
) -> ChargeStatistics:
    """Charges of every frame of a trajectory, summed up.

    Parameters
    ----------
    source : frames
    model : bound to the same atoms
    output : H5MD file for the charges of every frame, [n_frames, n_atoms] in e, and with ``energies``
        the short-range and the long-range energy in kJ/mol
    energies : evaluate the two energies too
    each : called with frames and their charges [n_frames, n_atoms], for more than is done here
    """
    residues = np.array([atom.residue.index for atom in source.topology.atoms])
    # Atoms of a residue follow each other in mdtraj's topologies.
    starts = np.unique(residues, return_index=True)[1]
    by_atom, by_residue = RunningMoments(), RunningMoments()
    writer = None
    if output is not None:
        quantities = [Quantity(CHARGE, (model.n_atoms,), "e", "f4")]
        if energies:
            quantities += [Quantity(name, (), "kJ mol-1") for name in _ENERGIES]
        attributes = {"epsilon_infinity": model.epsilon_infinity, "atomic_numbers": model.numbers}
        writer = RecordWriter(output, quantities, attributes)
    for frames in source:
        charges = model.charges(frames.positions, frames.cells)
        by_atom.add(charges)
        by_residue.add(np.add.reduceat(charges, starts, axis=1))
        if writer is not None:
            values: dict[str, np.ndarray] = {CHARGE: charges}
            if energies:
                found = model.energies(frames.positions, frames.cells)
                parts = (found.short_range, found.long_range)
                values.update({name: e * KJ_PER_MOL_PER_EV for name, e in zip(_ENERGIES, parts)})
            writer.append(frames.first + np.arange(len(frames)), frames.times, values)
        if each is not None:
            each(frames, charges)
    if writer is not None:
        writer.close()
    means, deviations = {}, {}
    for z in np.unique(model.numbers):
        chosen = model.numbers == z
        mean = by_atom.mean[chosen].mean()
        means[symbol(int(z))] = float(mean)
        spread = by_atom.deviation[chosen] ** 2 + (by_atom.mean[chosen] - mean) ** 2
        deviations[symbol(int(z))] = float(np.sqrt(spread.mean()))
    return ChargeStatistics(
        topology=source.topology,
        n_frames=by_atom.count,
        atom_mean=by_atom.mean,
        atom_deviation=by_atom.deviation,
        residue_mean=by_residue.mean,
        residue_deviation=by_residue.deviation,
        element_mean=means,
        element_deviation=deviations,
    )


__all__ = ["CHARGE", "ChargeStatistics", "RunningMoments", "charge_statistics"]
