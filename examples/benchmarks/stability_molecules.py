"""Long runs of molecules that a shipped model has not seen: do their bonds hold?

    python examples/benchmarks/stability_molecules.py stability --ps 1000 --data gfn2_bio.h5
    python examples/benchmarks/stability_molecules.py copies --ps 50 --copies 20 --platform CUDA
    python examples/benchmarks/stability_molecules.py hot --ps 20 --temperature 600

Five capped dipeptides (built here; the model learned single capped amino acids) and five drug-like
molecules of the test split of gfn2_bio.h5 (`--data`) in vacuum at 300 K (`--temperature`: holes of a model
show sooner when it is hot): Langevin dynamics with 2.5 fs, hydrogens of 6 Da and no constraints (masses
change how fast a molecule moves, not where it goes: the distribution has none). All of them, and all
copies of each, share one system without a box. They lie 60 Å apart, and a weak spring on its centre of
mass keeps each at its place: their atoms feel less than 1 meV/Å of each other (0.5 at most where all ten
start), so that each runs as if alone.

Every picosecond the bonds of each copy are read from the geometry and compared with those at the start.
The same command goes on where an interrupted one stopped, and with a larger ``--ps`` where a finished
one did. A run that explodes ends with the model's error. Molecules may be shared out among folders, each
with some in a ``molecules.xyz`` of its own and run by its own process; ``--beside`` names the others, whose
counts go into the same result. Writes ``results/stability_molecules.json``, with ``-copies`` in its name
where there is more than one and ``-600K`` where that is the temperature. Needs the extra `data` where the
folder does not hold ``molecules.xyz`` yet.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from pathlib import Path

import ase.io
import h5py
import numpy as np
import openmm
from ase import Atoms
from openmm import unit
from provenance import write_result
from rich.progress import Progress

import openmm_les
from openmm_les.molecules import connected_molecules, covalent_bonds

sys.path.insert(0, str(Path(__file__).parents[1]))
from lone_molecules import HYDROGEN_MASS, system_of

PEPTIDES = ("AS", "GF", "VY", "TW", "NM")
LIGANDS = ("C10H18N2O3", "C9H13N5O3", "C10H8O3", "C10H20O2", "C7H7NO2")
"""Desthiobiotin, biopterin-like HBI, 4-methylumbelliferone, decanoic and 4-aminobenzoic acid."""
TIME_STEP = 2.5  # fs, an eighth of the fastest period, of C=O and of O-H with the mass below; 4 tear bonds
STEPS_PER_PS = 400
WARM_AFTER = 5  # ps, from where temperatures count
SAVE_SECONDS = 60.0
PROGRESS = "progress.json"


def peptides() -> list[Atoms]:
    """The capped dipeptides, roughly relaxed by Amber."""
    from generate_gfn2_data import peptide_atoms  # needs the extra `data`

    found = [peptide_atoms(sequence) for sequence in PEPTIDES]
    for sequence, atoms in zip(PEPTIDES, found):
        atoms.info["name"] = f"ACE-{'-'.join(sequence)}-NME"
    return found


def ligands(path: Path) -> list[Atoms]:
    """The first test configuration of each ligand."""
    found: dict[str, Atoms] = {}
    with h5py.File(path, "r") as file:
        data = {k: file[k][()] for k in ("split", "group", "offsets", "atomic_numbers", "positions")}
    wanted = (data["split"] == b"test") & (data["group"] == b"amino_acid_ligand")
    for i in np.flatnonzero(wanted):
        begin, end = data["offsets"][i : i + 2]
        both = Atoms(data["atomic_numbers"][begin:end], data["positions"][begin:end])
        molecules = connected_molecules(covalent_bonds(both.positions, both.numbers), len(both))
        for m in range(molecules.max() + 1):
            one = both[molecules == m]
            one.info["name"] = one.get_chemical_formula()
            if one.info["name"] in LIGANDS:
                found.setdefault(one.info["name"], one)
    return list(found.values())


def fingerprint(model: openmm_les.LESModel) -> str:
    """The same for the same weights: a name alone does not tell what a run was made with."""
    weights = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(name.encode() + tensor.cpu().numpy().tobytes())
    return weights.hexdigest()[:12]


def make_context(system: openmm.System, platform_name: str, temperature: float, seed: int) -> openmm.Context:
    """Context with a thermostat at a temperature in K."""
    integrator = openmm.LangevinMiddleIntegrator(temperature, 1.0 / unit.picosecond, 1e-3 * TIME_STEP)
    integrator.setRandomNumberSeed(seed)
    platform = openmm.Platform.getPlatformByName(platform_name)
    properties = {"Precision": "mixed"} if "Precision" in platform.getPropertyNames() else {}
    return openmm.Context(system, integrator, platform, properties)


def count_frame(rows: dict[str, dict], picoseconds: int, state: openmm.State, molecules: list[Atoms]) -> None:
    """Add a frame of all copies to the counts of each molecule.

    ``molecules`` stand in the order of the system, copies included; ``picoseconds`` is the time of each.
    """
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    velocities = state.getVelocities(asNumpy=True).value_in_unit(unit.nanometer / unit.picosecond)
    gas_constant = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)
    begin = 0
    for molecule in molecules:
        atoms = slice(begin, begin + len(molecule))
        begin = atoms.stop
        row = rows[molecule.info["name"]]
        bonds = covalent_bonds(positions[atoms], molecule.numbers)
        row["picoseconds"] += 1
        row["frames_with_changed_bonds"] += int(not np.array_equal(bonds, molecule.info["bonds"]))
        if picoseconds > WARM_AFTER:
            kinetic = 0.5 * (molecule.info["masses"] * (velocities[atoms] ** 2).sum(1)).sum()
            temperature = kinetic / (1.5 * len(molecule) * gas_constant)
            row["warm_frames"] += 1
            row["mean_temperature_K"] += (temperature - row["mean_temperature_K"]) / row["warm_frames"]


def with_rows_beside(rows: dict[str, dict], settings: dict, folders: list[Path]) -> dict[str, dict]:
    """Counts of this run and of those in other folders, as far as they were saved."""
    rows = dict(rows)
    for path in (folder / PROGRESS for folder in folders):
        if not path.exists():
            continue
        other = json.loads(path.read_text())
        if other["settings"] != settings:
            raise SystemExit(f"{path} is of other settings: {other['settings']}, here {settings}")
        twice = sorted(rows.keys() & other["rows"].keys())
        if twice:
            raise SystemExit(f"{path} counts molecules that another folder counts: {', '.join(twice)}")
        rows |= other["rows"]
    return rows


def main() -> None:
    """All molecules at once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder for molecules, state and counts")
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="folders of other molecules")
    parser.add_argument("--model", default="peptide-gfn2-small")
    parser.add_argument("--data", type=Path, help="gfn2_bio.h5; needed where there is no molecules.xyz")
    parser.add_argument("--ps", type=int, default=1000, help="of each copy")
    parser.add_argument("--copies", type=int, default=1, help="of each molecule")
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    parser.add_argument("--platform", default="Reference")
    parser.add_argument("--max-minutes", type=float, default=math.inf)
    arguments = parser.parse_args()
    end = time.monotonic() + 60.0 * arguments.max_minutes
    model = openmm_les.load_model(arguments.model)
    arguments.run.mkdir(parents=True, exist_ok=True)
    start, progress_file = arguments.run / "molecules.xyz", arguments.run / PROGRESS
    if not start.exists():
        if arguments.data is None:
            parser.error(f"{start} is not there: --data must name gfn2_bio.h5")
        ase.io.write(start, peptides() + ligands(arguments.data), format="extxyz")
    kinds = ase.io.read(start, ":", format="extxyz")
    molecules = [kind for kind in kinds for _ in range(arguments.copies)]
    system, positions = system_of(molecules, model)
    masses = np.array([system.getParticleMass(i)._value for i in range(system.getNumParticles())])
    for k, kind in enumerate(kinds):
        kind.info["bonds"] = covalent_bonds(kind.positions, kind.numbers)
        first = arguments.copies * sum(len(before) for before in kinds[:k])
        kind.info["masses"] = masses[first : first + len(kind)]

    settings = {
        "model": arguments.model,
        "weights": fingerprint(model),
        "copies": arguments.copies,
        "temperature_K": arguments.temperature,
        "time_step_fs": TIME_STEP,
        "hydrogen_mass_Da": HYDROGEN_MASS,
    }
    counts = {"picoseconds": 0, "frames_with_changed_bonds": 0, "warm_frames": 0, "mean_temperature_K": 0.0}
    rows = {kind.info["name"]: {"atoms": len(kind), **counts} for kind in kinds}
    done = 0
    saved = json.loads(progress_file.read_text()) if progress_file.exists() else None
    if saved is not None:
        if saved["settings"] != settings:
            parser.error(f"{arguments.run} holds a run with other settings: {saved['settings']}")
        rows, done = saved["rows"], saved["picoseconds_per_copy"]
    with_rows_beside(rows, settings, arguments.beside)  # what cannot be joined must not run for hours
    name = "stability_molecules"
    name += "-copies" if arguments.copies > 1 else ""
    name += f"-{arguments.temperature:g}K" if arguments.temperature != 300.0 else ""
    # Another seed after each interruption, or the same noise would come again.
    context = make_context(system, arguments.platform, arguments.temperature, 1 + done)
    if saved is None:
        context.setPositions(0.1 * positions)
        openmm.LocalEnergyMinimizer.minimize(context, maxIterations=300)
        context.setVelocitiesToTemperature(arguments.temperature, 1)
    else:
        context.setState(openmm.XmlSerializer.deserialize(saved["state"]))

    def save() -> Path:
        state = context.getState(positions=True, velocities=True)
        kept = {
            "settings": settings,
            "picoseconds_per_copy": done,
            "rows": rows,
            "state": openmm.XmlSerializer.serialize(state),
        }
        half = progress_file.with_suffix(".half")
        half.write_text(json.dumps(kept))
        half.replace(progress_file)
        counted = with_rows_beside(rows, settings, arguments.beside)
        shortest = min(row["picoseconds"] for row in counted.values()) // arguments.copies
        result = {**settings, "platform": arguments.platform, "picoseconds_per_copy": shortest}
        return write_result(name, {**result, "molecules": counted})

    saved_at = time.monotonic()
    with Progress() as progress:
        task = progress.add_task("ps", total=arguments.ps, completed=done)
        while done < arguments.ps and time.monotonic() < end:
            context.getIntegrator().step(STEPS_PER_PS)
            done += 1
            count_frame(rows, done, context.getState(positions=True, velocities=True), molecules)
            progress.advance(task)
            if time.monotonic() > saved_at + SAVE_SECONDS:
                save()
                saved_at = time.monotonic()
    print(save())


if __name__ == "__main__":
    main()
