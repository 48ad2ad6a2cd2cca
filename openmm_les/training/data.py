"""Labelled configurations: one container for all formats, splitting, reference energies.

Units are fixed: Å, eV, eV/Å, e, e·Å, eV/Å³. Files in others are converted as they are read.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from openmm_les.exceptions import DataError

logger = logging.getLogger(__name__)

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
    stress: np.ndarray
    """[n, 3, 3], eV/Å³, +(1/V) dE/dstrain; NaN where there is no label"""
    born_charges: np.ndarray
    """[n_atoms, 3, 3], e, [atom, polarisation, displacement]; NaN where there is no label"""
    polarizability: np.ndarray
    """[n, 3, 3], Å³; NaN where there is no label"""
    molecules: np.ndarray
    """[n_atoms], index of each atom's molecule in its configuration; NaN where bonds decide"""
    molecule_charges: np.ndarray
    """[n_atoms], e, of each atom's molecule; NaN where bonds decide"""
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


_ATOM_FIELDS = ("numbers", "positions", "forces", "born_charges", "molecules", "molecule_charges")


def concatenate(parts: Sequence[Configurations]) -> Configurations:
    """Several sets one after the other."""
    joined = {
        f.name: np.concatenate([getattr(p, f.name) for p in parts])
        for f in fields(Configurations)
        if f.name != "offsets"
    }
    sizes = np.concatenate([p.sizes for p in parts])
    return Configurations(offsets=np.concatenate([[0], np.cumsum(sizes)]), **joined)


def make_configurations(
    sizes: np.ndarray,
    numbers: np.ndarray,
    positions: np.ndarray,
    forces: np.ndarray,
    energy: np.ndarray,
    **others: np.ndarray | None,
) -> Configurations:
    """Configurations in their own types; fields that are left out or None are blank.

    Arguments are named and shaped as the fields of `Configurations`, ``sizes`` [n] instead of offsets.

    Raises
    ------
    DataError
        An array has another shape.
    """
    n = len(sizes)
    blank: dict[str, np.ndarray] = {
        "cell": np.zeros((n, 3, 3)),
        "total_charge": np.zeros(n),
        "dipole": np.full((n, 3), np.nan),
        "stress": np.full((n, 3, 3), np.nan),
        "born_charges": np.full((len(numbers), 3, 3), np.nan),
        "polarizability": np.full((n, 3, 3), np.nan),
        "molecules": np.full(len(numbers), np.nan),
        "molecule_charges": np.full(len(numbers), np.nan),
        "group": np.full(n, ""),
        "name": np.full(n, ""),
        "split": np.full(n, ""),
    }
    given = {"positions": positions, "forces": forces, "energy": energy}
    given |= {key: value for key, value in others.items() if value is not None}
    arrays = {
        key: np.asarray(value, dtype=str if key in ("group", "name", "split") else np.float64)
        for key, value in {**blank, **given}.items()
    }
    arrays["numbers"] = np.asarray(numbers, dtype=np.int64)
    for key, value in arrays.items():
        wanted = (len(numbers) if key in _ATOM_FIELDS else n, *_TRAILING.get(key, ()))
        if value.shape != wanted:
            raise DataError(f"`{key}` has shape {list(value.shape)}, want {list(wanted)}")
    return Configurations(offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), **arrays)


_TRAILING = {
    "positions": (3,),
    "forces": (3,),
    "cell": (3, 3),
    "dipole": (3,),
    "stress": (3, 3),
    "born_charges": (3, 3),
    "polarizability": (3, 3),
}


def split_configurations(
    configurations: Configurations, *, valid_fraction: float = 0.1, seed: int = 0
) -> Configurations:
    """The same with a split for everyone: the file's own, or drawn by molecule.

    The molecule is the part of ``name`` before the slash; it goes where other frames of it are said to be.
    Of configurations without a name, and where there are fewer than ten molecules, frames are drawn instead,
    and a warning says so.

    Raises
    ------
    DataError
        A file says something else than train, valid or test, or there is nothing to draw from.
    """
    check_splits(configurations)
    if (configurations.split != "").all():
        return configurations
    if not 0.0 < valid_fraction < 1.0:
        raise DataError(f"`valid_fraction` must lie between 0 and 1, got {valid_fraction}")
    n = len(configurations)
    if n < 2:
        raise DataError("one configuration cannot be split into training and validation")
    molecules = np.array([name.split("/")[0] or f"/{i}" for i, name in enumerate(configurations.name)])
    nameless = int((configurations.name == "").sum())
    if nameless:
        logger.warning(
            "%d of %d configurations have no name: validation frames of these are drawn at random, whatever "
            "molecule they are of",
            nameless,
            n,
        )
    if len(np.unique(molecules)) < 10:
        logger.warning("fewer than ten molecules: validation frames are drawn at random")
        molecules = np.arange(n).astype(str)
    splits = configurations.split
    said: dict[str, set[str]] = {}
    for molecule, split in zip(molecules.tolist(), splits.tolist()):
        said.setdefault(molecule, set()).update({split} - {""})
    kinds = np.array([molecule for molecule, found in said.items() if len(found) != 1])
    kinds.sort()
    held_out = np.random.default_rng(seed).permutation(kinds)[: max(1, round(valid_fraction * len(kinds)))]
    drawn = np.where(np.isin(molecules, held_out), "valid", "train").tolist()
    followed = [next(iter(s)) if len(s := said[m]) == 1 else d for m, d in zip(molecules.tolist(), drawn)]
    n_following = sum(len(said[m]) == 1 and s == "" for m, s in zip(molecules.tolist(), splits.tolist()))
    if n_following:
        logger.warning("%d configurations without a split follow others of their molecule", n_following)
    return replace(configurations, split=np.where(splits == "", followed, splits))


def check_splits(configurations: Configurations) -> None:
    """Raise DataError where a file says something else than train, valid, test or nothing."""
    unknown = sorted(set(configurations.split.tolist()) - {"", *SPLITS})
    if unknown:
        raise DataError(f"`split` must be {', '.join(SPLITS)} or empty; got {', '.join(unknown)}")


def fingerprint(*parts: Configurations) -> str:
    """The same for the same configurations, labels and groups, whatever files they are in."""
    found = hashlib.sha256()
    for part in parts:
        for field in fields(part):
            if field.name in ("name", "split"):
                continue
            values = np.ascontiguousarray(getattr(part, field.name))
            found.update("\n".join(values).encode() if values.dtype.kind == "U" else values.tobytes())
    return found.hexdigest()


def select_groups(configurations: Configurations, names: str) -> Configurations:
    """Those of some groups, named as in "water30, water_cluster"; all where no name is given.

    Raises
    ------
    DataError
        There is none of a group.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        return configurations
    found = sorted(set(configurations.group.tolist()))
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataError(
            f"no configurations of {', '.join(missing)} in the data, which hold {', '.join(found)}"
        )
    return configurations.select(np.isin(configurations.group, wanted))


def group_shares(configurations: Configurations, text: str) -> np.ndarray:
    """Of each configuration, how often a pass over the data takes it, [n]; from "stretched=0.3,contacts=0.5".

    Raises
    ------
    DataError
        Not of that form, no such group, a share that is not above 0 and at most 1, or no group left whole.
    """
    shares = np.ones(len(configurations))
    found = sorted(set(configurations.group.tolist()))
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = entry.partition("=")
        try:
            share = float(value)
        except ValueError:
            share = float("nan")
        if not 0.0 < share <= 1.0:
            raise DataError(
                f"shares of groups must read like stretched=0.3, above 0 and at most 1; got {entry!r}"
            )
        if name not in found:
            raise DataError(f"no training data of group {name!r}, but of {', '.join(map(repr, found))}")
        shares[configurations.group == name] = share
    if shares.max() < 1.0:
        raise DataError(f"shares of groups are relative to one that is taken whole; got {text!r} for {found}")
    return shares


def element_counts(configurations: Configurations, elements: Sequence[int]) -> np.ndarray:
    """How many atoms of each element each configuration has, [n_configurations, n_elements]."""
    owner = np.repeat(np.arange(len(configurations)), configurations.sizes)
    counts = np.zeros((len(configurations), 119))
    np.add.at(counts, (owner, configurations.numbers), 1.0)
    return counts[:, list(elements)]


def fit_reference_energies(configurations: Configurations, elements: Sequence[int]) -> np.ndarray:
    """Energy per atom of each element that explains the total energies best, [n_elements] in eV.

    Least squares; elements that only occur in fixed proportion get the solution of least norm.
    """
    counts = element_counts(configurations, elements)
    solution, _, _, _ = np.linalg.lstsq(counts, configurations.energy, rcond=None)
    return solution


__all__ = [
    "SPLITS",
    "Configurations",
    "check_splits",
    "concatenate",
    "element_counts",
    "fit_reference_energies",
    "fingerprint",
    "group_shares",
    "make_configurations",
    "select_groups",
    "split_configurations",
]
