"""Energy drift and dipole of a solvated peptide, embedded mechanically and electrostatically.

    python examples/benchmarks/embedding_nve.py --ps 20

Capped alanine (ML) in TIP3P water with ions, 0.5 fs, velocity Verlet. The force field alone is run
beside both. The dipole of the peptide along each run is that of the model's charges, which in
mechanical embedding know of the water by the geometry alone. Writes ``results/embedding_nve.json``
and ``embedding_nve.png`` beside it.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit
from provenance import RESULTS, write_result
from stability import drift

import openmm_les
from openmm_les.analysis.plots import figure_to
from openmm_les.engine.force_reader import MLForceReader
from openmm_les.units import ANGSTROM_PER_NM, E_ANGSTROM_PER_DEBYE

sys.path.insert(0, str(Path(__file__).parents[1]))
from make_alanine_dipeptide import alanine_dipeptide

STEP_FS = 0.5
PEPTIDE = 22  # atoms, the first ones


def solvated(width: float) -> tuple[app.Modeller, app.ForceField]:
    """Capped alanine in a cubic box of ``width`` nm."""
    topology, positions = alanine_dipeptide()
    field = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
    modeller = app.Modeller(topology, positions * unit.angstrom)
    random.seed(1)
    modeller.addSolvent(
        field, boxSize=openmm.Vec3(width, width, width) * unit.nanometer, ionicStrength=0.3 * unit.molar
    )
    return modeller, field


def systems(
    modeller: app.Modeller, field: app.ForceField, model: openmm_les.LESModel
) -> dict[str, openmm.System]:
    """The force field alone and both embeddings of the peptide; nothing in the peptide is constrained."""
    settings = {"nonbondedMethod": app.PME, "nonbondedCutoff": 0.9 * unit.nanometer, "rigidWater": True}
    constrained = field.createSystem(modeller.topology, constraints=app.HBonds, **settings)
    made = {"force field": field.createSystem(modeller.topology, constraints=None, **settings)}
    for embedding in ("mechanical", "electrostatic"):
        made[embedding] = openmm_les.create_mixed_system(
            modeller.topology, constrained, range(PEPTIDE), model, embedding
        )
    return made


def warmed(
    system: openmm.System, positions: unit.Quantity, platform: openmm.Platform, start: openmm.State | None
) -> openmm.State:
    """State at 300 K: from ``positions`` by way of a minimum, or from a state already warm."""
    integrator = openmm.LangevinMiddleIntegrator(300.0, 10.0, 0.001 * STEP_FS)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(system, integrator, platform)
    if start is None:
        context.setPositions(positions)
        openmm.LocalEnergyMinimizer.minimize(context, 10.0, 100)
    else:
        context.setState(start)
    context.setVelocitiesToTemperature(300.0, 1)
    integrator.step(1000 if start is None else 200)
    return context.getState(getPositions=True, getVelocities=True)


def without_thermostat(
    system: openmm.System, state: openmm.State, platform: openmm.Platform
) -> openmm.Context:
    """Context of velocity Verlet from the positions and velocities of a state."""
    verlet = openmm.VerletIntegrator(STEP_FS * unit.femtosecond)
    verlet.setConstraintTolerance(1e-7)
    context = openmm.Context(system, verlet, platform)
    context.setPositions(state.getPositions())
    context.setVelocities(state.getVelocities())
    return context


def dipole(reader: MLForceReader, state: openmm.State) -> float:
    """Size of the dipole of the region, one neutral molecule, in debye."""
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
    moment = reader.charges(positions, box) @ positions[reader.atoms] * ANGSTROM_PER_NM
    return float(np.linalg.norm(moment)) / E_ANGSTROM_PER_DEBYE


def samples(
    context: openmm.Context, reader: MLForceReader | None, picoseconds: float
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Times (ps), total energies (kJ/mol) and dipoles of the region (D), twenty a picosecond."""
    steps = round(50.0 / STEP_FS)
    times, energies, dipoles = [], [], []
    for i in range(int(20 * picoseconds)):
        context.getIntegrator().step(steps)
        state = context.getState(getEnergy=True, getPositions=reader is not None)
        total = state.getPotentialEnergy() + state.getKineticEnergy()
        times.append(0.05 * (i + 1))
        energies.append(total.value_in_unit(unit.kilojoule_per_mole))
        if reader is not None:
            dipoles.append(dipole(reader, state))
    return np.array(times), np.array(energies), dipoles


def draw(path: Path, series: dict[str, tuple[np.ndarray, list[float]]]) -> None:
    """Dipoles (D) along the runs, by embedding: (times in ps, dipoles)."""
    with figure_to(path, 7.0, 3.5) as figure:
        axes = figure.add_subplot()
        for name, (times, dipoles) in series.items():
            axes.plot(times, dipoles, label=f"{name}, mean {np.mean(dipoles):.1f} D")
        axes.set(xlabel="time (ps)", ylabel="dipole of the peptide (D)")
        axes.legend()


def main() -> None:
    """Run all three and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="peptide-gfn2-small")
    parser.add_argument("--ps", type=float, default=20.0)
    parser.add_argument("--width", type=float, default=2.2, help="nm")
    parser.add_argument("--platform", default="CPU")
    arguments = parser.parse_args()
    model = openmm_les.load_model(arguments.model)
    modeller, field = solvated(arguments.width)
    platform = openmm.Platform.getPlatformByName(arguments.platform)
    start = None
    series: dict[str, tuple[np.ndarray, list[float]]] = {}
    result = {"model": arguments.model, "platform": arguments.platform, "time_step_fs": STEP_FS}
    result["atoms"] = modeller.topology.getNumAtoms()
    for name, system in systems(modeller, field, model).items():
        state = warmed(system, modeller.positions, platform, start)
        start = start or state
        context = without_thermostat(system, state, platform)
        reader = None if name == "force field" else MLForceReader(system)
        times, energies, dipoles = samples(context, reader, arguments.ps)
        result[name] = {"picoseconds": arguments.ps, **drift(times, energies)}
        if dipoles:
            result[name] |= {
                "mean_dipole_debye": float(np.mean(dipoles)),
                "spread_of_dipole_debye": float(np.std(dipoles)),
            }
            series[name] = times, dipoles
        print(name, result[name], flush=True)
    print(write_result("embedding_nve", result))
    draw(RESULTS / "embedding_nve.png", series)


if __name__ == "__main__":
    main()
