"""Dipole moments of molecules and of the cell, and their record in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from openmm_les.analysis.charges import ChargeModel
from openmm_les.analysis.trajectories import Frames, TrajectorySource, uniform_spacing
from openmm_les.records import Quantity, RecordWriter, read_record, record_attributes, record_names

DIPOLE = Quantity("observables/dipole", (3,), "e angstrom")
CURRENT = Quantity("observables/current", (3,), "e angstrom fs-1")
VOLUME = Quantity("observables/volume", (), "angstrom+3")


@dataclass(frozen=True)
class DipoleSeries:
    """The dipole moment of all atoms against time."""

    times: np.ndarray
    """[n_frames], ps"""
    dipoles: np.ndarray
    """[n_frames, 3], e·Å"""
    volumes: np.ndarray | None = None
    """[n_frames], Å³; None = isolated"""
    currents: np.ndarray | None = None
    """[n_frames, 3], e·Å/fs, dM/dt from Born charges and velocities"""
    epsilon_infinity: float = 1.0
    """Whose square root is already in the dipoles"""
    ions: int = 0
    """Molecules with a charge of their own"""

    def __len__(self) -> int:
        return len(self.times)

    def spacing(self) -> float:
        """Time between frames, ps; ValueError where it is not even."""
        return uniform_spacing(self.times)

    def __getitem__(self, kept: Any) -> DipoleSeries:
        """The frames of a slice or a mask."""
        return DipoleSeries(
            self.times[kept],
            self.dipoles[kept],
            None if self.volumes is None else self.volumes[kept],
            None if self.currents is None else self.currents[kept],
            self.epsilon_infinity,
            self.ions,
        )

    def since(self, time: float) -> DipoleSeries:
        """The frames from a time (ps) after the first one on."""
        kept = self.times - self.times[0] >= time
        if not kept.any():
            raise ValueError(f"the dipoles span {self.times[-1] - self.times[0]:g} ps, less than {time:g} ps")
        return self[kept]

    def save(self, path: str | Path) -> None:
        """Write as H5MD, in the layout of the reporters."""
        quantities, values = [DIPOLE], {DIPOLE.name: self.dipoles}
        for quantity, value in ((VOLUME, self.volumes), (CURRENT, self.currents)):
            if value is not None:
                quantities.append(quantity)
                values[quantity.name] = value
        attributes = {"epsilon_infinity": self.epsilon_infinity, "ions": self.ions}
        with RecordWriter(path, quantities, attributes) as writer:
            writer.append(np.arange(len(self)), self.times, values)

    @classmethod
    def load(cls, path: str | Path) -> DipoleSeries:
        """What `save`, or a `DipoleReporter`, wrote.

        Raises
        ------
        FileNotFoundError, ValueError
            No such file; a file without dipoles.
        """
        dipole = read_record(path, DIPOLE.name)
        names = record_names(path)
        volumes = read_record(path, VOLUME.name).value if VOLUME.name in names else None
        currents = read_record(path, CURRENT.name).value if CURRENT.name in names else None
        if volumes is not None and not (volumes > 0.0).all():
            volumes = None
        attributes = record_attributes(path)
        epsilon_infinity, ions = (
            float(attributes.get("epsilon_infinity", 1.0)),
            int(attributes.get("ions", 0)),
        )
        return cls(dipole.time, dipole.value, volumes, currents, epsilon_infinity, ions)


class MoleculeSums:
    """Sums over the atoms of each molecule.

    Parameters
    ----------
    molecules : [n_atoms], index of each atom's molecule
    masses : [n_atoms], Da
    """

    def __init__(self, molecules: np.ndarray, masses: np.ndarray) -> None:
        n_atoms, n_molecules = len(molecules), int(molecules.max()) + 1
        entries = (np.ones(n_atoms), (molecules, np.arange(n_atoms)))
        self._matrix = csr_array(entries, shape=(n_molecules, n_atoms))
        self.molecules = molecules
        self.masses = masses
        self.molecule_masses = self._matrix @ masses

    def sum(self, values: np.ndarray) -> np.ndarray:
        """[n_frames, n_atoms, ...] to [n_frames, n_molecules, ...]."""
        moved = np.moveaxis(values, 1, 0)
        flat = self._matrix @ moved.reshape(len(moved), -1)
        return np.moveaxis(flat.reshape(-1, *moved.shape[1:]), 0, 1)

    def centers(self, positions: np.ndarray) -> np.ndarray:
        """Centres of mass, [n_frames, n_molecules, 3]."""
        return self.sum(positions * self.masses[:, None]) / self.molecule_masses[:, None]


class CellDipole:
    """Dipole of all atoms, on one branch from the first frame to the last.

    Neutral molecules, each in one piece, have dipoles that do not depend on where they lie. Ions add
    charge times place: their places are followed across periodic boundaries by the nearest image
    from frame to frame, which is right as long as none moves half a cell between two frames. A net
    charge is taken about the centre of mass.

    Parameters
    ----------
    sums : of the molecules
    """

    def __init__(self, sums: MoleculeSums) -> None:
        self.sums = sums
        self._last: np.ndarray | None = None  # [n_molecules, 3], as they lie in their cell
        self._unwrapped: np.ndarray | None = None

    def update(
        self,
        charges: np.ndarray,
        positions: np.ndarray,
        cells: np.ndarray | None,
        atomic_dipoles: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Dipoles of the next frames, in order.

        Parameters
        ----------
        charges : [n_frames, n_atoms], e
        positions : [n_frames, n_atoms, 3], Å, every molecule in one piece
        cells : [n_frames, 3, 3], Å, or None
        atomic_dipoles : [n_frames, n_atoms, 3], e·Å, of single atoms; None = none

        Returns
        -------
        cell : [n_frames, 3], e·Å
        molecules : [n_frames, n_molecules, 3], e·Å, about their centres of mass
        """
        sums = self.sums
        centers = sums.centers(positions)
        arms = positions - centers[:, sums.molecules]
        moments = charges[:, :, None] * arms
        dipoles = sums.sum(moments if atomic_dipoles is None else moments + atomic_dipoles)
        places = self._follow(centers, cells)
        net = sums.sum(charges)  # [n_frames, n_molecules]
        weights = sums.molecule_masses / sums.molecule_masses.sum()
        middle = (places * weights[:, None]).sum(1)  # [n_frames, 3]
        cell = dipoles.sum(1) + (net[:, :, None] * (places - middle[:, None])).sum(1)
        return cell, dipoles

    def _follow(self, centers: np.ndarray, cells: np.ndarray | None) -> np.ndarray:
        """Centres without jumps, [n_frames, n_molecules, 3]."""
        if cells is None:
            return centers
        if self._last is None or self._unwrapped is None:
            self._last = self._unwrapped = centers[0]
        moves = np.diff(np.concatenate([self._last[None], centers]), axis=0)
        moves -= np.round(moves @ np.linalg.inv(cells)) @ cells
        places = self._unwrapped + np.cumsum(moves, axis=0)
        self._last, self._unwrapped = centers[-1], places[-1]
        return places


def compute_dipoles(
    source: TrajectorySource,
    model: ChargeModel,
    *,
    currents: bool = False,
    charges: np.ndarray | None = None,
    molecules_to: str | Path | None = None,
    each: Callable[[Frames, np.ndarray], None] | None = None,
) -> DipoleSeries:
    """Dipole of all atoms in every frame of a trajectory.

    Parameters
    ----------
    source : frames; for ``currents`` with velocities
    model : bound to the same atoms
    currents : also dM/dt = Σ_i Z_i·v_i − Q·v, with Born charges, net charge and centre of mass
    charges : [n_atoms], e, fixed charges to be used instead of the model's
    molecules_to : H5MD file for the dipoles of the molecules in every frame
    each : called with frames and the dipoles of their molecules, [n_frames, n_molecules, 3] in e·Å

    Raises
    ------
    ValueError
        ``currents`` without velocities; in a cell, a model that lets charge flow between molecules.
    """
    if currents and not source.velocities:
        raise ValueError("`currents` needs velocities: read the trajectory with `velocities=True`")
    sums = MoleculeSums(model.molecules, model.masses)
    cell_dipole = CellDipole(sums)
    writer = None
    if molecules_to is not None:
        shape = (len(sums.molecule_masses), 3)
        quantity = Quantity("observables/molecule_dipole", shape, DIPOLE.unit, "f4")
        writer = RecordWriter(molecules_to, [quantity], {"epsilon_infinity": model.epsilon_infinity})
    rows: list[tuple[np.ndarray, ...]] = []
    for frames in source:
        atomic_dipoles = None
        if charges is None:
            if frames.cells is not None:
                model.check_dipole()
            q, atomic_dipoles = model.moments(frames.positions, frames.cells)
        else:
            q = np.broadcast_to(charges, frames.positions.shape[:2])
        cell, of_molecules = cell_dipole.update(q, frames.positions, frames.cells, atomic_dipoles)
        current = np.zeros((len(frames), 0))
        if currents and frames.velocities is not None:
            born = model.born_charges(frames.positions, frames.cells)
            current = np.einsum("fiab,fib->fa", born, frames.velocities)
            drift = np.einsum("i,fia->fa", model.masses, frames.velocities) / model.masses.sum()
            current -= model.factor * model.total_charge * drift
        volumes = np.zeros(0) if frames.volumes is None else frames.volumes
        rows.append((frames.times, cell, volumes, current))
        if writer is not None:
            steps = frames.first + np.arange(len(frames))
            writer.append(steps, frames.times, {"observables/molecule_dipole": of_molecules})
        if each is not None:
            each(frames, of_molecules)
    if writer is not None:
        writer.close()
    times, dipoles, volumes, found = (np.concatenate(column) for column in zip(*rows))
    return DipoleSeries(
        times,
        dipoles,
        volumes if len(volumes) else None,
        found if currents else None,
        model.epsilon_infinity,
        model.ions,
    )


def residue_of_molecule(source: TrajectorySource, molecules: np.ndarray) -> Sequence[str]:
    """Name of each molecule: its residue's, or first and last residue's and their number."""
    atoms = list(source.topology.atoms)
    names = []
    for members in _members(molecules):
        residues = list(dict.fromkeys(atoms[i].residue for i in members))
        first, last = residues[0], residues[-1]
        names.append(first.name if len(residues) == 1 else f"{first.name}-{last.name} ({len(residues)})")
    return names


def _members(molecules: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(molecules, kind="stable")
    return np.split(order, np.cumsum(np.bincount(molecules))[:-1])


__all__ = [
    "CellDipole",
    "DipoleSeries",
    "MoleculeSums",
    "compute_dipoles",
    "residue_of_molecule",
]
