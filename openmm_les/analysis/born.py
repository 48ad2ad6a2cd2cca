"""Born effective charges of trajectories, on disk and summed up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openmm_les.analysis.charges import ChargeModel, sum_rule_violation
from openmm_les.analysis.trajectories import TrajectorySource
from openmm_les.elements import symbol
from openmm_les.records import Quantity, RecordWriter

BORN = "particles/atoms/born_charge"
_SAMPLES = 200  # frames kept for distributions


@dataclass(frozen=True)
class BornStatistics:
    """What the Born charges of a trajectory come down to."""

    mean: np.ndarray
    """[n_atoms, 3, 3], e, [polarisation, displacement], in the axes of the trajectory"""
    isotropic: dict[str, np.ndarray]
    """tr Z/3 in e by element, of all its atoms in up to 200 frames"""
    sum_rule_violation: float
    """e, largest component of Σ_i Z_i − Q·1 in any frame"""


def compute_born_charges(
    source: TrajectorySource, model: ChargeModel, *, output: str | Path | None = None
) -> BornStatistics:
    """Born charges of every frame; `ChargeModel.born_charges` has the formula.

    Parameters
    ----------
    source : frames
    model : bound to the same atoms
    output : H5MD file for ``particles/atoms/born_charge``, [n_frames, n_atoms, 3, 3] in e
    """
    writer = None
    if output is not None:
        quantity = Quantity(BORN, (model.n_atoms, 3, 3), "e", "f4")
        writer = RecordWriter(output, [quantity], {"epsilon_infinity": model.epsilon_infinity})
    total = np.zeros((model.n_atoms, 3, 3))
    samples: list[np.ndarray] = []
    worst = 0.0
    step = max(1, len(source) // _SAMPLES)
    for frames in source:
        born = model.born_charges(frames.positions, frames.cells)
        total += born.sum(0)
        violation = sum_rule_violation(born, model.factor * model.total_charge)
        worst = max(worst, float(violation.max()))
        samples.append(born[(-frames.first) % step :: step].trace(axis1=2, axis2=3) / 3.0)
        if writer is not None:
            writer.append(frames.first + np.arange(len(frames)), frames.times, {BORN: born})
    if writer is not None:
        writer.close()
    isotropic = np.concatenate(samples)
    return BornStatistics(
        mean=total / len(source),
        isotropic={
            symbol(int(z)): isotropic[:, model.numbers == z].ravel() for z in np.unique(model.numbers)
        },
        sum_rule_violation=worst,
    )


__all__ = ["BORN", "BornStatistics", "compute_born_charges"]
