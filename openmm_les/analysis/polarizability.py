"""Polarizabilities of trajectories, on disk and summed up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openmm_les.analysis.charges import ChargeModel
from openmm_les.analysis.trajectories import TrajectorySource
from openmm_les.records import Quantity, RecordWriter

POLARIZABILITY = "observables/polarizability"


@dataclass(frozen=True)
class PolarizabilitySeries:
    """Polarizability of all atoms together, frame by frame."""

    times: np.ndarray
    """[n_frames], ps"""
    tensors: np.ndarray
    """[n_frames, 3, 3], Å³"""

    @property
    def isotropic(self) -> np.ndarray:
        """A third of the trace, [n_frames] in Å³."""
        return self.tensors.trace(axis1=1, axis2=2) / 3.0

    @property
    def anisotropy(self) -> np.ndarray:
        """``√(3/2) |α - tr α/3|``, [n_frames] in Å³: α_∥ - α_⊥ of a tensor with an axis."""
        rest = self.tensors - self.isotropic[:, None, None] * np.eye(3)
        return np.sqrt(1.5) * np.linalg.norm(rest, axis=(1, 2))

    def save(self, path: str | Path) -> None:
        """Write ``observables/polarizability`` as H5MD."""
        quantity = Quantity(POLARIZABILITY, (3, 3), "angstrom+3")
        with RecordWriter(path, [quantity], {}) as writer:
            writer.append(np.arange(len(self.times)), self.times, {quantity.name: self.tensors})


def compute_polarizabilities(source: TrajectorySource, model: ChargeModel) -> PolarizabilitySeries:
    """Polarizability of every frame: the change of its dipole with a uniform field.

    Parameters
    ----------
    source : frames; periodic ones are taken as an isolated cluster of whole molecules, because a cell has
        a dielectric constant and no polarizability
    model : bound to the same atoms

    Raises
    ------
    ValueError
        The model does not respond to a field.
    """
    rows = [(frames.times, model.polarizabilities(frames.positions)) for frames in source]
    times, tensors = (np.concatenate(column) for column in zip(*rows))
    return PolarizabilitySeries(times, tensors)


__all__ = ["POLARIZABILITY", "PolarizabilitySeries", "compute_polarizabilities"]
