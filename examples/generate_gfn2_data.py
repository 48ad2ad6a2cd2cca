"""Makes training data at GFN2-xTB from nothing: molecules, capped amino acids, water clusters.

    pip install 'openmm-les[data]'
    python examples/generate_gfn2_data.py gfn2.h5                 # about 3000 configurations, hours
    python examples/generate_gfn2_data.py gfn2.h5 --samples 20    # fewer of each
    python examples/generate_gfn2_data.py tiny.h5 --tiny          # a minute, to see that it works

Every molecule is relaxed, then moved by Langevin dynamics at GFN2-xTB (tblite, through ASE), and
configurations are written at regular intervals with energy, forces and dipole. Small molecules come
from the G2 set of ASE, amino acids are built by PeptideBuilder with hydrogens from OpenMM, water
clusters from turned molecules on a lattice. Finished molecules lie in FILE.parts; the same command
again goes on where it stopped. The file has the layout that `openmm-les train` reads; train,
validation and test parts share no molecule, as far as there is more than one of a kind.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import ase.units
import h5py
import numpy as np
import PeptideBuilder
from ase import Atoms
from ase.build import molecule as g2_molecule
from ase.collections import g2
from ase.md.langevin import Langevin
from ase.optimize import FIRE
from Bio.PDB import PDBIO
from openmm import LangevinIntegrator, app, unit
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tblite.ase import TBLite

from openmm_les.molecules import bonded_molecules, covalent_bonds, formal_charges

ELEMENTS = {"H", "C", "N", "O", "F", "S", "Cl"}
AMINO_ACIDS = "GAVLIMFYWPSTCNQDEKRH"
TEMPERATURES = (300.0, 450.0, 600.0)  # K
WATER_CLUSTERS = (2, 3, 4, 6, 8, 10)
UNITS = "positions Angstrom; energy eV; forces eV/Angstrom; dipole e*Angstrom; charges e"


@dataclass(frozen=True)
class Subject:
    """One molecule or cluster to make configurations of."""

    name: str
    group: str
    build: Callable[[], Atoms]
    temperatures: tuple[float, ...] = TEMPERATURES


def g2_molecules() -> Iterator[Subject]:
    """Closed-shell molecules of the G2 set with the elements wanted, three atoms or more."""
    for name in sorted(g2.names):
        atoms = g2_molecule(name)
        known = len(atoms) > 2 and set(atoms.get_chemical_symbols()) <= ELEMENTS
        if not known or atoms.get_initial_magnetic_moments().any() or atoms.numbers.sum() % 2:
            continue
        # Carbenes and the like have no formal charge by valence; they are not what we simulate.
        charges = formal_charges(atoms.numbers, covalent_bonds(atoms.positions, atoms.numbers))
        if len(charges) == 1 and charges[0] == 0.0:
            yield Subject(f"g2-{name}", "small_molecule_md", partial(g2_molecule, name))


def capped_peptide(sequence: str) -> tuple[app.Topology, np.ndarray]:
    """ACE-X…-NME with all hydrogens, roughly relaxed by Amber; positions [n, 3] in Å.

    It is cut from Gly-X…-Gly: a glycine's CA, C and O make the acetyl cap, N and CA the other.
    """
    turns = len(sequence) + 2
    structure = PeptideBuilder.make_structure(f"G{sequence}G", [-120.0] * turns, [130.0] * turns)
    first, *_, last = structure.get_residues()
    for residue, kept in ((first, ("CA", "C", "O")), (last, ("N", "CA"))):
        for atom in list(residue):
            if atom.id not in kept:
                residue.detach_child(atom.id)
    first.resname, last.resname = "ACE", "NME"
    for residue, name in ((first, "CH3"), (last, "C")):
        atom = residue["CA"]
        atom.id, atom.name, atom.fullname = name, name, f" {name:<3}"
    text = io.StringIO()
    writer = PDBIO()
    writer.set_structure(structure)
    writer.save(text)
    text.seek(0)
    pdb = app.PDBFile(text)
    field = app.ForceField("amber14-all.xml")
    modeller = app.Modeller(pdb.topology, pdb.positions)
    modeller.addHydrogens(field, pH=7.0)
    system = field.createSystem(modeller.topology, nonbondedMethod=app.NoCutoff)
    simulation = app.Simulation(modeller.topology, system, LangevinIntegrator(300, 1, 0.001))
    simulation.context.setPositions(modeller.positions)
    simulation.minimizeEnergy(maxIterations=200)
    positions = simulation.context.getState(getPositions=True).getPositions(asNumpy=True)
    return modeller.topology, positions.value_in_unit(unit.angstrom)


def peptide_atoms(letter: str) -> Atoms:
    """`capped_peptide` of one amino acid, for ase."""
    topology, positions = capped_peptide(letter)
    return Atoms([atom.element.symbol for atom in topology.atoms()], positions=positions)


def water_cluster(n_molecules: int) -> Atoms:
    """Water molecules turned at random on the points of a cubic lattice nearest the origin."""
    rng = np.random.default_rng(n_molecules)
    grid = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), -1).reshape(-1, 3)
    sites = 3.0 * grid[np.argsort((grid**2).sum(1), kind="stable")][:n_molecules]
    cluster = Atoms()
    for site in sites:
        water = g2_molecule("H2O")
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        water.positions = (water.positions - water.get_center_of_mass()) @ turn + site
        cluster += water
    return cluster


def subjects(tiny: bool) -> list[Subject]:
    """Everything there is to make, or three small ones."""
    everything = list(g2_molecules())
    everything += [
        Subject(f"capped-{letter}", "capped_amino_acid_md", partial(peptide_atoms, letter))
        for letter in AMINO_ACIDS
    ]
    # Hot clusters fall apart.
    everything += [
        Subject(f"water-{n}", "water_cluster", partial(water_cluster, n), (250.0, 300.0))
        for n in WATER_CLUSTERS
    ]
    chosen = ("g2-CH3OH", "capped-D", "water-2")
    return [s for s in everything if s.name in chosen] if tiny else everything


def sample(
    subject: Subject, n_samples: int, interval: int, relax_steps: int, step: Callable[[], None]
) -> dict[str, np.ndarray]:
    """Labelled configurations of one subject, the same ones each time.

    Parameters
    ----------
    n_samples : configurations, shared among the temperatures
    interval : steps of 0.5 fs between two of them
    relax_steps : steps of relaxation before, at most
    step : called after each configuration

    Returns
    -------
    arrays of the file's layout; a trajectory ends early when a molecule breaks or clusters separate
    """
    start = subject.build()
    bonds = covalent_bonds(start.positions, start.numbers)
    charge = float(formal_charges(start.numbers, bonds).sum())
    start.calc = TBLite(method="GFN2-xTB", charge=charge, verbosity=0)
    FIRE(start, logfile=None).run(fmax=0.2, steps=relax_steps)
    molecules = bonded_molecules(start.positions, start.numbers)
    rng = np.random.default_rng(zlib.crc32(subject.name.encode()))
    rows: list[tuple[np.ndarray, np.ndarray, float, np.ndarray]] = []
    shares = [len(part) for part in np.array_split(np.arange(n_samples), len(subject.temperatures))]
    for temperature, share in zip(subject.temperatures, shares):
        atoms = start.copy()
        atoms.calc = TBLite(method="GFN2-xTB", charge=charge, verbosity=0)
        spread = np.sqrt(ase.units.kB * temperature / atoms.get_masses())[:, None]
        atoms.set_velocities(spread * rng.normal(size=(len(atoms), 3)))
        dynamics = Langevin(
            atoms,
            0.5 * ase.units.fs,
            temperature_K=temperature,
            friction=0.02 / ase.units.fs,
            fixcm=False,
            rng=rng,
        )
        for _ in range(share):
            dynamics.run(interval)
            if not np.array_equal(bonded_molecules(atoms.positions, atoms.numbers), molecules):
                break
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
            rows.append((atoms.positions.copy(), forces, energy, atoms.get_dipole_moment()))
            step()
    n = len(rows)
    return {
        "atomic_numbers": np.tile(start.numbers, n).astype(np.uint8),
        "positions": np.concatenate([row[0] for row in rows] or [np.zeros((0, 3))]).astype(np.float32),
        "forces": np.concatenate([row[1] for row in rows] or [np.zeros((0, 3))]).astype(np.float32),
        "energy": np.array([row[2] for row in rows], dtype=np.float64),
        "dipole": np.array([row[3] for row in rows], dtype=np.float64).reshape(-1, 3),
        "total_charge": np.full(n, charge, dtype=np.int8),
        "cell": np.zeros((n, 3, 3)),
        "sizes": np.full(n, len(start), dtype=np.int64),
        "group": np.full(n, subject.group),
        "name": np.array([f"{subject.name}/{i}" for i in range(n)], dtype=str),
    }


def splits(everything: list[Subject], seed: int = 0) -> dict[str, str]:
    """Split of each subject by name: a tenth of each group validates, a tenth tests."""
    rng = np.random.default_rng(seed)
    result = {}
    for group in sorted({s.group for s in everything}):
        names = sorted(s.name for s in everything if s.group == group)
        for rank, index in enumerate(rng.permutation(len(names))):
            result[names[index]] = {0: "valid", 1: "test"}.get(rank % 10, "train")
    return result


def assemble(path: Path, parts: list[Path], split_of: dict[str, str]) -> int:
    """One HDF5 file of all parts; the number of configurations."""
    loaded = [dict(np.load(part)) for part in parts]
    joined = {key: np.concatenate([part[key] for part in loaded]) for key in loaded[0]}
    sizes = joined.pop("sizes")
    split = [split_of[name.split("/")[0]] for name in joined["name"]]
    unfinished = path.with_name(path.name + ".unfinished")
    with h5py.File(unfinished, "w") as file:
        file.attrs["level"] = f"GFN2-xTB (tblite {version('tblite')})"
        file.attrs["units"] = UNITS
        file["offsets"] = np.concatenate([[0], np.cumsum(sizes)])
        for key, values in joined.items():
            file[key] = np.char.encode(values) if values.dtype.kind == "U" else values
        file["split"] = np.char.encode(split)
    unfinished.replace(path)
    return len(sizes)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, help="HDF5 file to write; must not exist")
    parser.add_argument("--samples", type=int, default=60, help="configurations of each molecule")
    parser.add_argument("--interval", type=int, default=50, help="steps of 0.5 fs between two")
    parser.add_argument("--tiny", action="store_true", help="three small molecules, a few configurations")
    options = parser.parse_args()
    if options.samples < 1 or options.interval < 1:
        parser.error("--samples and --interval must be positive")
    if options.file.exists():
        parser.error(f"{options.file} exists")
    n_samples, interval, relax = (4, 5, 20) if options.tiny else (options.samples, options.interval, 200)
    todo = subjects(options.tiny)
    folder = options.file.with_name(options.file.name + ".parts")
    folder.mkdir(parents=True, exist_ok=True)
    progress = Progress(
        TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )
    with progress:
        task = progress.add_task("", total=n_samples * len(todo))
        for count, subject in enumerate(todo):
            part = folder / f"{subject.name}-{n_samples}x{interval}.npz"
            progress.update(task, description=subject.name)
            if not part.exists():
                with contextlib.redirect_stdout(io.StringIO()):  # tblite prints its version
                    arrays = sample(subject, n_samples, interval, relax, partial(progress.advance, task))
                half = part.with_suffix(".half")
                with half.open("wb") as file:
                    np.savez_compressed(file, **arrays)
                half.replace(part)
            progress.update(task, completed=n_samples * (count + 1))
    parts = [folder / f"{subject.name}-{n_samples}x{interval}.npz" for subject in todo]
    print(f"{assemble(options.file, parts, splits(todo))} configurations in {options.file}")


if __name__ == "__main__":
    main()
