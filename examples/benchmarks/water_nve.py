"""Energy drift of 64 all-ML waters in NVE, single precision, mesh electrostatics.

    python examples/benchmarks/water_nve.py

A lattice of water: minimised, 1 ps at 300 K with a thermostat, 0.5 ps without, then the
run that counts (velocity Verlet, 0.5 fs, real masses). Writes ``results/water_nve.json``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import openmm
from openmm import unit
from provenance import write_result
from rich.progress import track

import openmm_les

sys.path.insert(0, str(Path(__file__).parents[1]))
from water_boxes import lattice_water, water_topology

TEMPERATURE = 300 * unit.kelvin
TIME_STEP = 0.5 * unit.femtosecond
STEPS_PER_PS = 2000
KJ = unit.kilojoule_per_mole


def started(system: openmm.System, positions, platform: openmm.Platform, picoseconds: float) -> openmm.State:
    """State of the minimised box after a run at 300 K with strong friction."""
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 5.0 / unit.picosecond, TIME_STEP)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(system, integrator, platform)
    context.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=100)
    context.setVelocitiesToTemperature(TEMPERATURE, 1)
    integrator.step(round(picoseconds * STEPS_PER_PS))
    return context.getState(positions=True, velocities=True)


def summary(times: list[float], energies: list[float], kinetic: list[float], waters: int) -> dict:
    """Drift and spread of the total energy (kJ/mol, at ps) and the temperature."""
    slope, intercept = np.polyfit(times, energies, 1)
    rest = np.array(energies) - slope * np.array(times) - intercept
    gas_constant = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(KJ / unit.kelvin)
    return {
        "waters": waters,
        "precision": "single",
        "time_step_fs": 0.5,
        "picoseconds": round(times[-1], 3),
        "drift_kJ_per_mol_per_ps_per_molecule": float(slope) / waters,
        "fluctuation_kJ_per_mol": float(rest.std()),
        "mean_temperature_K": float(2.0 * np.mean(kinetic) / ((9 * waters - 3) * gas_constant)),
    }


def main() -> None:
    """Run and write the result, every picosecond."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="water-gfn2-small")
    parser.add_argument("--side", type=int, default=4, help="molecules along an edge")
    parser.add_argument("--equilibration-ps", type=float, default=1.0)
    parser.add_argument("--ps", type=float, default=10.0)
    parser.add_argument("--platform", default="CPU")
    arguments = parser.parse_args()
    positions = lattice_water(arguments.side)[0].numpy() * unit.angstrom
    topology = water_topology(arguments.side)
    system = openmm_les.create_system(topology, openmm_les.load_model(arguments.model))
    platform = openmm.Platform.getPlatformByName(arguments.platform)
    state = started(system, positions, platform, arguments.equilibration_ps)
    integrator = openmm.VerletIntegrator(TIME_STEP)
    context = openmm.Context(system, integrator, platform)
    context.setState(state)
    integrator.step(STEPS_PER_PS // 2)
    times, energies, kinetic = [], [], []
    steps = STEPS_PER_PS // 50
    for i in track(range(round(arguments.ps * 50)), description="NVE", disable=None):
        integrator.step(steps)
        state = context.getState(energy=True)
        times.append(0.02 * (i + 1))
        kinetic.append(state.getKineticEnergy().value_in_unit(KJ))
        energies.append(state.getPotentialEnergy().value_in_unit(KJ) + kinetic[-1])
        if (i + 1) % 50 == 0:  # what a run that is stopped leaves behind
            result = summary(times, energies, kinetic, arguments.side**3)
            path = write_result("water_nve", {"model": Path(arguments.model).stem, **result})
    print(result)
    print(path)


if __name__ == "__main__":
    main()
