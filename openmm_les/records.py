"""Quantities against time in HDF5 that grows, survives a killed run, and can be continued.

The layout is H5MD 1.1 (de Buyl, Colberg and Höfling, Comput. Phys. Commun. 185, 1546 (2014)):
``<quantity>/value`` with its rows beside ``<quantity>/step`` and ``<quantity>/time``. Reporters
write it during a run, analysis writes and reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

TIME_UNIT = "ps"
_ROWS_PER_CHUNK = 64


@dataclass(frozen=True)
class Quantity:
    """One quantity of a file of records."""

    name: str
    """Path in the file, as ``observables/dipole`` or ``particles/ml/charge``"""
    shape: tuple[int, ...]
    """Of one row"""
    unit: str
    dtype: str = "f8"


@dataclass(frozen=True)
class Record:
    """Rows of one quantity."""

    step: np.ndarray
    """[n_rows], int64"""
    time: np.ndarray
    """[n_rows], ps"""
    value: np.ndarray
    """[n_rows, ...]"""
    unit: str


class RecordWriter:
    """Appends rows of some quantities, all of them at the same times, to a file.

    Rows are on disk when `append` returns.

    Parameters
    ----------
    path : an existing file is replaced, unless ``keep_until`` is given
    quantities : what each row holds
    attributes : of the root group, once: numbers, strings or arrays that describe the rows
    keep_until : continue an existing file after its last row at or before this step

    Raises
    ------
    ValueError
        The existing file is damaged, or holds other quantities.
    """

    def __init__(
        self,
        path: str | Path,
        quantities: Sequence[Quantity],
        attributes: Mapping[str, Any] | None = None,
        *,
        keep_until: int | None = None,
    ) -> None:
        self.path = Path(path)
        self.quantities = list(quantities)
        if keep_until is None:
            self._file = h5py.File(path, "w")
            self._create(attributes or {})
        else:
            try:
                self._file = h5py.File(path, "r+")
            except FileNotFoundError:
                raise
            except OSError as error:
                raise ValueError(f"{path} cannot be continued: {error}") from error
            self._truncate(keep_until)
        self._file.flush()

    def append(self, steps: np.ndarray, times: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Append rows: ``steps`` [k], ``times`` [k] in ps, ``values`` [k, ...] of every quantity."""
        first = self.n_rows
        last = first + len(steps)
        axis = self._file[self.quantities[0].name]
        for name, rows in (("step", steps), ("time", times)):
            axis[name].resize(last, axis=0)
            axis[name][first:last] = rows
        for quantity in self.quantities:
            dataset = self._file[quantity.name]["value"]
            dataset.resize(last, axis=0)
            dataset[first:last] = values[quantity.name]
        self._file.flush()

    @property
    def n_rows(self) -> int:
        """Rows in the file."""
        return int(self._file[self.quantities[0].name]["step"].shape[0])

    def close(self) -> None:
        """Close the file; nothing can be written afterwards."""
        self._file.close()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _create(self, attributes: Mapping[str, Any]) -> None:
        head = self._file.create_group("h5md")
        head.attrs["version"] = np.array([1, 1])
        head.create_group("creator").attrs.update({"name": "openmm-les", "version": version("openmm-les")})
        head.create_group("author").attrs["name"] = "unknown"
        self._file.attrs.update(attributes)
        step = time = None
        for quantity in self.quantities:
            group = self._file.create_group(quantity.name)
            if quantity.name.endswith("/box/edges"):
                box = {"dimension": 3, "boundary": np.array([b"periodic"] * 3)}
                group.parent.attrs.update(box)  # what H5MD asks of a box
            elif quantity.name.endswith("/position"):
                box = {"dimension": 3, "boundary": np.array([b"none"] * 3)}
                group.parent.require_group("box").attrs.update(box)
            rows = max(1, _ROWS_PER_CHUNK // max(1, int(np.prod(quantity.shape)) // 64))
            value = group.create_dataset(
                "value",
                shape=(0, *quantity.shape),
                maxshape=(None, *quantity.shape),
                chunks=(rows, *quantity.shape),
                dtype=quantity.dtype,
            )
            value.attrs["unit"] = quantity.unit
            if step is None or time is None:
                axis = {"shape": (0,), "maxshape": (None,), "chunks": (_ROWS_PER_CHUNK,)}
                step = group.create_dataset("step", dtype="i8", **axis)
                time = group.create_dataset("time", dtype="f8", **axis)
                time.attrs["unit"] = TIME_UNIT
            else:
                group["step"], group["time"] = step, time  # hard links: one axis for all

    def _truncate(self, last_step: int) -> None:
        for quantity in self.quantities:
            found = self._file.get(f"{quantity.name}/value")
            if found is None or found.shape[1:] != quantity.shape:
                self._file.close()
                raise ValueError(
                    f"{self.path} cannot be continued: it holds no {quantity.name} of shape "
                    f"{list(quantity.shape)}"
                )
        steps = self._file[self.quantities[0].name]["step"]
        lengths = [self._file[q.name]["value"].shape[0] for q in self.quantities]
        # A run killed while it wrote leaves quantities of unequal length.
        n_rows = min(int(np.searchsorted(steps[:], last_step, side="right")), *lengths)
        group = self._file[self.quantities[0].name]
        for dataset in (
            group["step"],
            group["time"],
            *(self._file[q.name]["value"] for q in self.quantities),
        ):
            dataset.resize(n_rows, axis=0)


def read_record(path: str | Path, name: str) -> Record:
    """All rows of one quantity.

    Raises
    ------
    FileNotFoundError, ValueError
        No such file; not HDF5, or without such a quantity (the message names those there are).
    """
    with _opened(path) as file:
        group = file.get(name)
        if not isinstance(group, h5py.Group) or "value" not in group:
            found = ", ".join(_names(file)) or "none"
            raise ValueError(f"{path} holds no quantity {name!r}; it holds {found}")
        value = group["value"]
        n_rows = min(group["step"].shape[0], value.shape[0])
        return Record(
            step=group["step"][:n_rows],
            time=group["time"][:n_rows],
            value=value[:n_rows],
            unit=str(value.attrs.get("unit", "")),
        )


def record_names(path: str | Path) -> list[str]:
    """Names of the quantities of a file; empty for a file of another kind."""
    with _opened(path) as file:
        return _names(file)


def record_attributes(path: str | Path) -> dict[str, Any]:
    """Attributes of the root group."""
    with _opened(path) as file:
        return dict(file.attrs)


def _opened(path: str | Path) -> h5py.File:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        try:
            return h5py.File(path, "r")
        except BlockingIOError:
            # Another process writes to it: a running simulation, whose rows are whole.
            return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise ValueError(f"{path} is not a readable HDF5 file: {error}") from error


def _names(file: h5py.File) -> list[str]:
    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and {"value", "step", "time"} <= set(item):
            found.append(name)

    file.visititems(visit)
    return found


__all__ = ["Quantity", "Record", "RecordWriter", "read_record", "record_attributes", "record_names"]
