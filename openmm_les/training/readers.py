"""Labelled configurations from files of any format that is known."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import voigt_6_to_full_3x3_stress

from openmm_les.exceptions import DataError
from openmm_les.training.data import Configurations, make_configurations
from openmm_les.training.hdf5 import HDF5_SUFFIXES, read_hdf5
from openmm_les.training.labels import OWN_UNITS, FileUnits, LabelFormat, forces_from, in_born_order

logger = logging.getLogger(__name__)

_DATABASE_SUFFIXES = (".db",)


def read_configurations(
    path: str | Path, labels: LabelFormat | None = None, *, say: Callable[[str], None] = logger.info
) -> Configurations:
    """Labelled configurations of an HDF5 file, an ASE database, or anything that `ase.io` reads.

    Parameters
    ----------
    path : ``.h5`` / ``.hdf5`` (see `read_hdf5`), ``.db``, or a format of ASE such as extended XYZ
    labels : their names and units, where they are not those of the format
    say : called with a line about the units

    Raises
    ------
    DataError
        The file is missing, damaged, of another layout, has no such labels, or is periodic in
        one or two directions only.
    """
    path, labels = Path(path), labels or LabelFormat()
    if not path.is_file():
        raise DataError(f"no data file {path}")
    if path.suffix.lower() in HDF5_SUFFIXES:
        return read_hdf5(path, labels, say)
    frames = _database(path) if path.suffix.lower() in _DATABASE_SUFFIXES else _frames(path)
    if not frames:
        raise DataError(f"{path} holds no configuration")
    return _from_frames(path, frames, labels, say)


def _frames(path: Path) -> list[tuple[Atoms, dict[str, Any]]]:
    """Atoms and labels of a file that `ase.io` reads."""
    try:
        read = ase.io.read(path, index=":")
    except Exception as error:  # ASE's readers raise whatever their parsing meets
        raise DataError(f"{path} cannot be read: {error}") from error
    return [(atoms, {**atoms.info, **atoms.arrays, **_results(atoms)}) for atoms in read]


def _database(path: Path) -> list[tuple[Atoms, dict[str, Any]]]:
    """Atoms and labels of an ASE database: calculated, among its key-value pairs, or in ``data``."""
    try:
        rows = list(ase.db.connect(path).select())
        found = []
        for row in rows:
            atoms = row.toatoms()
            found.append((atoms, {**row.data, **row.key_value_pairs, **_results(atoms)}))
    except Exception as error:  # as above
        raise DataError(f"{path} cannot be read: {error}") from error
    return found


def _results(atoms: Atoms) -> dict[str, Any]:
    """Labels that the file's reader put into a calculator."""
    return dict(atoms.calc.results) if isinstance(atoms.calc, SinglePointCalculator) else {}


def _from_frames(
    path: Path, frames: list[tuple[Atoms, dict[str, Any]]], labels: LabelFormat, say: Callable[[str], None]
) -> Configurations:
    """Configurations of atoms and labels; units are those of ASE where nothing else is said."""
    units = FileUnits(path, labels, {}, OWN_UNITS)
    energy_key, forces_key = labels.energy_key or "energy", labels.forces_key or "forces"
    for key in (energy_key, forces_key):
        lacking = [i for i, (_, found) in enumerate(frames) if key not in found]
        if lacking:
            raise DataError(
                f"configuration {lacking[0]} of {path} has no `{key}` ({len(lacking)} of {len(frames)} lack "
                f"it); it has {', '.join(sorted(frames[lacking[0]][1]))}"
            )
    partly = [i for i, (atoms, _) in enumerate(frames) if atoms.pbc.any() and not atoms.pbc.all()]
    if partly:
        raise DataError(
            f"configuration {partly[0]} of {path} is periodic in one or two directions only, "
            "which the Coulomb sum does not know"
        )

    def label(asked: str, *keys: str, default: Any = None) -> list[Any]:
        """Of each configuration the label that was asked for, or the first of ``keys`` it has."""
        names = (asked,) if asked else keys
        values = [next((found[k] for k in names if k in found), default) for _, found in frames]
        if asked and all(v is default for v in values):
            there = sorted({key for _, found in frames for key in found})
            raise DataError(f"no configuration of {path} has `{asked}`; they have {', '.join(there)}")
        return values

    def scalars(values: list[Any], name: str) -> np.ndarray:
        """One number of each configuration, [n]."""
        for i, value in enumerate(values):
            try:
                float(value)
            except (TypeError, ValueError) as error:
                raise DataError(f"`{name}` of configuration {i} of {path} is no number: {value!r}") from error
        return np.array([float(value) for value in values])

    def numbers(values: list[Any], shape: tuple[int, ...], name: str) -> np.ndarray | None:
        """Labels of one shape, NaN where there is none; None where there is none at all."""
        if all(v is None for v in values):
            return None
        rows = []
        for i, value in enumerate(values):
            array = np.full(shape, np.nan) if value is None else np.asarray(value, dtype=np.float64)
            if array.shape == (6,) and shape == (3, 3):
                array = voigt_6_to_full_3x3_stress(array)
            if array.size != np.prod(shape):
                raise DataError(
                    f"`{name}` of configuration {i} of {path} has shape {list(array.shape)}, "
                    f"want {list(shape)}"
                )
            rows.append(array.reshape(shape))
        return np.stack(rows)

    length = units.factor("length")
    cells = np.stack([np.asarray(a.cell) if a.pbc.all() else np.zeros((3, 3)) for a, _ in frames]) * length
    forces = [np.asarray(found[forces_key], dtype=np.float64).reshape(-1, 3) for _, found in frames]
    dipole = numbers(label(labels.dipole_key, "dipole"), (3,), "dipole")
    stress = numbers(label(labels.stress_key, "stress"), (3, 3), "stress")
    polarizability = numbers(label(labels.polarizability_key, "polarizability"), (3, 3), "polarizability")
    charges = label(labels.charge_key) if labels.charge_key else _total_charges(path, frames)
    born = label(labels.born_charges_key, "born_charges", "bec", "born_effective_charges")
    born_rows = [
        np.full((len(atoms), 3, 3), np.nan) if z is None else in_born_order(z, labels.born_charges_order)
        for (atoms, _), z in zip(frames, born)
    ]
    configurations = make_configurations(
        np.array([len(atoms) for atoms, _ in frames]),
        np.concatenate([atoms.numbers for atoms, _ in frames]),
        np.concatenate([atoms.positions for atoms, _ in frames]) * length,
        forces_from(np.concatenate(forces), forces_key) * units.factor("force"),
        scalars([found[energy_key] for _, found in frames], energy_key) * units.factor("energy"),
        cell=cells,
        total_charge=scalars([0.0 if q is None else q for q in charges], labels.charge_key or "charge"),
        dipole=None if dipole is None else dipole * units.factor("dipole"),
        stress=None if stress is None else units.stress(stress, cells),
        born_charges=np.concatenate(born_rows),
        polarizability=polarizability,
        group=np.array(label("", "group", "config_type", default=path.stem), dtype=str),
        name=np.array(
            [n or atoms.get_chemical_formula() for n, (atoms, _) in zip(label("", "name"), frames)], dtype=str
        ),
        split=np.array(label("", "split", default=""), dtype=str),
    )
    unknown = sum(q is None for q in charges)
    say(f"{units}{f'; {unknown} without a total charge, 0 taken' if unknown else ''}")
    return configurations


def _total_charges(path: Path, frames: list[tuple[Atoms, dict[str, Any]]]) -> list[Any]:
    """Total charges as ``total_charge`` or ``charge`` say them, None where neither does."""
    charges = []
    for i, (_, found) in enumerate(frames):
        # Charges of atoms have such names, too.
        given = [found[k] for k in ("total_charge", "charge") if k in found and np.size(found[k]) == 1]
        if len(given) == 2 and given[0] != given[1]:
            raise DataError(
                f"configuration {i} of {path} has `total_charge` {given[0]} and `charge` {given[1]}: say by "
                "--charge-key which counts"
            )
        charges.append(given[0] if given else None)
    return charges


__all__ = ["read_configurations"]
