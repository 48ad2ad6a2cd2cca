"""Labelled configurations: reading, checking, splitting, reference energies.

Units are fixed: Å, eV, eV/Å, e, e·Å. Files in others are converted before they come here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import ase.io
import h5py
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from openmm_les.elements import symbol
from openmm_les.exceptions import DataError

logger = logging.getLogger(__name__)

HDF5_SUFFIXES = (".h5", ".hdf5")
SPLITS = ("train", "valid", "test")


@dataclass
class Configurations:
    """Configurations as flat arrays: atoms of configuration c are ``offsets[c]:offsets[c + 1]``."""

    offsets: np.ndarray
    """[n + 1], int64"""
    numbers: np.ndarray
    """[n_atoms], int64 atomic numbers"""
    positions: np.ndarray
    """[n_atoms, 3], Å"""
    forces: np.ndarray
    """[n_atoms, 3], eV/Å"""
    energy: np.ndarray
    """[n], eV"""
    cell: np.ndarray
    """[n, 3, 3], Å, rows are vectors; zeros: isolated"""
    total_charge: np.ndarray
    """[n], e"""
    dipole: np.ndarray
    """[n, 3], e·Å; NaN where there is no label"""
    group: np.ndarray
    """[n], str: the kind of configuration, for errors by group"""
    name: np.ndarray
    """[n], str: the molecule, with an index after a slash where there are several"""
    split: np.ndarray
    """[n], str: train, valid, test, or empty where the file does not say"""

    def __len__(self) -> int:
        return len(self.energy)

    @property
    def sizes(self) -> np.ndarray:
        """Atoms of each configuration, [n]."""
        return np.diff(self.offsets)

    def atoms_of(self, index: int) -> slice:
        """Atoms of one configuration, as a slice into the flat arrays."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def per_atom(self, values: np.ndarray) -> np.ndarray:
        """``values`` [n, ...] of configurations repeated for their atoms, [n_atoms, ...]."""
        return np.repeat(values, self.sizes, axis=0)

    def select(self, chosen: np.ndarray) -> Configurations:
        """The configurations of a boolean mask [n] or of indices, in order."""
        indices = np.arange(len(self))[chosen]
        parts = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in indices]
        atoms = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        taken = {
            f.name: getattr(self, f.name)[atoms if f.name in _ATOM_FIELDS else indices]
            for f in fields(self)
            if f.name != "offsets"
        }
        sizes = self.sizes[indices]
        return Configurations(offsets=np.concatenate([[0], np.cumsum(sizes)]), **taken)


_ATOM_FIELDS = ("numbers", "positions", "forces")


def concatenate(parts: Sequence[Configurations]) -> Configurations:
    """Several sets one after the other."""
    joined = {
        f.name: np.concatenate([getattr(p, f.name) for p in parts])
        for f in fields(Configurations)
        if f.name != "offsets"
    }
    sizes = np.concatenate([p.sizes for p in parts])
    return Configurations(offsets=np.concatenate([[0], np.cumsum(sizes)]), **joined)


def read_configurations(
    path: str | Path, *, energy_key: str = "energy", forces_key: str = "forces"
) -> Configurations:
    """Labelled configurations of an HDF5 file (flat arrays) or of anything `ase.io` reads.

    Parameters
    ----------
    path : ``.h5`` / ``.hdf5``, or a format of ASE such as extended XYZ
    energy_key, forces_key : names of the labels, eV and eV/Å

    Raises
    ------
    DataError
        The file is missing, damaged, of another layout, or has no such labels.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no data file {path}")
    if path.suffix in HDF5_SUFFIXES:
        return read_hdf5(path, energy_key=energy_key, forces_key=forces_key)
    return read_ase(path, energy_key=energy_key, forces_key=forces_key)


def read_hdf5(path: Path, *, energy_key: str = "energy", forces_key: str = "forces") -> Configurations:
    """Configurations of a file of flat arrays: the fields of `Configurations`, by name.

    ``atomic_numbers``, ``positions``, ``offsets`` and both labels must be there; ``cell``,
    ``total_charge``, ``dipole``, ``group``, ``name`` and ``split`` may be.
    """
    try:
        with h5py.File(path, "r") as file:
            arrays = {key: item[()] for key, item in file.items() if isinstance(item, h5py.Dataset)}
    except OSError as error:
        raise DataError(f"{path} is no readable HDF5 file: {error}") from error
    required = ("offsets", "atomic_numbers", "positions", energy_key, forces_key)
    missing = [key for key in required if key not in arrays]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays)) or 'nothing'}"
        )
    n = len(arrays["offsets"]) - 1
    offsets = arrays["offsets"].astype(np.int64)
    n_atoms = len(arrays["atomic_numbers"])
    if n < 1 or offsets[0] != 0 or (np.diff(offsets) < 1).any() or offsets[-1] != n_atoms:
        raise DataError(f"`offsets` of {path} do not rise from 0 to its {n_atoms} atoms")
    blank = np.full(n, "")
    configurations = Configurations(
        offsets=offsets,
        numbers=arrays["atomic_numbers"].astype(np.int64),
        positions=arrays["positions"].astype(np.float64),
        forces=arrays[forces_key].astype(np.float64),
        energy=arrays[energy_key].astype(np.float64),
        cell=arrays.get("cell", np.zeros((n, 3, 3))).astype(np.float64),
        total_charge=arrays.get("total_charge", np.zeros(n)).astype(np.float64),
        dipole=arrays.get("dipole", np.full((n, 3), np.nan)).astype(np.float64),
        group=_strings(arrays.get("group", np.full(n, path.stem))),
        name=_strings(arrays.get("name", blank)),
        split=_strings(arrays.get("split", blank)),
    )
    for f in fields(Configurations):
        value = getattr(configurations, f.name)
        length = n_atoms if f.name in _ATOM_FIELDS else n
        if f.name != "offsets" and value.shape != (length, *_TRAILING.get(f.name, ())):
            raise DataError(f"`{f.name}` of {path} has shape {list(value.shape)}, want {length} first")
    return configurations


_TRAILING = {"positions": (3,), "forces": (3,), "cell": (3, 3), "dipole": (3,)}


def read_ase(path: Path, *, energy_key: str = "energy", forces_key: str = "forces") -> Configurations:
    """Configurations of a file that `ase.io` reads, as extended XYZ.

    ``total_charge`` (or ``charge``), ``dipole`` (eÅ), ``group`` (or ``config_type``), ``name`` and
    ``split`` are read from the comment line where they are.
    """
    try:
        frames = ase.io.read(path, index=":")
    except Exception as error:  # ASE's readers raise whatever their parsing meets
        raise DataError(f"{path} cannot be read: {error}") from error
    if not frames:
        raise DataError(f"{path} holds no configuration")
    rows = []
    for i, atoms in enumerate(frames):
        labels = {**atoms.info, **atoms.arrays}
        if isinstance(atoms.calc, SinglePointCalculator):
            labels.update(atoms.calc.results)
        for key in (energy_key, forces_key):
            if key not in labels:
                raise DataError(
                    f"configuration {i} of {path} has no `{key}`; it has {', '.join(sorted(labels))}"
                )
        rows.append((atoms, labels))

    def label(*keys: str, default: Any) -> list[Any]:
        """The first of ``keys`` that each configuration has."""
        return [next((found[key] for key in keys if key in found), default) for _, found in rows]

    missing = [np.nan] * 3
    forces = [np.asarray(found[forces_key], dtype=np.float64).reshape(-1, 3) for _, found in rows]
    dipoles = [np.asarray(d, dtype=np.float64).reshape(3) for d in label("dipole", default=missing)]
    names = [name or atoms.get_chemical_formula() for name, atoms in zip(label("name", default=""), frames)]
    return Configurations(
        offsets=np.concatenate([[0], np.cumsum([len(a) for a in frames])]).astype(np.int64),
        numbers=np.concatenate([a.numbers for a in frames]).astype(np.int64),
        positions=np.concatenate([a.positions for a in frames]),
        forces=np.concatenate(forces),
        energy=np.array([float(found[energy_key]) for _, found in rows]),
        cell=np.stack([np.asarray(a.cell) if a.pbc.all() else np.zeros((3, 3)) for a in frames]),
        total_charge=np.array(label("total_charge", "charge", default=0.0), dtype=np.float64),
        dipole=np.stack(dipoles),
        group=np.array(label("group", "config_type", default=path.stem), dtype=str),
        name=np.array(names, dtype=str),
        split=np.array(label("split", default=""), dtype=str),
    )


def level_of_theory(paths: Sequence[str | Path]) -> str:
    """Levels of theory that HDF5 files name in their ``level`` attribute, empty where none does."""
    levels = []
    for path in map(Path, paths):
        if path.suffix in HDF5_SUFFIXES:
            with h5py.File(path, "r") as file:
                levels.append(str(file.attrs.get("level", "")))
    return ", ".join(sorted({level for level in levels if level}))


def _strings(values: np.ndarray) -> np.ndarray:
    """Bytes of HDF5 as str."""
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values])


@dataclass
class Report:
    """What a data set holds and what was taken out of it."""

    n_configurations: int
    n_atoms: int
    elements: list[int]
    groups: dict[str, int]
    n_periodic: int
    n_charged: int
    n_dipoles: int
    rms_force: float
    dropped: dict[str, int] = field(default_factory=dict)
    """reason: configurations taken out"""

    def lines(self) -> Iterator[str]:
        """The report as text."""
        yield (
            f"{self.n_configurations} configurations, {self.n_atoms} atoms, "
            f"{self.n_periodic} periodic, {self.n_charged} charged"
        )
        yield f"elements {' '.join(symbol(z) for z in self.elements)}; rms force {self.rms_force:.2f} eV/Å"
        yield "groups " + ", ".join(f"{name} {count}" for name, count in self.groups.items())
        for reason, count in self.dropped.items():
            yield f"dropped {count}: {reason}"


def check_configurations(
    configurations: Configurations, *, max_force: float = 10.0, elements: Sequence[int] = ()
) -> tuple[Configurations, Report]:
    """Data fit for training, and what they hold.

    Parameters
    ----------
    configurations : as read
    max_force : eV/Å; configurations with a larger force on an atom are dropped
    elements : atomic numbers a model knows; empty: any

    Raises
    ------
    DataError
        NaN or infinite labels or positions, an impossible atomic number, an element the model
        does not know, atoms on top of each other, labels in other units, or nothing left.
    """
    c = configurations
    for name in ("positions", "forces", "energy", "cell", "total_charge"):
        values = getattr(c, name)
        bad = ~np.isfinite(values).reshape(len(values), -1).all(1)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            where = first if len(values) == len(c) else int(np.searchsorted(c.offsets, first, "right")) - 1
            raise DataError(
                f"`{name}` holds NaN or infinite values, first in configuration {where} ({c.name[where]})"
            )
    present = np.unique(c.numbers)
    if present[0] < 1 or present[-1] > 118:
        raise DataError(f"atomic numbers must lie between 1 and 118, got {present[0]} to {present[-1]}")
    unknown = sorted(set(present.tolist()) - set(elements)) if len(elements) else []
    if unknown:
        raise DataError(
            f"the data hold {' '.join(map(symbol, unknown))}; "
            f"the model knows {' '.join(map(symbol, elements))}"
        )
    largest = np.maximum.reduceat(np.linalg.norm(c.forces, axis=1), c.offsets[:-1])  # [n]
    if max_force <= 0.0:
        raise DataError(f"`max_force` must be positive, got {max_force}")
    kept = largest <= max_force
    dropped = {}
    if not kept.all():
        dropped[f"a force above {max_force:g} eV/Å"] = int((~kept).sum())
        if kept.mean() < 0.5:
            raise DataError(
                f"{(~kept).sum()} of {len(c)} configurations have forces above {max_force:g} eV/Å: "
                "are they in eV/Å? (raise --max-force if so)"
            )
        c = c.select(kept)
    groups, counts = np.unique(c.group, return_counts=True)
    report = Report(
        n_configurations=len(c),
        n_atoms=int(c.offsets[-1]),
        elements=present.tolist(),
        groups={str(g): int(k) for g, k in zip(groups, counts)},
        n_periodic=int((c.cell != 0.0).any((1, 2)).sum()),
        n_charged=int((c.total_charge != 0.0).sum()),
        n_dipoles=int(np.isfinite(c.dipole).all(1).sum()),
        rms_force=float(np.sqrt((c.forces**2).sum(1).mean())),
        dropped=dropped,
    )
    return c, report


def split_configurations(
    configurations: Configurations, *, valid_fraction: float = 0.1, seed: int = 0
) -> Configurations:
    """The same with a split for everyone: the file's own, or drawn by molecule.

    The molecule is the part of ``name`` before the slash. With fewer than ten molecules frames are
    drawn instead, and a warning says so.
    """
    if (configurations.split != "").all():
        return configurations
    if not 0.0 < valid_fraction < 1.0:
        raise DataError(f"`valid_fraction` must lie between 0 and 1, got {valid_fraction}")
    n = len(configurations)
    if n < 2:
        raise DataError("one configuration cannot be split into training and validation")
    molecules = np.array([name.split("/")[0] for name in configurations.name])
    if len(np.unique(molecules)) < 10:
        logger.warning("fewer than ten molecules: validation frames are drawn at random")
        molecules = np.arange(n).astype(str)
    kinds = np.unique(molecules)
    held_out = np.random.default_rng(seed).permutation(kinds)[: max(1, round(valid_fraction * len(kinds)))]
    drawn = np.where(np.isin(molecules, held_out), "valid", "train")
    return replace(configurations, split=np.where(configurations.split == "", drawn, configurations.split))


def fit_reference_energies(configurations: Configurations, elements: Sequence[int]) -> np.ndarray:
    """Energy per atom of each element that explains the total energies best, [n_elements] in eV.

    Least squares; elements that only occur in fixed proportion get the solution of least norm.
    """
    owner = np.repeat(np.arange(len(configurations)), configurations.sizes)
    counts = np.zeros((len(configurations), 119))
    np.add.at(counts, (owner, configurations.numbers), 1.0)
    solution, _, _, _ = np.linalg.lstsq(counts[:, list(elements)], configurations.energy, rcond=None)
    return solution


__all__ = [
    "Configurations",
    "Report",
    "check_configurations",
    "concatenate",
    "fit_reference_energies",
    "level_of_theory",
    "read_ase",
    "read_configurations",
    "read_hdf5",
    "split_configurations",
]
