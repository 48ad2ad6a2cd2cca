"""Labelled configurations in HDF5: flat arrays, and the layout of SPICE as it is published."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
from ase import Atoms

from openmm_les.exceptions import DataError
from openmm_les.training.data import Configurations, make_configurations
from openmm_les.training.labels import FileUnits, LabelFormat, forces_from, in_born_order

HDF5_SUFFIXES = (".h5", ".hdf5")
# Words with which the attribute `units` of a flat file begins its entries.
_KINDS = {
    "positions": "length",
    "length": "length",
    "force": "force",
    "energy": "energy",
    "forces": "force",
    "dipole": "dipole",
    "stress": "stress",
    "virial": "stress",
}


def read_hdf5(path: Path, labels: LabelFormat, say: Callable[[str], None]) -> Configurations:
    """Configurations of an HDF5 file, flat or in the layout of SPICE.

    Flat: ``atomic_numbers`` and ``positions`` of all atoms, ``offsets`` [n + 1] of the
    configurations, ``energy``, ``forces``; ``cell``, ``total_charge``, ``dipole``, ``stress`` or ``virial``
    (dE/dstrain), ``born_charges`` or ``bec``, ``group``, ``name`` and ``split`` may be, and, of all atoms,
    ``molecules`` (indices within a configuration) with ``molecule_charges`` (e, of the atom's molecule):
    without them bonds tell molecules, which torn ones have not. Units stand in an attribute ``units`` of
    each array, or of the file, by array or by kind: "positions Angstrom; energy eV; forces eV/Angstrom; …".

    SPICE: a group for each molecule with ``atomic_numbers``, ``conformations``, ``smiles``,
    ``dft_total_energy``, ``dft_total_gradient`` and units as attributes (Eastman et al., Sci. Data 10,
    11 (2023)).

    Raises
    ------
    DataError
        The file is damaged, of another layout, lacks labels, or does not say its units.
    """
    try:
        with h5py.File(path, "r") as file:
            groups = [item for item in file.values() if isinstance(item, h5py.Group)]
            if groups and all("conformations" in group for group in groups):
                return _read_spice(path, groups, labels, say)
            arrays = {key: item[()] for key, item in file.items() if isinstance(item, h5py.Dataset)}
            declared = _declared_units(file)
    except OSError as error:
        raise DataError(f"{path} is no readable HDF5 file: {error}") from error
    return _flat(path, arrays, declared, labels, say)


def level_of_theory(paths: Sequence[str | Path]) -> str:
    """Levels of theory that HDF5 files name in their ``level`` attribute, empty where none does."""
    levels = []
    for path in map(Path, paths):
        if path.suffix in HDF5_SUFFIXES:
            with h5py.File(path, "r") as file:
                levels.append(str(file.attrs.get("level", "")))
    return ", ".join(sorted({level for level in levels if level}))


def _declared_units(file: h5py.File) -> dict[str, str]:
    """Units that a flat file declares, by name of the array or kind of quantity."""
    declared = {}
    text = str(file.attrs.get("units", ""))
    for entry in re.split("[;,]", text):
        words = entry.replace(":", " ").replace("=", " ").split()
        if len(words) >= 2 and (words[0] in _KINDS or words[0] in file):
            declared[words[0]] = words[1]
    if text.strip() and not declared:
        raise DataError(
            f"the attribute `units` of {file.filename} is {text!r}; write as in "
            '"positions Angstrom; energy eV; forces eV/Angstrom"'
        )
    for key, item in file.items():
        if "units" in item.attrs:
            declared[key] = str(item.attrs["units"])
    return declared


def _flat(
    path: Path,
    arrays: dict[str, np.ndarray],
    declared: dict[str, str],
    labels: LabelFormat,
    say: Callable[[str], None],
) -> Configurations:
    """Configurations of flat arrays."""
    energy_key, forces_key = labels.energy_key or "energy", labels.forces_key or "forces"
    optional = {
        "stress": _first(arrays, labels.stress_key, "stress", "virial"),
        "dipole": _first(arrays, labels.dipole_key, "dipole"),
        "born_charges": _first(arrays, labels.born_charges_key, "born_charges", "bec"),
        "polarizability": _first(arrays, labels.polarizability_key, "polarizability", "alpha"),
        "total_charge": _first(arrays, labels.charge_key, "total_charge"),
    }
    kinds = ("stress", "dipole", "born_charges", "polarizability", "charge")
    asked = [key for key in map(labels.key, kinds) if key]
    required = ["offsets", "atomic_numbers", "positions", energy_key, forces_key, *asked]
    missing = [key for key in required if key not in arrays]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays)) or 'nothing'}"
        )
    offsets = arrays["offsets"].astype(np.int64)
    n, n_atoms = len(offsets) - 1, len(arrays["atomic_numbers"])
    if n < 1 or offsets[0] != 0 or (np.diff(offsets) < 1).any() or offsets[-1] != n_atoms:
        falls = np.flatnonzero(np.diff(offsets) < 1)
        where = f"; entry {falls[0] + 1} is {offsets[falls[0] + 1]}" if len(falls) else ""
        raise DataError(
            f"`offsets` of {path} do not rise from 0 to its {n_atoms} atoms, but go from "
            f"{' to '.join(map(str, offsets[[0, -1]])) if len(offsets) else 'nothing'}{where}"
        )
    names = {
        "length": "positions",
        "energy": energy_key,
        "force": forces_key,
        "dipole": optional["dipole"],
        "stress": optional["stress"],
    }
    # "energy hartree" speaks of an array of another name, too, unless there is one called energy; a virial
    # is no stress.
    words = [word for word in declared if word not in arrays and word in _KINDS and word != "virial"]
    of_kind = {_KINDS[word]: declared[word] for word in words}
    of_array = {kind: declared[key] for kind, key in names.items() if key in declared}
    units = FileUnits(path, labels, {**of_kind, **of_array})
    for kind in ("dipole", "stress"):
        if optional[kind] and not (labels.key(kind) or labels.unit(kind) or kind in units.declared):
            say(f"{path.name}: `{optional[kind]}` is left out, nothing says its unit (--{kind}-unit)")
            optional[kind] = ""
    stress_key = optional["stress"]
    length, energy, force = (units.factor(kind) for kind in ("length", "energy", "force"))
    cell = arrays.get("cell", np.zeros((n, 3, 3))).astype(np.float64) * length
    stress = arrays[stress_key].astype(np.float64) if stress_key else None
    born = arrays[optional["born_charges"]] if optional["born_charges"] else None
    try:
        configurations = make_configurations(
            np.diff(offsets),
            arrays["atomic_numbers"],
            arrays["positions"].astype(np.float64) * length,
            forces_from(arrays[forces_key].astype(np.float64), forces_key) * force,
            arrays[energy_key].astype(np.float64) * energy,
            cell=cell,
            total_charge=arrays.get(optional["total_charge"]),
            dipole=arrays[optional["dipole"]] * units.factor("dipole") if optional["dipole"] else None,
            stress=None if stress is None else units.stress(stress, cell),
            born_charges=None if born is None else in_born_order(born, labels.born_charges_order),
            polarizability=arrays.get(optional["polarizability"]),
            molecules=arrays.get("molecules"),
            molecule_charges=arrays.get("molecule_charges"),
            group=_strings(arrays.get("group", np.full(n, path.stem))),
            name=_strings(arrays["name"])
            if "name" in arrays
            else _formulas(arrays["atomic_numbers"], offsets),
            split=_strings(arrays["split"]) if "split" in arrays else None,
        )
    except (DataError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error
    say(f"{units}{'' if optional['total_charge'] else '; no total charges, 0 taken'}")
    return configurations


def _formulas(numbers: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Sum formula of each configuration, [n] str."""
    parts = np.split(numbers, offsets[1:-1])
    return np.array([Atoms(part).get_chemical_formula() for part in parts])


def _first(arrays: dict[str, np.ndarray], *keys: str) -> str:
    """The first of several names that is there; the first of all counts only if it is not empty."""
    return next((key for key in keys if key and key in arrays), "")


def _read_spice(
    path: Path, groups: list[h5py.Group], labels: LabelFormat, say: Callable[[str], None]
) -> Configurations:
    """Configurations of molecules with several conformations each."""
    energy_key = labels.energy_key or "dft_total_energy"
    forces_key = labels.forces_key or "dft_total_gradient"
    dipole_key = labels.dipole_key or "scf_dipole"
    kinds = {"length": "conformations", "energy": energy_key, "force": forces_key, "dipole": dipole_key}
    parts: dict[str, list[np.ndarray]] = {}
    sizes: list[int] = []
    units: FileUnits | None = None
    first_declared: dict[str, str] = {}
    for group in groups:
        place = f"{path}, molecule {group.name.strip('/')}"
        missing = [key for key in ("atomic_numbers", energy_key, forces_key) if key not in group]
        if missing:
            raise DataError(f"{place} lacks {', '.join(missing)}; it holds {', '.join(sorted(group))}")
        declared = {
            kind: str(group[key].attrs["units"])
            for kind, key in kinds.items()
            if key in group and "units" in group[key].attrs
        }
        if units is None:
            units, first_declared = FileUnits(path, labels, declared), declared
        elif any(declared.get(kind, unit) != unit for kind, unit in first_declared.items()):
            raise DataError(f"{place} is in other units than the molecules before it: {declared}")
        numbers = group["atomic_numbers"][()]
        positions = group["conformations"][()].astype(np.float64)  # [m, n_atoms, 3]
        m, n_atoms = len(positions), len(numbers)
        if m == 0:
            continue
        has_dipole = dipole_key in group and ("dipole" in declared or labels.dipole_unit)
        label_of = {
            "positions": positions * units.factor("length"),
            "forces": forces_from(group[forces_key][()].astype(np.float64), forces_key)
            * units.factor("force"),
            "energy": group[energy_key][()].astype(np.float64) * units.factor("energy"),
            "dipole": (
                group[dipole_key][()].astype(np.float64) * units.factor("dipole")
                if has_dipole
                else np.full((m, 3), np.nan)
            ),
        }
        shapes = {"positions": (m, n_atoms, 3), "forces": (m, n_atoms, 3), "energy": (m,), "dipole": (m, 3)}
        for key, values in label_of.items():
            if values.shape != shapes[key]:
                raise DataError(f"{place}: {key} have shape {list(values.shape)}, want {list(shapes[key])}")
        name = group.name.strip("/")
        subset = _strings(np.atleast_1d(group["subset"][()]))[0] if "subset" in group else path.stem
        label_of |= {
            "positions": label_of["positions"].reshape(-1, 3),
            "forces": label_of["forces"].reshape(-1, 3),
            "numbers": np.tile(numbers, m),
            "total_charge": np.full(m, _spice_charge(group, labels.charge_key, place)),
            "group": np.full(m, subset),
            "name": np.array([f"{name}/{k}" for k in range(m)]),
        }
        for key, values in label_of.items():
            parts.setdefault(key, []).append(values)
        sizes += [n_atoms] * m
    if units is None or not sizes:
        raise DataError(f"{path} holds no conformation")
    joined = {key: np.concatenate(values) for key, values in parts.items()}
    say(f"{units}; {'forces are minus the gradients; ' if 'grad' in forces_key else ''}charges from SMILES")
    return make_configurations(np.array(sizes), **joined)


def _spice_charge(group: h5py.Group, charge_key: str, place: str) -> float:
    """Total charge of a molecule, from an array or from the charges in its SMILES."""
    if charge_key:
        if charge_key not in group:
            raise DataError(f"{place} has no `{charge_key}`")
        return float(np.ravel(group[charge_key][()])[0])
    if "smiles" not in group:
        raise DataError(f"{place} has neither `smiles` nor a charge (--charge-key)")
    return float(smiles_charge(_strings(np.atleast_1d(group["smiles"][()]))[0]))


def smiles_charge(smiles: str) -> int:
    """Sum of the charges that bracket atoms of a SMILES carry, as ``[NH3+:1]``, ``[Mg+2]``, ``[O--]``."""
    total = 0
    for signs, digits in re.findall(r"\[[^\]:]*?([+-]+)(\d*)(?::\d+)?\]", smiles):
        size = int(digits) if digits else len(signs)
        total += size if signs[0] == "+" else -size
    return total


def _strings(values: np.ndarray) -> np.ndarray:
    """Bytes of HDF5 as str."""
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values])


__all__ = ["HDF5_SUFFIXES", "level_of_theory", "read_hdf5", "smiles_charge"]
