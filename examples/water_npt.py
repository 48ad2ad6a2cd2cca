"""Water at constant pressure, all of it machine-learned: density and O-O distances against experiment.

    python examples/water_npt.py run --ps 20

64 waters (or ``--side`` cubed) on a lattice are minimised, moved at constant volume, then at 300 K and 1 bar
(or ``--pressure``). Hydrogens weigh 3 Da at the oxygens' cost, which allows steps of 1 fs and leaves averages
over positions as they are. The first quarter of the run at constant pressure is left out of averages. The
folder gets the trajectory, ``water.json`` and ``water.png``.

The shipped models are trained on GFN2-xTB, a semi-empirical method that pushes liquid water apart: at the
density of nature its pressure is several kbar, so that the box expands. Nuclei are classical. What the plot
shows is the quality of that method, of the fit to it, and of a short run of a small box; pass a ``--model``
of better data to see more.

Experiment: density of water at 300 K 0.9965 g/mL (Tanaka et al., Metrologia 38, 301 (2001)); first maximum
of the O-O distribution 2.57(5) at 2.80(1) Å (Skinner et al., J. Chem. Phys. 138, 074506 (2013)).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit
from rich.progress import track
from water_boxes import lattice_water, water_topology

import openmm_les
from openmm_les.analysis.radial import radial_distribution
from openmm_les.analysis.trajectories import TrajectorySource

DENSITY = 0.9965  # g/mL
FIRST_PEAK = (2.80, 2.57)  # Å, height
TEMPERATURE = 300.0 * unit.kelvin
TIME_STEP = 1.0 * unit.femtosecond
STEPS_PER_PS = 1000
FRAME_STEPS = 50
HYDROGEN_MASS = 3.0  # Da
DALTON_PER_CUBIC_NM = 1.66053906660e-3  # g/mL


def repartition(system: openmm.System, topology: app.Topology) -> None:
    """Heavier hydrogens, lighter oxygens, the same molecules."""
    for bond in topology.bonds():
        oxygen, hydrogen = sorted((bond.atom1, bond.atom2), key=lambda atom: -atom.element.atomic_number)
        moved = HYDROGEN_MASS - system.getParticleMass(hydrogen.index)._value
        system.setParticleMass(hydrogen.index, HYDROGEN_MASS)
        system.setParticleMass(oxygen.index, system.getParticleMass(oxygen.index)._value - moved)


def equilibrated(
    system: openmm.System, positions: np.ndarray, platform: str, picoseconds: float
) -> openmm.State:
    """State after a minimisation and a run at constant volume with strong friction."""
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 5.0 / unit.picosecond, TIME_STEP)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform))
    context.setPositions(positions * unit.angstrom)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=100)
    context.setVelocitiesToTemperature(TEMPERATURE, 1)
    for _ in track(range(20), description="constant volume", disable=None):
        integrator.step(round(picoseconds * STEPS_PER_PS / 20))
    return context.getState(positions=True, velocities=True)


def run_at_constant_pressure(
    system: openmm.System, start: openmm.State, topology: app.Topology, platform: str, steps: int, path: Path
) -> np.ndarray:
    """Densities, g/mL, of frames that go to a DCD file; ``system`` with its barostat."""
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 1.0 / unit.picosecond, TIME_STEP)
    integrator.setRandomNumberSeed(2)
    simulation = app.Simulation(topology, system, integrator, openmm.Platform.getPlatformByName(platform))
    simulation.context.setState(start)
    simulation.reporters.append(app.DCDReporter(str(path), FRAME_STEPS))
    mass = sum(system.getParticleMass(i)._value for i in range(system.getNumParticles()))
    volumes = []
    for _ in track(range(steps // FRAME_STEPS), description="constant pressure", disable=None):
        simulation.step(FRAME_STEPS)
        volumes.append(simulation.context.getState().getPeriodicBoxVolume()._value)
    return mass * DALTON_PER_CUBIC_NM / np.array(volumes)


def plot(densities: np.ndarray, left_out: int, radial, title: str, path: Path) -> None:
    """Density against time and g(r) of the oxygens, with the experiment."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.0, 3.8), constrained_layout=True)
    times = np.arange(1, len(densities) + 1) * FRAME_STEPS / STEPS_PER_PS
    left.plot(times, densities, linewidth=0.8)
    left.axvspan(0.0, times[left_out], color="0.92", label="left out")
    left.axhline(DENSITY, color="black", linestyle="--", label="experiment")
    left.set_xlabel("time / ps")
    left.set_ylabel("density / (g/mL)")
    left.legend(fontsize=8)
    right.plot(radial.distances, radial.values)
    if radial.errors is not None:
        low, high = radial.values - radial.errors, radial.values + radial.errors
        right.fill_between(radial.distances, low, high, alpha=0.3)
    right.plot(*FIRST_PEAK, "k+", markersize=12, label="experiment, first maximum")
    right.set_xlim(2.0, radial.distances[-1])
    right.set_xlabel("O-O distance / Å")
    right.set_ylabel("g(r)")
    right.legend(fontsize=8)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run, average, write and plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("output", type=Path, help="folder, new")
    parser.add_argument("--model", default="water-gfn2-small")
    parser.add_argument("--side", type=int, default=4, help="molecules along an edge")
    parser.add_argument("--ps", type=float, default=20.0, help="at constant pressure")
    parser.add_argument("--pressure", type=float, default=1.0, help="bar")
    parser.add_argument("--equilibration-ps", type=float, default=1.0, help="at constant volume, before")
    parser.add_argument("--platform", default="CPU")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True)
    positions, topology = lattice_water(arguments.side)[0].numpy(), water_topology(arguments.side)
    system = openmm_les.create_system(topology, openmm_les.load_model(arguments.model))
    repartition(system, topology)
    start = equilibrated(system, positions, arguments.platform, arguments.equilibration_ps)
    (arguments.output / "equilibrated.xml").write_text(openmm.XmlSerializer.serialize(start))
    trajectory, structure = arguments.output / "trajectory.dcd", arguments.output / "topology.pdb"
    with structure.open("w") as file:
        app.PDBFile.writeFile(topology, positions * unit.angstrom, file)
    steps = round(arguments.ps * STEPS_PER_PS)
    barostat = openmm.MonteCarloBarostat(arguments.pressure * unit.bar, TEMPERATURE, 20)
    barostat.setRandomNumberSeed(1)
    system.addForce(barostat)
    densities = run_at_constant_pressure(system, start, topology, arguments.platform, steps, trajectory)
    left_out = len(densities) // 4
    radial = radial_distribution(TrajectorySource(trajectory, structure, skip=left_out), "name O", "name O")
    peak = int(np.argmax(radial.values))
    model = Path(arguments.model).stem
    result = {
        "model": model,
        "waters": arguments.side**3,
        "pressure_bar": arguments.pressure,
        "picoseconds": arguments.ps,
        "density_g_per_mL": float(densities[left_out:].mean()),
        "density_spread": float(densities[left_out:].std()),
        "density_experiment": DENSITY,
        "first_peak_angstrom": float(radial.distances[peak]),
        "first_peak_height": float(radial.values[peak]),
        "first_peak_experiment": FIRST_PEAK,
    }
    (arguments.output / "water.json").write_text(json.dumps(result, indent=2) + "\n")
    title = f"{arguments.side**3} waters, {model}, {arguments.pressure:g} bar, 300 K, {arguments.ps:g} ps"
    plot(densities, left_out, radial, title, arguments.output / "water.png")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
