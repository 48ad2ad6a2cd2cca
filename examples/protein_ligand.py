"""A ligand in its protein by a model, protein and water by a force field: both embeddings, one run each.

    python examples/protein_ligand.py complex.pdb --ff amber14-all.xml --ff amber14/tip3p.xml \\
        --ff ligand.xml --ligand "resname LIG" --ps 1 --output run

Takes a solvated complex (PDB, mmCIF, ``.gz`` of either) or an Amber prmtop with its coordinates, and an
mdtraj selection of the ligand. Each run starts from the same minimised structure and velocities; the
table shows where the energy of the electrostatic one lies, what the charges of the ligand do, and how
fast everything goes beside the force field alone.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import mdtraj
import numpy as np
import openmm
from openmm import unit
from rich.console import Console
from rich.table import Table

import openmm_les
from openmm_les.embedding.report import MixedEnergies, MixedEnergyReporter
from openmm_les.engine.force_reader import MLForceReader
from openmm_les.engine.inputs import Structure, build_mm_system, load_force_field, read_structure

EMBEDDINGS = ("mechanical", "electrostatic")


def minimised(structure: Structure, system: openmm.System, platform: str, iterations: int) -> openmm.State:
    """Positions after a minimisation by the force field, and velocities at 300 K."""
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(platform)
    )
    context.setPositions(structure.positions)
    openmm.LocalEnergyMinimizer.minimize(context, 10.0, iterations)
    context.setVelocitiesToTemperature(300.0, 1)
    return context.getState(getPositions=True, getVelocities=True)


def simulation_of(
    structure: Structure, system: openmm.System, start: openmm.State, arguments: argparse.Namespace
) -> openmm.app.Simulation:
    """Langevin dynamics at 300 K from a state."""
    integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, arguments.timestep * unit.femtosecond)
    integrator.setRandomNumberSeed(1)
    platform = openmm.Platform.getPlatformByName(arguments.platform)
    simulation = openmm.app.Simulation(structure.topology, system, integrator, platform)
    simulation.context.setPeriodicBoxVectors(*start.getPeriodicBoxVectors())
    simulation.context.setPositions(start.getPositions())
    simulation.context.setVelocities(start.getVelocities())
    return simulation


def timed(simulation: openmm.app.Simulation, steps: int) -> float:
    """Run and return ms per step."""
    simulation.step(1)
    begin = time.perf_counter()
    simulation.step(steps)
    simulation.context.getState(getEnergy=True)
    return 1e3 * (time.perf_counter() - begin) / steps


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("structure", nargs="+", type=Path, help="PDB or mmCIF, or prmtop and coordinates")
    parser.add_argument("--ff", action="append", default=[], help="force-field XML; repeat for several")
    parser.add_argument("--ligand", required=True, help="mdtraj selection, such as 'resname LIG'")
    parser.add_argument("--model", default="peptide-gfn2-small", help="shipped model or file")
    parser.add_argument("--charge", type=float, help="e, of the ligand; by the force field if left out")
    parser.add_argument("--ps", type=float, default=0.5, help="length of each run")
    parser.add_argument("--timestep", type=float, default=0.5, help="fs")
    parser.add_argument("--cutoff", type=float, default=0.9, help="nm, of the force field")
    parser.add_argument("--platform", default="CPU")
    parser.add_argument("--minimize", type=int, default=100, help="iterations at most, by the force field")
    parser.add_argument("--output", type=Path, default=Path("protein_ligand"))
    arguments = parser.parse_args()
    structure = read_structure(arguments.structure)
    field = load_force_field(arguments.ff) if structure.prmtop is None else None
    mm_system = build_mm_system(structure, field, cutoff=arguments.cutoff)
    ligand = mdtraj.Topology.from_openmm(structure.topology).select(arguments.ligand).tolist()
    model = openmm_les.load_model(arguments.model)
    arguments.output.mkdir(exist_ok=True)
    steps = max(1, round(1e3 * arguments.ps / arguments.timestep))
    start = minimised(structure, mm_system, arguments.platform, arguments.minimize)

    speeds = {"force field": timed(simulation_of(structure, mm_system, start, arguments), min(steps, 50))}
    for embedding in EMBEDDINGS:
        system = openmm_les.create_mixed_system(
            structure.topology, mm_system, ligand, model, embedding, arguments.charge
        )
        simulation = simulation_of(structure, system, start, arguments)
        simulation.reporters.append(
            openmm.app.DCDReporter(str(arguments.output / f"{embedding}.dcd"), max(1, steps // 10))
        )
        if embedding == "electrostatic":
            terms = arguments.output / "energy_terms.csv"
            simulation.reporters.append(MixedEnergyReporter(terms, max(1, steps // 20)))
        speeds[embedding] = timed(simulation, steps)
        state = simulation.context.getState(getPositions=True, getEnergy=True)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
        charges = MLForceReader(system).charges(positions, box)
        dipole = np.linalg.norm(charges @ (10.0 * positions[ligand])) if abs(charges.sum()) < 0.5 else np.nan
        print(f"{embedding}: charges {charges.min():+.3f} to {charges.max():+.3f} e, dipole {dipole:.3f} e·Å")
        if embedding == "electrostatic":
            print(MixedEnergies(system).terms(simulation.context))

    table = Table("system", "ms/step", "ns/day")
    for name, speed in speeds.items():
        table.add_row(name, f"{speed:.1f}", f"{86.4 * arguments.timestep / speed:.3g}")
    Console().print(table)


if __name__ == "__main__":
    main()
