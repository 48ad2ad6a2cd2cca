"""Infrared spectrum of liquid water, all of it ML, from the fluctuations of the cell's dipole.

    python examples/ir_water.py ir-water --waters 32 --ps 4

Builds a small periodic box, equilibrates it with TIP3P and then with the model, reports the dipole
every 2 fs, and draws n(ν̃)α(ν̃) with the measured band positions. Small boxes and picoseconds show
the bands; converged intensities want hundreds of molecules and 100 ps or more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

from openmm_les import create_system, load_model
from openmm_les.analysis.dipoles import DipoleSeries
from openmm_les.analysis.plots import plot_spectrum
from openmm_les.analysis.spectra import infrared_spectrum
from openmm_les.engine.reporters import DipoleReporter

TEMPERATURE = 300.0
MOLECULES_PER_NM3 = 33.33  # at 0.997 g/mL


def water_box(n_waters: int, seed: int) -> tuple[app.Topology, np.ndarray]:
    """Topology and positions ([n, 3], nm) of TIP3P water at the density of the liquid, equilibrated."""
    length = (n_waters / MOLECULES_PER_NM3) ** (1.0 / 3.0)
    field = app.ForceField("amber14/tip3p.xml")
    modeller = app.Modeller(app.Topology(), np.zeros((0, 3)) * unit.nanometer)
    modeller.addSolvent(field, numAdded=n_waters, neutralize=False)
    topology = modeller.topology
    # Modeller packs loosely: scale the molecules' places, not their shapes, to the density.
    found = np.array(modeller.positions.value_in_unit(unit.nanometer)).reshape(-1, 3, 3)
    width = topology.getPeriodicBoxVectors().value_in_unit(unit.nanometer)[0][0]
    places = found[:, :1] * (length / width)
    positions = (places + found - found[:, :1]).reshape(-1, 3)
    topology.setPeriodicBoxVectors(np.diag([length] * 3) * unit.nanometer)
    system = field.createSystem(
        topology, nonbondedMethod=app.PME, nonbondedCutoff=0.45 * length * unit.nanometer, rigidWater=True
    )
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 5, 1.0 * unit.femtosecond)
    integrator.setRandomNumberSeed(seed)
    simulation = app.Simulation(topology, system, integrator)
    simulation.context.setPositions(positions)
    simulation.minimizeEnergy()
    simulation.step(20000)
    state = simulation.context.getState(getPositions=True)
    return topology, state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)


def main() -> None:
    """Run, analyse, draw."""
    parser = argparse.ArgumentParser(description="IR spectrum of liquid water.")
    parser.add_argument("output", type=Path, help="folder to write to")
    parser.add_argument("--model", default="water-gfn2-small")
    parser.add_argument("--waters", type=int, default=32)
    parser.add_argument("--ps", type=float, default=4.0, help="length of the dynamics")
    parser.add_argument("--resolution", type=float, help="cm^-1 [what a tenth of the dynamics allows]")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    topology, positions = water_box(arguments.waters, arguments.seed)
    with open(arguments.output / "water.pdb", "w") as file:
        app.PDBFile.writeFile(topology, positions * unit.nanometer, file)

    system = create_system(topology, load_model(arguments.model))
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 5, 0.5 * unit.femtosecond)
    integrator.setRandomNumberSeed(arguments.seed)
    simulation = app.Simulation(topology, system, integrator)
    simulation.context.setPositions(positions)
    simulation.minimizeEnergy(maxIterations=30)
    simulation.context.setVelocitiesToTemperature(TEMPERATURE, arguments.seed)
    n_steps = round(arguments.ps * 2000)
    simulation.step(n_steps // 4)
    integrator.setFriction(0.1)  # so weak that it broadens lines by 0.5 cm^-1
    simulation.reporters.append(app.DCDReporter(str(arguments.output / "water.dcd"), 200))
    simulation.reporters.append(DipoleReporter(arguments.output / "dipole.h5", 4))
    simulation.step(n_steps)

    series = DipoleSeries.load(arguments.output / "dipole.h5")
    spectrum = infrared_spectrum(series, TEMPERATURE, resolution=arguments.resolution)
    spectrum.save(arguments.output / "ir.csv")
    plot_spectrum(
        spectrum,
        arguments.output / "ir.png",
        f"{arguments.waters} waters, {TEMPERATURE:g} K, {arguments.ps:g} ps, {arguments.model}",
        reference="water",
    )
    print("bands (cm^-1):", ", ".join(f"{p:.0f}" for p in spectrum.peaks(0.1)))
    print(f"drawn in {arguments.output / 'ir.png'}")


if __name__ == "__main__":
    main()
