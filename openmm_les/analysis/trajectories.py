"""Frames of trajectories, chunk by chunk, in Å, with molecules whole and every problem said in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np

from openmm_les.analysis.dcd import check_dcd, dcd_spacing
from openmm_les.molecules import spanning_bonds
from openmm_les.units import ANGSTROM_PER_NM, FS_PER_PS

_HDF5 = (".h5", ".hdf5", ".lh5")
_CHUNK_COORDINATES = 600_000  # of a chunk: some tens of MB with everything made from it


@dataclass(frozen=True)
class Frames:
    """Some successive frames of a trajectory."""

    first: int
    """Number of the first frame among those that are read"""
    times: np.ndarray
    """[n_frames], ps; NaN where the file does not tell"""
    positions: np.ndarray
    """[n_frames, n_atoms, 3], Å, every molecule in one piece"""
    cells: np.ndarray | None
    """[n_frames, 3, 3], Å, rows are vectors; None = isolated"""
    velocities: np.ndarray | None
    """[n_frames, n_atoms, 3], Å/fs, where they were asked for"""

    def __len__(self) -> int:
        return len(self.times)

    @property
    def volumes(self) -> np.ndarray | None:
        """[n_frames], Å³, or None without a cell."""
        return None if self.cells is None else np.abs(np.linalg.det(self.cells))


class TrajectorySource:
    """A trajectory to be read as often as needed, in chunks of constant memory.

    Iterating yields `Frames`.

    Parameters
    ----------
    trajectory : a file that mdtraj reads, or an `mdtraj.Trajectory`
    top : topology for formats without one: a file, a topology or a trajectory
    select : mdtraj selection of whole molecules to keep
    stride : keep every so many frames
    skip, stop : read frames ``skip:stop`` of the file
    chunk : frames at a time; None = by the number of atoms
    frame_spacing : ps between the frames of the file, before ``stride``; needed where the file does
        not tell (a DCD that was not written by OpenMM), and overrides it where it does
    periodic : False ignores the cell, True asks for one
    velocities : read velocities too; only mdtraj's HDF5 files hold them
    progress : show a progress bar on stderr

    Raises
    ------
    FileNotFoundError
        A file is missing.
    ValueError
        A format or selection that cannot be used; no cell or velocities where asked for. While
        iterating: a truncated or damaged file, a topology that does not match, a molecule that is
        bonded to its own periodic image.
    """

    def __init__(
        self,
        trajectory: str | Path | mdtraj.Trajectory,
        top: str | Path | mdtraj.Trajectory | mdtraj.Topology | None = None,
        *,
        select: str = "all",
        stride: int = 1,
        skip: int = 0,
        stop: int | None = None,
        chunk: int | None = None,
        frame_spacing: float | None = None,
        periodic: bool | None = None,
        velocities: bool = False,
        progress: bool = False,
    ) -> None:
        for name, value, least in (("stride", stride, 1), ("skip", skip, 0)):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}")
        if frame_spacing is not None and not frame_spacing > 0.0:
            raise ValueError(f"`frame_spacing` must be positive, got {frame_spacing}")
        if stop is not None and stop <= skip:
            raise ValueError(f"`stop` must lie beyond `skip`, got {stop} and {skip}")
        self.loaded = trajectory if isinstance(trajectory, mdtraj.Trajectory) else None
        self.path = None if self.loaded is not None else Path(str(trajectory))
        self.name = "the trajectory" if self.path is None else str(self.path)
        self.stride, self.skip, self.stop = stride, skip, stop
        self.periodic, self.velocities, self.progress = periodic, velocities, progress
        if velocities and (self.path is None or self.path.suffix not in _HDF5):
            raise ValueError(
                f"{self.name} holds no velocities: mdtraj keeps them in its HDF5 files only (write one with "
                "mdtraj.reporters.HDF5Reporter(…, velocities=True))"
            )
        whole = self._read_topology(top)
        self.n_atoms_in_file = whole.n_atoms
        self.atoms = _selected(whole, select)
        self.topology = whole.subset(self.atoms) if len(self.atoms) < whole.n_atoms else whole
        self.bonds = topology_bonds(self.topology)
        self._tree = spanning_bonds(self.bonds, self.topology.n_atoms)
        self.n_frames = self._count_frames()
        self.chunk = chunk or self._chunk_size()
        self.frame_spacing = frame_spacing if frame_spacing is not None else self._spacing_in_header()

    def __len__(self) -> int:
        return self.n_frames

    def __iter__(self) -> Iterator[Frames]:
        if not self.progress:
            yield from self._frames()
            return
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("frames", total=self.n_frames)
            for frames in self._frames():
                yield frames
                bar.advance(task, len(frames))

    def _read_topology(self, top: Any) -> mdtraj.Topology:
        if self.loaded is not None:
            return self.loaded.topology
        assert self.path is not None
        if not self.path.is_file():
            raise FileNotFoundError(f"no such file: {self.path}")
        if top is None:
            if not _has_own_topology(self.path):
                raise ValueError(
                    f"{self.path} holds no topology: give one (`top`, --top), such as a PDB file"
                )
            top = self.path
        if isinstance(top, mdtraj.Topology):
            return top
        if isinstance(top, mdtraj.Trajectory):
            return top.topology
        if not Path(top).is_file():
            raise FileNotFoundError(f"no such file: {top}")
        try:
            return mdtraj.load_topology(str(top))
        except Exception as error:  # mdtraj's readers let any parser error through
            raise ValueError(f"{top} cannot be read as a topology: {error}") from error

    def _count_frames(self) -> int:
        """Frames that will be read; of the file, those that are whole."""
        if self.loaded is not None:
            total = self.loaded.n_frames
        else:
            assert self.path is not None
            check_dcd(self.path, self.stop)
            try:
                with mdtraj.open(str(self.path)) as file:
                    total = len(file)
            except (TypeError, NotImplementedError, AttributeError):  # formats without a length
                total = len(mdtraj.load(str(self.path), top=self._whole_topology()))
            except Exception as error:
                raise ValueError(
                    f"{self.path} cannot be read as a trajectory: {_first_line(error)}"
                ) from error
        last = total if self.stop is None else min(total, self.stop)
        count = len(range(self.skip, last, self.stride))
        if count == 0:
            raise ValueError(f"{self.name} has {total} frames: none is left from frame {self.skip} on")
        return count

    def _chunk_size(self) -> int:
        """Frames at a time, within memory and few beyond those asked for: what follows may be damaged."""
        by_atom = self.path is not None and self.path.suffix in _HDF5  # other formats read whole frames
        n_atoms = self.topology.n_atoms if by_atom else self.n_atoms_in_file
        largest = max(1, min(500, _CHUNK_COORDINATES // (3 * n_atoms)))
        n_chunks = math.ceil(self.n_frames / largest)
        exact = (size for size in range(largest, largest // 4, -1) if self.n_frames % size == 0)
        return next(exact, math.ceil(self.n_frames / n_chunks))

    def _spacing_in_header(self) -> float | None:
        if self.path is not None and self.path.suffix == ".dcd":
            return dcd_spacing(self.path)
        return None

    def _frames(self) -> Iterator[Frames]:
        done = 0
        chunks = self._chunks()
        while done < self.n_frames:
            try:
                chunk, velocities = next(chunks)
            except StopIteration:
                break
            except ValueError as error:
                if "xyz must be shape" in str(error):
                    raise ValueError(
                        f"the topology ({self.n_atoms_in_file} atoms) does not match {self.name}: {error}"
                    ) from error
                raise
            except Exception as error:
                raise ValueError(
                    f"{self.name} cannot be read beyond its first {self.skip + done * self.stride} frames or "
                    f"so ({_first_line(error)}): it is damaged or was cut off. What comes before can be read "
                    "by `stop` (--stop)"
                ) from error
            if done + len(chunk) > self.n_frames:
                chunk = chunk[: self.n_frames - done]
            if len(chunk) == 0:
                break
            yield self._finish(chunk, velocities, done)
            done += len(chunk)
        if done < self.n_frames:
            raise ValueError(f"{self.name} ends after {done} of {self.n_frames} frames: it was cut off")

    def _chunks(self) -> Iterator[tuple[mdtraj.Trajectory, np.ndarray | None]]:
        """Trajectories of the selected atoms, and velocities in nm/ps where asked for."""
        whole = self.loaded
        if self.path is not None and _is_text(self.path):
            # Read whole by mdtraj in any case, and `iterload` would pass over `skip`.
            whole = mdtraj.load(str(self.path), top=self._whole_topology())
        if whole is not None:
            for first in range(self.skip, whole.n_frames, self.chunk * self.stride):
                part = whole[first : first + self.chunk * self.stride : self.stride]
                yield part.atom_slice(self.atoms), None
            return
        assert self.path is not None
        atoms = None if len(self.atoms) == self.n_atoms_in_file else self.atoms
        if self.path.suffix in _HDF5:
            yield from _hdf5_chunks(self.path, self.topology, atoms, self)
            return
        options: dict[str, Any] = {"chunk": self.chunk, "stride": self.stride, "skip": self.skip}
        # Reading some atoms only, mdtraj would slice the topology once for every chunk.
        for part in mdtraj.iterload(str(self.path), top=self._whole_topology(), **options):
            yield part if atoms is None else part.atom_slice(atoms), None

    def _whole_topology(self) -> mdtraj.Topology:
        if self.topology.n_atoms == self.n_atoms_in_file:
            return self.topology
        return _blank_topology(self.n_atoms_in_file)

    def _finish(self, chunk: mdtraj.Trajectory, velocities: np.ndarray | None, first: int) -> Frames:
        cells = None
        vectors = chunk.unitcell_vectors
        if self.periodic is not False and vectors is not None and (np.abs(vectors) > 0.0).any():
            cells = vectors.astype(np.float64) * ANGSTROM_PER_NM
            if not (np.abs(np.linalg.det(cells)) > 1e-6).all():
                raise ValueError(f"{self.name} has a cell without volume within frames {first} and later")
            if len(self._tree):
                chunk.make_molecules_whole(inplace=True, sorted_bonds=self._tree)
        elif self.periodic:
            raise ValueError(f"{self.name} has no unit cell, which this analysis needs")
        positions = chunk.xyz.astype(np.float64) * ANGSTROM_PER_NM
        if not np.isfinite(positions).all():
            raise ValueError(f"{self.name} holds positions that are not finite, in frames {first} and later")
        if cells is not None:
            self._check_whole(positions, cells)
        times = chunk.time.astype(np.float64)
        if self.frame_spacing is not None:
            frames = self.skip + self.stride * (first + np.arange(len(chunk)))
            times = frames * self.frame_spacing
        elif self.timeless:
            times = np.full(len(chunk), np.nan)
        if velocities is not None:
            velocities = velocities[: len(chunk)].astype(np.float64) * ANGSTROM_PER_NM / FS_PER_PS
        return Frames(first, times, positions, cells, velocities)

    def _check_whole(self, positions: np.ndarray, cells: np.ndarray) -> None:
        bonds = positions[:, self.bonds[:, 1]] - positions[:, self.bonds[:, 0]]
        broken = (np.abs(np.round(bonds @ np.linalg.inv(cells))) > 0.0).any((0, 2))
        if broken.any():
            first, second = (self.topology.atom(int(i)) for i in self.bonds[np.argmax(broken)])
            raise ValueError(
                f"the bond {first} to {second} is longer than half the cell once its molecule is made whole: "
                "the molecule is bonded to its own periodic image, or the topology does not match"
            )

    @property
    def timeless(self) -> bool:
        """Whether the file is of a format without times, and nobody has given their spacing."""
        formats = (
            ".dcd", ".pdb", ".gz", ".cif", ".mmcif", ".xyz", ".binpos", ".mdcrd", ".crd", ".arc",
            ".lammpstrj",
        )  # fmt: skip
        return self.frame_spacing is None and self.path is not None and self.path.suffix in formats

    def uniform_spacing(self) -> float:
        """Time between successive frames that are read, ps.

        Raises
        ------
        ValueError
            The file does not tell it, or frames are unevenly spaced.
        """
        if self.frame_spacing is not None:
            return self.frame_spacing * self.stride
        if self.timeless:
            raise ValueError(
                f"{self.path} does not tell the time between its frames: give it (`frame_spacing`, "
                "--frame-spacing)"
            )
        times = np.concatenate([frames.times for frames in self._frames()])
        return uniform_spacing(times, self.name)


def uniform_spacing(times: np.ndarray, name: str = "`times`") -> float:
    """Spacing of evenly spaced ``times`` [n], in their unit; ValueError where they are not even."""
    steps = np.diff(times)
    if np.isnan(times).any():
        raise ValueError(
            f"{name}: the file does not tell the times of its frames: give their spacing (`frame_spacing`, "
            "--frame-spacing)"
        )
    if len(steps) == 0:
        raise ValueError(f"{name}: one frame has no spacing in time")
    spacing = float(np.median(steps))
    # Formats that hold times in single precision round them to ever coarser ones.
    single = times.astype(np.float32)
    rounding = 2.0 * float(np.spacing(np.abs(single).max())) if (single == times).all() else 0.0
    if not spacing > 0.0 or np.abs(steps - spacing).max() > max(0.01 * spacing, rounding):
        raise ValueError(
            f"{name}: frames are not evenly spaced in time (steps from {steps.min():g} to {steps.max():g}); "
            "where they are, their spacing may be given (`frame_spacing`, --frame-spacing)"
        )
    return float((times[-1] - times[0]) / len(steps))


def topology_bonds(topology: mdtraj.Topology) -> np.ndarray:
    """Bonded pairs of atoms, [n_bonds, 2] int64."""
    pairs = [(bond.atom1.index, bond.atom2.index) for bond in topology.bonds]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _hdf5_chunks(
    path: Path, topology: mdtraj.Topology, atoms: np.ndarray | None, source: TrajectorySource
) -> Iterator[tuple[mdtraj.Trajectory, np.ndarray | None]]:
    with mdtraj.formats.HDF5TrajectoryFile(str(path)) as file:
        if source.velocities and "/velocities" not in file._handle:
            raise ValueError(
                f"{path} holds no velocities: write it with mdtraj.reporters.HDF5Reporter(…, velocities=True)"
            )
        file.seek(source.skip)
        while True:
            # Counts frames before the stride, unlike mdtraj's other formats.
            wanted = source.chunk * source.stride
            read = file.read(n_frames=wanted, stride=source.stride, atom_indices=atoms)
            if len(read) == 0 or len(read.coordinates) == 0:
                return
            times = np.zeros(len(read.coordinates)) if read.time is None else read.time
            chunk = mdtraj.Trajectory(read.coordinates, topology, times, read.cell_lengths, read.cell_angles)
            yield chunk, read.velocities if source.velocities else None


def _selected(topology: mdtraj.Topology, selection: str) -> np.ndarray:
    """Indices of the selected atoms; they must be whole molecules."""
    try:
        atoms = topology.select(selection)
    except Exception as error:  # mdtraj compiles selections to Python, and anything may come out
        raise ValueError(f"`select` {selection!r} is no mdtraj selection: {_first_line(error)}") from error
    if len(atoms) == 0:
        raise ValueError(f"`select` {selection!r} selects no atoms")
    inside = np.zeros(topology.n_atoms, dtype=bool)
    inside[atoms] = True
    for bond in topology.bonds:
        if any(atom.element is None or atom.element.atomic_number < 1 for atom in bond):
            continue  # virtual sites, which some formats bond, may be left out
        if inside[bond.atom1.index] != inside[bond.atom2.index]:
            raise ValueError(
                f"`select` {selection!r} cuts the bond {bond.atom1} to {bond.atom2}: charges are those of "
                "whole molecules"
            )
    return np.asarray(atoms)


def _has_own_topology(path: Path) -> bool:
    return path.suffix in _HDF5 or _is_text(path)


def _is_text(path: Path) -> bool:
    """Whether a file is one of structures: PDB, PDBx or GRO."""
    return path.suffix in (".pdb", ".cif", ".mmcif", ".gro") or path.name.endswith(".pdb.gz")


def _blank_topology(n_atoms: int) -> mdtraj.Topology:
    """A topology of so many atoms and nothing else, quick to slice."""
    topology = mdtraj.Topology()
    residue = topology.add_residue("ALL", topology.add_chain())
    for _ in range(n_atoms):
        topology.add_atom("X", mdtraj.element.virtual, residue)
    return topology


def _first_line(error: BaseException) -> str:
    lines: Sequence[str] = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:150]


__all__ = [
    "Frames",
    "TrajectorySource",
    "topology_bonds",
    "uniform_spacing",
]
