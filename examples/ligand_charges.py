"""Charges of a solute in water against its charges in vacuum, in the same geometries.

    python examples/ligand_charges.py ligand-charges --ps 20

The solute (ACE-ALA-NME) moves in a box of TIP3P water by the force field. Its charges are then read
from the model twice: with the waters within 9 Å there, and without them. The difference is what the
water does to the charge distribution, which no fixed-charge force field has.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import mdtraj
import numpy as np
import openmm
from make_alanine_dipeptide import alanine_dipeptide
from openmm import app, unit

from openmm_les import load_model
from openmm_les.analysis.charges import ChargeModel
from openmm_les.analysis.plots import figure_to
from openmm_les.analysis.rendering import draw_charges
from openmm_les.analysis.trajectories import TrajectorySource
from openmm_les.units import E_ANGSTROM_PER_DEBYE

REACH = 9.0  # Å, as far as the model's two rounds of 4.5 Å see


def solvated_trajectory(folder: Path, picoseconds: float, n_frames: int, seed: int) -> Path:
    """DCD of the solute in water by the force field; its topology as PDB beside it."""
    topology, positions = alanine_dipeptide()
    field = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
    modeller = app.Modeller(topology, positions * unit.angstrom)
    modeller.addSolvent(field, padding=1.0 * unit.nanometer)
    system = field.createSystem(
        modeller.topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=0.9 * unit.nanometer,
        constraints=app.HBonds,
    )
    system.addForce(openmm.MonteCarloBarostat(1.0 * unit.bar, 300.0 * unit.kelvin))
    integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 2.0 * unit.femtosecond)
    integrator.setRandomNumberSeed(seed)
    simulation = app.Simulation(modeller.topology, system, integrator)
    simulation.context.setPositions(modeller.positions)
    simulation.minimizeEnergy(maxIterations=200)
    n_steps = round(picoseconds * 500)
    simulation.step(n_steps // 4)
    path = folder / "solvated.dcd"
    simulation.reporters.append(app.DCDReporter(str(path), max(1, n_steps // n_frames)))
    simulation.step(n_steps)
    with open(folder / "solvated.pdb", "w") as file:
        state = simulation.context.getState(getPositions=True)
        app.PDBFile.writeFile(modeller.topology, state.getPositions(), file)
    return path


def cluster(frame: np.ndarray, cell: np.ndarray, solute: np.ndarray, waters: np.ndarray) -> np.ndarray:
    """Places of the solute and the waters within `REACH` of it, [n, 3] in Å, solute first.

    ``frame`` [n_atoms, 3] and ``cell`` [3, 3] in Å; ``waters`` [n_waters, 3] indices, oxygen first.
    """
    oxygens = frame[waters[:, 0]]
    away = oxygens[:, None] - frame[solute][None]
    images = np.round(away @ np.linalg.inv(cell)) @ cell
    distances = np.linalg.norm(away - images, axis=2)  # [n_waters, n_solute]
    nearest = distances.argmin(1)
    rows = np.arange(len(waters))
    near = distances.min(1) < REACH
    moved = frame[waters] - images[rows, nearest][:, None]
    return np.concatenate([frame[solute], moved[near].reshape(-1, 3)])


def main() -> None:
    """Run, read charges, compare."""
    parser = argparse.ArgumentParser(description="Charges of ACE-ALA-NME in water and in vacuum.")
    parser.add_argument("output", type=Path, help="folder to write to")
    parser.add_argument("--model", default="peptide-gfn2-small")
    parser.add_argument("--ps", type=float, default=20.0, help="length of the dynamics")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = solvated_trajectory(arguments.output, arguments.ps, arguments.frames, arguments.seed)
    model = load_model(arguments.model)
    source = TrajectorySource(path, arguments.output / "solvated.pdb", periodic=True)
    solute = source.topology.select("not water")
    waters = source.topology.select("water").reshape(-1, 3)
    part = source.topology.subset(solute)
    alone = ChargeModel.from_topology(model, part)
    wet, dry, places = [], [], []
    for frames in source:
        for frame, cell in zip(frames.positions, frames.cells):
            positions = cluster(frame, cell, solute, waters)
            n_waters = (len(positions) - len(solute)) // 3
            numbers = [*alone.numbers, *([8, 1, 1] * n_waters)]
            first = len(solute) + 3 * np.arange(n_waters)
            bonds = np.concatenate([alone.bonds, *(np.stack([first, first + k], 1) for k in (1, 2))])
            together = ChargeModel(model, numbers, bonds)
            wet.append(together.charges(positions[None])[0, : len(solute)])
            dry.append(alone.charges(positions[None, : len(solute)])[0])
            places.append(positions[: len(solute)])
    water, vacuum, where = np.array(wet), np.array(dry), np.array(places)
    write(arguments.output, part, water, vacuum, where)


def write(
    folder: Path, topology: mdtraj.Topology, water: np.ndarray, vacuum: np.ndarray, where: np.ndarray
) -> None:
    """Table and pictures of charges [n_frames, n_atoms] at places [n_frames, n_atoms, 3]."""
    shift = water - vacuum
    with open(folder / "charges.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["atom", "in water (e)", "in vacuum (e)", "difference (e)", "its deviation (e)"])
        for k, atom in enumerate(topology.atoms):
            row = (water[:, k].mean(), vacuum[:, k].mean(), shift[:, k].mean(), shift[:, k].std())
            writer.writerow([str(atom), *(f"{value:+.4f}" for value in row)])
    center = where.mean(1, keepdims=True)
    moments = [np.linalg.norm(np.einsum("fi,fia->fa", q, where - center), axis=1) / E_ANGSTROM_PER_DEBYE
               for q in (water, vacuum)]  # fmt: skip
    print(f"dipole of the solute: {moments[0].mean():.2f} D in water, {moments[1].mean():.2f} D in vacuum")
    for k in np.argsort(-np.abs(shift.mean(0)))[:5]:
        print(f"  {topology.atom(int(k))!s:10} {vacuum[:, k].mean():+.3f} -> {water[:, k].mean():+.3f} e")
    draw_charges(
        topology, where[-1], shift.mean(0), folder / "difference.png", "charge in water less in vacuum"
    )
    with figure_to(folder / "charges.png", 4.2, 4.0) as figure:
        axes = figure.subplots()
        limits = [min(water.min(), vacuum.min()) - 0.03, max(water.max(), vacuum.max()) + 0.03]
        axes.plot(limits, limits, color="black", linewidth=0.6, linestyle=":")
        for name in sorted({atom.element.symbol for atom in topology.atoms}):
            chosen = [a.index for a in topology.atoms if a.element.symbol == name]
            axes.errorbar(
                vacuum[:, chosen].mean(0), water[:, chosen].mean(0), water[:, chosen].std(0),
                vacuum[:, chosen].std(0), fmt="o", markersize=4, linewidth=0.8, label=name,
            )  # fmt: skip
        axes.set(xlim=limits, ylim=limits, xlabel="charge in vacuum (e)", ylabel="charge in water (e)")
        axes.legend(fontsize=8, frameon=False)
    print(f"written to {folder}")


if __name__ == "__main__":
    main()
