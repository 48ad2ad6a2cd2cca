"""Names and units of labels: what flags say, what files declare, what a format means otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from openmm_les.exceptions import DataError
from openmm_les.training.label_units import is_unit_of, unit_factor

BORN_CHARGES_ORDERS = ("polarisation-displacement", "displacement-polarisation")
OWN_UNITS = {
    "energy": "eV",
    "length": "Å",
    "force": "eV/Å",
    "dipole": "e*Å",
    "stress": "eV/Å^3",
}


@dataclass(frozen=True)
class LabelFormat:
    """How labels are named and measured; empty: as the file or its format says."""

    energy_key: str = ""
    forces_key: str = ""
    """a name with "grad" in it is read as the gradient, minus the force"""
    stress_key: str = ""
    dipole_key: str = ""
    born_charges_key: str = ""
    polarizability_key: str = ""
    """Å³"""
    charge_key: str = ""
    """total charge, e"""
    energy_unit: str = ""
    length_unit: str = ""
    """of positions and cells"""
    force_unit: str = ""
    stress_unit: str = ""
    """a unit of energy: the label is dE/dstrain, the volume times the stress"""
    dipole_unit: str = ""
    born_charges_order: str = BORN_CHARGES_ORDERS[0]
    """of the last two axes of Born charges, [atom, …, …] or 9 numbers per atom"""

    def __post_init__(self) -> None:
        for kind in ("energy", "length", "force", "dipole"):
            if unit := getattr(self, f"{kind}_unit"):
                unit_factor(unit, kind)
        if self.stress_unit and not is_unit_of(self.stress_unit, "energy"):
            unit_factor(self.stress_unit, "stress")
        if self.born_charges_order not in BORN_CHARGES_ORDERS:
            raise DataError(
                f"`born_charges_order` must be one of {', '.join(BORN_CHARGES_ORDERS)}, "
                f"got {self.born_charges_order!r}"
            )

    def unit(self, kind: str) -> str:
        """Unit that flags give for a kind of quantity, empty where none does."""
        return str(getattr(self, f"{kind}_unit"))

    def key(self, label: str) -> str:
        """Name that flags give for a label, empty where none does."""
        return str(getattr(self, f"{label}_key"))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the fields."""
        return tuple(field.name for field in fields(cls))


class FileUnits:
    """Units of one file, with a line that says where each came from.

    Parameters
    ----------
    path : of the file, for messages
    flags : what the user said
    declared : kind of quantity: unit, as the file says
    default : kind of quantity: unit, by the convention of the format; None: there is none
    """

    def __init__(
        self,
        path: Path,
        flags: LabelFormat,
        declared: Mapping[str, str],
        default: Mapping[str, str] | None = None,
    ) -> None:
        self.path, self.flags, self.declared, self.default = path, flags, declared, default
        self._used: dict[str, list[str]] = {}

    def unit(self, kind: str) -> str:
        """Unit of a kind of quantity.

        Raises
        ------
        DataError
            Nobody says, or the file and a flag disagree.
        """
        flag, declared = self.flags.unit(kind), self.declared.get(kind, "")
        if flag and declared and flag != declared and self._size(flag, kind) != self._size(declared, kind):
            raise DataError(f"{self.path} declares {kind} in {declared}, --{kind}-unit says {flag}")
        if flag or declared:
            unit, source = flag or declared, "a flag says" if not declared else "the file says"
        else:
            # Someone whose energies are in other units has hardly got forces in eV/Å.
            others = [k for k in ("energy", "force") if k != kind and self.flags.unit(k)]
            if self.default is None or (kind in ("energy", "force") and others):
                raise DataError(f"{self.path} does not say in which unit {kind} is: give --{kind}-unit")
            unit, source = self.default[kind], "the format's convention, nothing is declared"
        entry = f"{kind} {unit}"
        if entry not in self._used.setdefault(source, []):
            self._used[source].append(entry)
        return unit

    def factor(self, kind: str) -> float:
        """Our units (eV, Å, e) in one of the file's."""
        return unit_factor(self.unit(kind), kind)

    def stress(self, values: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Stresses [n, 3, 3] in eV/Å³ from labels; NaN for isolated systems; ``cells`` in Å."""
        unit = self.unit("stress")
        volumes = np.abs(np.linalg.det(cells))
        volumes = np.where(volumes > 0.0, volumes, np.nan)[:, None, None]
        if is_unit_of(unit, "energy"):
            return values * unit_factor(unit, "energy") / volumes
        return values * unit_factor(unit, "stress") + 0.0 * volumes

    def _size(self, unit: str, kind: str) -> float:
        virial = kind == "stress" and is_unit_of(unit, "energy")
        return -1.0 if virial else unit_factor(unit, kind)

    def __str__(self) -> str:
        parts = [f"{', '.join(entries)} ({source})" for source, entries in self._used.items()]
        return f"{self.path.name}: {'; '.join(parts)}"


def forces_from(values: np.ndarray, key: str) -> np.ndarray:
    """Forces from labels under a name: gradients are turned round."""
    return -values if "grad" in key.lower() else values


def in_born_order(values: np.ndarray, order: str) -> np.ndarray:
    """Born charges [n, 9] or [n, 3, 3] as [atom, polarisation, displacement]."""
    values = np.asarray(values, dtype=np.float64)
    if values.size % 9:
        raise DataError(f"Born charges have shape {list(values.shape)}, want 9 numbers for each atom")
    values = values.reshape(-1, 3, 3)
    return values if order == BORN_CHARGES_ORDERS[0] else values.transpose(0, 2, 1)


__all__ = [
    "BORN_CHARGES_ORDERS",
    "FileUnits",
    "LabelFormat",
    "OWN_UNITS",
    "forces_from",
    "in_born_order",
]
