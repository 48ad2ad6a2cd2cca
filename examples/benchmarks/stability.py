"""Stability of a shipped model: energy drift in NVE and whole molecules in NVT, in vacuum.

    python examples/benchmarks/stability.py nve
    python examples/benchmarks/stability.py nvt

Runs the capped alanine of `examples/make_alanine_dipeptide.py` with all atoms ML and writes
``results/stability-nve.json`` or ``results/stability-nvt.json``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openmm
from openmm import unit
from provenance import write_result
from rich.progress import track

import openmm_les
from openmm_les.molecules import covalent_bonds

sys.path.insert(0, str(Path(__file__).parents[1]))
from make_alanine_dipeptide import alanine_dipeptide

TEMPERATURE = 300 * unit.kelvin
TIME_STEP = 0.5 * unit.femtosecond
STEPS_PER_PS = 2000
KJ = unit.kilojoule_per_mole


def simulation(topology, positions, system, integrator) -> openmm.app.Simulation:
    """Simulation at the energy minimum with velocities of 300 K."""
    made = openmm.app.Simulation(topology, system, integrator, openmm.Platform.getPlatformByName("Reference"))
    made.context.setPositions(positions * unit.angstrom)
    made.minimizeEnergy(maxIterations=200)
    made.context.setVelocitiesToTemperature(TEMPERATURE, 1)
    return made


def angstroms(state: openmm.State) -> np.ndarray:
    """Positions of a State, [n, 3], Å."""
    return state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)


def drift(times: Sequence[float], energies: Sequence[float]) -> dict[str, float]:
    """Slope and spread of total energies (kJ/mol) at times (ps)."""
    slope, intercept = np.polyfit(times, energies, 1)
    rest = np.array(energies) - slope * np.array(times) - intercept
    return {"drift_kJ_per_mol_per_ps": float(slope), "fluctuation_kJ_per_mol": float(rest.std())}


def energy_drift(
    topology, positions, model, precision: str, picoseconds: float, field: Sequence[float] | None = None
) -> dict[str, float]:
    """Slope and spread of the total energy in NVE (velocity Verlet, 0.5 fs); ``field`` in V/nm."""
    system = openmm_les.create_system(topology, model, precision=precision, electric_field=field)
    run = simulation(topology, positions, system, openmm.VerletIntegrator(TIME_STEP))
    run.step(STEPS_PER_PS)  # minimised molecules first share their energy among modes
    times, energies = [], []
    for i in track(range(int(picoseconds * 20)), description=f"NVE {precision}", disable=None):
        run.step(STEPS_PER_PS // 20)
        state = run.context.getState(energy=True)
        times.append(0.05 * (i + 1))
        energies.append((state.getPotentialEnergy() + state.getKineticEnergy()).value_in_unit(KJ))
    return {"picoseconds": picoseconds, **drift(times, energies)}


def broken_bonds(topology, positions, model, picoseconds: float) -> dict[str, float]:
    """Bonds that change and mean temperature in NVT (Langevin, 300 K, 1/ps)."""
    system = openmm_les.create_system(topology, model)
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 1 / unit.picosecond, TIME_STEP)
    integrator.setRandomNumberSeed(1)
    run = simulation(topology, positions, system, integrator)
    numbers = np.array([atom.element.atomic_number for atom in topology.atoms()])
    before = covalent_bonds(positions, numbers)
    changed, kinetic = 0, []
    for _ in track(range(int(picoseconds)), description="NVT", disable=None):
        run.step(STEPS_PER_PS)
        state = run.context.getState(positions=True, energy=True)
        changed += not np.array_equal(covalent_bonds(angstroms(state), numbers), before)
        kinetic.append(state.getKineticEnergy().value_in_unit(KJ))
    freedoms = 3 * len(numbers) - 3
    gas_constant = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(KJ / unit.kelvin)
    return {
        "picoseconds": picoseconds,
        "frames_with_changed_bonds": changed,
        "frames": len(kinetic),
        "mean_temperature_K": float(2 * np.mean(kinetic) / (freedoms * gas_constant)),
    }


def main() -> None:
    """Run one of the two and write the result."""
    parser = argparse.ArgumentParser(description="Energy drift (nve) or whole molecules (nvt).")
    parser.add_argument("ensemble", choices=["nve", "nvt"])
    parser.add_argument("--model", default="peptide-gfn2-small")
    parser.add_argument("--ps", type=float, help="picoseconds [20 for nve, 100 for nvt]")
    arguments = parser.parse_args()
    topology, positions = alanine_dipeptide()
    model = openmm_les.load_model(arguments.model)
    result = {"model": arguments.model, "molecule": "ACE-ALA-NME", "time_step_fs": 0.5}
    if arguments.ensemble == "nve":
        for precision in ("single", "double"):
            result[precision] = energy_drift(topology, positions, model, precision, arguments.ps or 20)
    else:
        result["single"] = broken_bonds(topology, positions, model, arguments.ps or 100)
    print(result)
    print(write_result(f"stability-{arguments.ensemble}", result))


if __name__ == "__main__":
    main()
