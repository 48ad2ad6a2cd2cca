"""What the scripts share that make data of the molecules of a file: reading, labels by GFN2-xTB, writing.

Needs the extra `data`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from ase.units import Bohr, Hartree
from rich.console import Console
from rich.progress import Progress
from tblite.interface import Calculator

from openmm_les.molecules import connected_molecules, covalent_bonds, formal_charges

LARGEST = 40  # atoms of a molecule
PART = 100  # configurations saved at a time; an interrupted run goes on after the last part
LARGEST_FORCE = 30.0  # eV/Å; harder collisions are dropped
# How often molecules are drawn from each group of the source file; others as "des_monomer".
WEIGHTS = {"capped_amino_acid_md": 1.0, "des_monomer": 1.0, "water_cluster": 6.0, "amino_acid_ligand": 1.0}
UNITS = "positions Angstrom; energy eV; forces eV/Angstrom; dipole e*Angstrom"


class Molecule(NamedTuple):
    """One molecule or small cluster of the source file."""

    numbers: np.ndarray
    positions: np.ndarray
    """[n, 3], Å, about their mean"""
    charge: float
    """e"""
    name: str


CHLORIDE = Molecule(np.array([17]), np.zeros((1, 3)), -1.0, "chloride")
AMMONIUM = Molecule(
    np.array([7, 1, 1, 1, 1]),
    0.59 * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]),
    1.0,
    "ammonium",
)


def read_molecules(path: Path, split: str, groups: list[str]) -> tuple[list[Molecule], np.ndarray]:
    """Molecules of a split of a file, and the weight with which each is drawn, [n].

    With ``groups``, only those of the file's configurations count.
    """
    molecules, weights = [], []
    with h5py.File(path, "r") as file:
        data = {key: file[key][()] for key in file}
    for i in np.flatnonzero(data["split"].astype(str) == split):
        atoms = slice(data["offsets"][i], data["offsets"][i + 1])
        if data["cell"][i].any() or (groups and data["group"][i].decode() not in groups):
            continue
        numbers, positions = data["atomic_numbers"][atoms].astype(int), data["positions"][atoms]
        group, name = data["group"][i].decode(), data["name"][i].decode()
        bonds = covalent_bonds(positions, numbers)
        of_atom = connected_molecules(bonds, len(numbers))
        charges = formal_charges(numbers, bonds)
        if np.isnan(charges).any() or charges.sum() != data["total_charge"][i]:
            continue
        weight = WEIGHTS.get(group, 1.0)
        parts = [of_atom == m for m in range(len(charges))]
        if len(numbers) <= LARGEST:
            parts.append(np.ones(len(numbers), dtype=bool))  # a cluster counts as a molecule, too
        for part in parts if len(charges) > 1 else parts[:1]:
            if part.sum() <= LARGEST:
                x = positions[part] - positions[part].mean(0)
                charge = float(charges[np.unique(of_atom[part])].sum())
                molecules.append(Molecule(numbers[part], x, charge, name.split("/")[0]))
                weights.append(weight / len(parts))
    # Small ions that every split needs and few sources hold: a tenth of the ions of each sign.
    share = max(1, sum(m.charge != 0.0 for m in molecules) // 20)
    molecules += [CHLORIDE] * share + [AMMONIUM] * share
    weights += [0.0] * (len(molecules) - len(weights))
    return molecules, np.array(weights) / np.sum(weights)


def label(
    numbers: np.ndarray, positions: np.ndarray, charge: float, unpaired: int = 0
) -> dict[str, np.ndarray]:
    """Energy (eV), forces (eV/Å), dipole (e·Å) and Mulliken charges (e) by GFN2-xTB.

    ``unpaired`` electrons: 1 in a cation of a closed-shell molecule.
    """
    calculator = Calculator("GFN2-xTB", numbers, positions / Bohr, charge, unpaired)
    calculator.set("verbosity", 0)
    result = calculator.singlepoint()
    return {
        "energy": result.get("energy") * Hartree,
        "forces": -result.get("gradient") * Hartree / Bohr,
        "dipole": result.get("dipole") * Bohr,
        "charges": result.get("charges"),
    }


def usable_labels(numbers: np.ndarray, positions: np.ndarray, charge: float) -> dict[str, np.ndarray] | None:
    """What `label` gives; None without self-consistency, or with forces that are too large."""
    try:
        labels = label(numbers, positions, charge)
    except RuntimeError:  # no self-consistency
        return None
    return labels if np.abs(labels["forces"]).max() <= LARGEST_FORCE else None


def assemble(path: Path, parts: dict[Path, str], group: str) -> int:
    """One HDF5 file of all parts, given with their splits; the number of configurations."""
    loaded = [dict(np.load(part)) for part in parts]
    joined = {key: np.concatenate([part[key] for part in loaded]) for key in loaded[0]}
    sizes = joined.pop("sizes")
    split = np.repeat(list(parts.values()), [len(part["sizes"]) for part in loaded])
    unfinished = path.with_name(path.name + ".unfinished")
    with h5py.File(unfinished, "w") as file:
        file.attrs["level"] = f"GFN2-xTB (tblite {version('tblite')})"
        file.attrs["units"] = UNITS
        file["offsets"] = np.concatenate([[0], np.cumsum(sizes)])
        file["cell"] = np.zeros((len(sizes), 3, 3))
        file["group"] = np.full(len(sizes), group.encode())
        file["split"] = np.char.encode(split)
        for key, values in joined.items():
            file[key] = np.char.encode(values) if values.dtype.kind == "U" else values
    unfinished.replace(path)
    return len(sizes)


def write_data(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    group: str,
    settings: dict,
    draw: Callable[[str], Any],
    make: Callable[..., dict[str, np.ndarray]],
) -> None:
    """Make and write what the command line asks for, in parts: an interrupted run goes on after the last.

    Parameters
    ----------
    parser : says what cannot be used
    options : with ``file``, ``count``, ``held_out`` and ``seed``
    group : name of the configurations' group
    settings : what parts of one file must share
    draw : what configurations of a split are made from
    make : labelled configurations from what ``draw`` gives, ``count`` and ``seed``
    """
    if options.count < 1 or options.held_out < 1:
        parser.error("--count and --held-out must be positive")
    if options.file.exists():
        parser.error(f"{options.file} exists")
    counts = {"valid": options.held_out, "test": options.held_out, "train": options.count}
    folder = options.file.with_name(options.file.name + ".parts")
    folder.mkdir(parents=True, exist_ok=True)
    noted = folder / "settings.json"
    if noted.exists() and json.loads(noted.read_text()) != settings:
        parser.error(f"{folder} holds parts made with other settings: {noted.read_text()}")
    noted.write_text(json.dumps(settings))
    parts: dict[Path, str] = {}
    # tblite prints its version.
    with Progress(console=Console(stderr=True)) as progress, contextlib.redirect_stdout(io.StringIO()):
        for number, (split, count) in enumerate(counts.items()):
            task = progress.add_task(split, total=count)
            source = draw(split)
            for begin in range(0, count, PART):
                size = min(PART, count - begin)
                part = folder / f"{split}-{begin}-{size}-seed{options.seed}.npz"
                if not part.exists():  # of an interrupted run
                    seed = [options.seed, number, begin]
                    arrays = make(source, count=size, seed=seed)
                    half = part.with_suffix(".half")
                    with half.open("wb") as file:
                        np.savez_compressed(file, **arrays)
                    half.replace(part)
                parts[part] = split
                progress.advance(task, size)
    print(f"{assemble(options.file, parts, group)} configurations in {options.file}")


def as_arrays(rows: dict[str, list]) -> dict[str, np.ndarray]:
    """Configurations, each a row of ``rows``, as arrays of the file's layout."""
    arrays = {
        "sizes": np.array([len(x) for x in rows["atomic_numbers"]]),
        "atomic_numbers": np.concatenate(rows["atomic_numbers"]).astype(np.uint8),
        "positions": np.concatenate(rows["positions"]).astype(np.float32),
        "forces": np.concatenate(rows["forces"]).astype(np.float32),
        "energy": np.array(rows["energy"], dtype=np.float64),
        "dipole": np.array(rows["dipole"]),
        "total_charge": np.array(rows["total_charge"]).astype(np.int8),
        "name": np.array(rows["name"]),
    }
    for key in ("molecules", "molecule_charges"):
        if key in rows:
            arrays[key] = np.concatenate(rows[key]).astype(np.int16)
    return arrays


def data_parser(description: str | None, count: int, held_out: int) -> argparse.ArgumentParser:
    """Command line of a script that makes data from molecules of a file, as `write_data` takes it."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("source", type=Path, help="HDF5 file with the molecules")
    parser.add_argument("file", type=Path, help="HDF5 file to write; must not exist")
    parser.add_argument("--count", type=int, default=count, help="configurations to train on")
    parser.add_argument("--held-out", type=int, default=held_out, help="to validate and to test on, each")
    parser.add_argument("--groups", nargs="+", default=[], help="groups of the source to take; default all")
    parser.add_argument("--seed", type=int, default=0)
    return parser
