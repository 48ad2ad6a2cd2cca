"""Long runs of molecules that a shipped model has not seen: do their bonds hold?

    python examples/benchmarks/stability_molecules.py stability --ps 1000

Five capped dipeptides (built here; the model learned single capped amino acids) and five drug-like
molecules of the test split of gfn2_bio.h5 (`--data`), each in vacuum at 300 K, Langevin dynamics with
1 fs and hydrogens of 3 Da. Every picosecond the bonds are read from the geometry and compared with
those at the start. The same command goes on where an interrupted one stopped, and with a larger
``--ps`` where a finished one did. Writes ``results/stability_molecules.json``. Needs the extra `data`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import h5py
import numpy as np
import openmm
from ase.symbols import Symbols
from literature import SHARED
from openmm import app, unit
from provenance import write_result
from rich.progress import Progress

import openmm_les
from openmm_les.molecules import connected_molecules, covalent_bonds

sys.path.insert(0, str(Path(__file__).parents[1]))
from generate_gfn2_data import capped_peptide

PEPTIDES = ("AS", "GF", "VY", "TW", "NM")
LIGANDS = ("C10H18N2O3", "C9H13N5O3", "C10H8O3", "C10H20O2", "C7H7NO2")
"""Desthiobiotin, biopterin-like HBI, 4-methylumbelliferone, decanoic and 4-aminobenzoic acid."""
TEMPERATURE = 300.0 * unit.kelvin
HYDROGEN_MASS = 3.0  # Da
STEPS_PER_PS = 1000


def ligands(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Atomic numbers and positions (Å) of the first test configuration of each ligand."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    with h5py.File(path, "r") as file:
        data = {k: file[k][()] for k in ("split", "group", "offsets", "atomic_numbers", "positions")}
    wanted = (data["split"] == b"test") & (data["group"] == b"amino_acid_ligand")
    for i in np.flatnonzero(wanted):
        atoms = slice(data["offsets"][i], data["offsets"][i + 1])
        numbers = data["atomic_numbers"][atoms].astype(int)
        positions = data["positions"][atoms].astype(float)
        molecules = connected_molecules(covalent_bonds(positions, numbers), len(numbers))
        for m in range(molecules.max() + 1):
            formula = Symbols(numbers[molecules == m]).get_chemical_formula()
            if formula in LIGANDS:
                found.setdefault(formula, (numbers[molecules == m], positions[molecules == m]))
    return found


def topology_of(numbers: np.ndarray, positions: np.ndarray) -> app.Topology:
    """One residue with the bonds that the geometry shows."""
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    elements = [app.Element.getByAtomicNumber(int(z)) for z in numbers]
    atoms = [topology.addAtom(f"{e.symbol}{i}", e, residue) for i, e in enumerate(elements)]
    for i, j in covalent_bonds(positions, numbers):
        topology.addBond(atoms[i], atoms[j])
    return topology


def angstroms(state: openmm.State) -> np.ndarray:
    """Positions, [n, 3] in Å."""
    return state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)


def start(topology: app.Topology, positions: np.ndarray, model: openmm_les.LESModel) -> openmm.Context:
    """Context at the energy minimum, with velocities."""
    system = openmm_les.create_system(topology, model)
    for bond in topology.bonds():
        hydrogen, heavy = sorted((bond.atom1, bond.atom2), key=lambda a: a.element.atomic_number)
        if hydrogen.element.atomic_number == 1:
            moved = HYDROGEN_MASS - system.getParticleMass(hydrogen.index)._value
            system.setParticleMass(hydrogen.index, HYDROGEN_MASS)
            system.setParticleMass(heavy.index, system.getParticleMass(heavy.index)._value - moved)
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 1.0 / unit.picosecond, 0.001)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(0.1 * positions)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=300)
    context.setVelocitiesToTemperature(TEMPERATURE, 1)
    return context


def main() -> None:
    """Every molecule in turn."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder for states and counts")
    parser.add_argument("--model", default="peptide-gfn2-small")
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "training" / "gfn2_bio.h5")
    parser.add_argument("--ps", type=int, default=1000, help="of each molecule")
    arguments = parser.parse_args()
    model = openmm_les.load_model(arguments.model)
    arguments.run.mkdir(parents=True, exist_ok=True)
    molecules = {}
    for sequence in PEPTIDES:
        topology, positions = capped_peptide(sequence)
        numbers = np.array([atom.element.atomic_number for atom in topology.atoms()])
        molecules[f"ACE-{'-'.join(sequence)}-NME"] = topology, numbers, positions
    for name, (numbers, positions) in ligands(arguments.data).items():
        molecules[name] = topology_of(numbers, positions), numbers, positions
    rows = {}
    with Progress() as progress:
        for name, (topology, numbers, positions) in molecules.items():
            context = start(topology, positions, model)
            state_file = arguments.run / f"{name}.xml"
            counts_file = arguments.run / f"{name}.json"
            bonds = covalent_bonds(angstroms(context.getState(positions=True)), numbers)
            row = {"atoms": len(numbers), "picoseconds": 0, "frames_with_changed_bonds": 0}
            if counts_file.exists():
                row = json.loads(counts_file.read_text())
                context.setState(openmm.XmlSerializer.deserialize(state_file.read_text()))
                bonds = np.array(row["bonds"])
            row["bonds"] = bonds.tolist()
            task = progress.add_task(name, total=arguments.ps, completed=row["picoseconds"])
            while row["picoseconds"] < arguments.ps:
                context.getIntegrator().step(STEPS_PER_PS)
                state = context.getState(positions=True, velocities=True)
                row["picoseconds"] += 1
                changed = not np.array_equal(covalent_bonds(angstroms(state), numbers), bonds)
                row["frames_with_changed_bonds"] += int(changed)
                progress.advance(task)
                if row["picoseconds"] % 5 == 0 or row["picoseconds"] == arguments.ps:
                    state_file.write_text(openmm.XmlSerializer.serialize(state))
                    counts_file.write_text(json.dumps(row))
            rows[name] = {key: value for key, value in row.items() if key != "bonds"}
            settings = {"model": arguments.model, "temperature_K": 300.0, "time_step_fs": 1.0}
            path = write_result("stability_molecules", {**settings, "molecules": rows})
    print(path)


if __name__ == "__main__":
    main()
