"""Radial distribution functions with errors, by mdtraj, in constant memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mdtraj
import numpy as np

from openmm_les.analysis.tables import write_csv
from openmm_les.analysis.trajectories import Frames, TrajectorySource
from openmm_les.neighbors import perpendicular_widths
from openmm_les.units import ANGSTROM_PER_NM

_DISTANCES_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class RadialDistribution:
    """g(r) of two selections."""

    distances: np.ndarray
    """[n_bins], Å, middles of the bins"""
    values: np.ndarray
    """[n_bins]"""
    errors: np.ndarray | None
    """[n_bins], standard error over blocks of frames; None with fewer than two"""
    label: str

    def save(self, path: str | Path) -> None:
        """Write as CSV: distance, g(r), standard error."""
        errors = np.full_like(self.values, np.nan) if self.errors is None else self.errors
        header = ["distance (angstrom)", f"g {self.label}", "standard error"]
        write_csv(path, header, zip(self.distances, self.values, errors))


def radial_distribution(
    source: TrajectorySource,
    first: str,
    second: str,
    *,
    max_distance: float | None = None,
    bin_width: float = 0.05,
    n_blocks: int = 5,
) -> RadialDistribution:
    """g(r) between two mdtraj selections, by `mdtraj.compute_rdf`.

    Parameters
    ----------
    source : periodic frames
    first, second : selections, as "name O"; pairs within a molecule are left out
    max_distance : Å; None = half of the narrowest width of all cells, which takes a reading of its own
    bin_width : Å
    n_blocks : of the trajectory, for the error

    Raises
    ------
    ValueError
        No cell, a selection that selects nothing, or a distance beyond half the cell.
    """
    pairs = _pairs(source, first, second)
    step = max(1, _DISTANCES_AT_ONCE // len(pairs))
    counts: list[np.ndarray] = []
    weights: list[float] = []
    owners: list[int] = []
    distances = np.zeros(0)
    if max_distance is None:
        max_distance = np.floor(min(map(_limit, source)) / bin_width) * bin_width
    block = np.arange(len(source)) * n_blocks // len(source)  # of each frame
    for frames in source:
        limit = _limit(frames)
        if max_distance > limit + 1e-6:
            raise ValueError(
                f"`max_distance` {max_distance:g} Å is beyond half the cell ({limit:.3f} Å in frame "
                f"{frames.first})"
            )
        chunk = _trajectory(source, frames)
        owner = block[frames.first : frames.first + len(frames)]
        begin = 0
        while begin < len(chunk):
            # A part lies in one block.
            same = int(np.searchsorted(owner, owner[begin], side="right"))
            part = chunk[begin : min(begin + step, same)]
            nm, values = mdtraj.compute_rdf(
                part,
                pairs,
                r_range=(0.0, max_distance / ANGSTROM_PER_NM),
                bin_width=bin_width / ANGSTROM_PER_NM,
            )
            distances = nm * ANGSTROM_PER_NM
            # mdtraj's normalisation of a part: the sum of inverse volumes.
            weight = float((1.0 / part.unitcell_volumes).sum())
            counts.append(weight * values)
            weights.append(weight)
            owners.append(int(owner[begin]))
            begin += len(part)
    table, shares, blocks = np.array(counts), np.array(weights), np.array(owners)
    means = np.stack([table[blocks == b].sum(0) / shares[blocks == b].sum() for b in np.unique(blocks)])
    errors = means.std(0, ddof=1) / np.sqrt(len(means)) if len(means) > 1 else None
    return RadialDistribution(distances, table.sum(0) / shares.sum(), errors, f"{first} - {second}")


def _pairs(source: TrajectorySource, first: str, second: str) -> np.ndarray:
    from openmm_les.molecules import connected_molecules

    chosen = []
    for selection in (first, second):
        try:
            found = source.topology.select(selection)
        except Exception as error:  # mdtraj compiles selections to Python, and anything may come out
            raise ValueError(f"{selection!r} is no mdtraj selection: {str(error)[:100]}") from error
        if len(found) == 0:
            raise ValueError(f"{selection!r} selects no atoms")
        chosen.append(found)
    pairs = source.topology.select_pairs(*chosen)
    molecules = connected_molecules(source.bonds, source.topology.n_atoms)
    pairs = pairs[molecules[pairs[:, 0]] != molecules[pairs[:, 1]]]
    if len(pairs) == 0:
        raise ValueError(f"{first!r} and {second!r} have no pair in different molecules")
    return pairs


def _limit(frames: Frames) -> float:
    """Half of the narrowest width of the cells, Å."""
    import torch

    if frames.cells is None:
        raise ValueError("the trajectory has no unit cell, which g(r) needs")
    return min(0.5 * float(perpendicular_widths(torch.from_numpy(cell)).min()) for cell in frames.cells)


def _trajectory(source: TrajectorySource, frames: Frames) -> mdtraj.Trajectory:
    assert frames.cells is not None
    trajectory = mdtraj.Trajectory(frames.positions / ANGSTROM_PER_NM, source.topology)
    trajectory.unitcell_vectors = frames.cells / ANGSTROM_PER_NM
    return trajectory


__all__ = ["RadialDistribution", "radial_distribution"]
