"""Energy drift of a solvated peptide at constant energy, embedded mechanically and electrostatically.

    python examples/benchmarks/embedding_nve.py --ps 20

Capped alanine (ML) in TIP3P water with ions, 0.5 fs, velocity Verlet. The force field alone is run
beside both. Writes ``results/embedding_nve.json``.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit
from provenance import write_result

import openmm_les

sys.path.insert(0, str(Path(__file__).parents[1]))
from make_alanine_dipeptide import alanine_dipeptide

STEP_FS = 0.5


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


def total_energies(context: openmm.Context, picoseconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Times (ps) and total energies (kJ/mol), twenty a picosecond."""
    steps = round(50.0 / STEP_FS)
    times, energies = [], []
    for i in range(int(20 * picoseconds)):
        context.getIntegrator().step(steps)
        state = context.getState(getEnergy=True)
        total = state.getPotentialEnergy() + state.getKineticEnergy()
        times.append(0.05 * (i + 1))
        energies.append(total.value_in_unit(unit.kilojoule_per_mole))
    return np.array(times), np.array(energies)


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
    settings = {"nonbondedMethod": app.PME, "nonbondedCutoff": 0.9 * unit.nanometer, "rigidWater": True}
    mm_system = field.createSystem(modeller.topology, constraints=app.HBonds, **settings)
    # Without constraints in the peptide either, as in the mixed systems.
    flexible = field.createSystem(modeller.topology, constraints=None, **settings)
    peptide = range(22)
    systems = {"force field": flexible}
    for embedding in ("mechanical", "electrostatic"):
        systems[embedding] = openmm_les.create_mixed_system(
            modeller.topology, mm_system, peptide, model, embedding
        )
    platform = openmm.Platform.getPlatformByName(arguments.platform)
    start = None
    result = {"model": arguments.model, "platform": arguments.platform, "time_step_fs": STEP_FS}
    result["atoms"] = modeller.topology.getNumAtoms()
    for name, system in systems.items():
        integrator = openmm.LangevinMiddleIntegrator(300.0, 10.0, 0.0005)
        integrator.setRandomNumberSeed(1)
        warm = openmm.Context(system, integrator, platform)
        if start is None:
            warm.setPositions(modeller.positions)
            openmm.LocalEnergyMinimizer.minimize(warm, 10.0, 100)
        else:
            warm.setState(start)
        warm.setVelocitiesToTemperature(300.0, 1)
        integrator.step(1000 if start is None else 200)
        state = warm.getState(getPositions=True, getVelocities=True)
        start = start or state
        verlet = openmm.VerletIntegrator(STEP_FS * unit.femtosecond)
        verlet.setConstraintTolerance(1e-7)
        context = openmm.Context(system, verlet, platform)
        context.setPositions(state.getPositions())
        context.setVelocities(state.getVelocities())
        times, energies = total_energies(context, arguments.ps)
        slope, offset = np.polyfit(times, energies, 1)
        result[name] = {
            "picoseconds": arguments.ps,
            "drift_kJ_per_mol_per_ps": float(slope),
            "fluctuation_kJ_per_mol": float((energies - slope * times - offset).std()),
        }
        print(name, result[name], flush=True)
    print(write_result("embedding_nve", result))


if __name__ == "__main__":
    main()
