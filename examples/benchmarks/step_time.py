"""Time of one MD step of the demo system: force field alone, model alone, both mixed, per route.

    python examples/benchmarks/step_time.py

Capped alanine in a TIP3P box on the CPU platform (``--platform CUDA`` for another). Times are medians over
interleaved blocks, ratios are against the force field of the same run. Writes
``results/step_time-<route stack>.json``, on another platform ``step_time-<route stack>-<platform>.json``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import openmm
from openmm import app, unit
from provenance import write_result
from rich.console import Console
from rich.table import Table

import openmm_les
from openmm_les.engine.routes import available_routes

sys.path.insert(0, str(Path(__file__).parents[1]))
from make_alanine_dipeptide import alanine_dipeptide


def solvated(padding: float) -> tuple[app.Modeller, app.ForceField]:
    """Capped alanine in water, with its force field; ``padding`` in nm."""
    field = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
    topology, positions = alanine_dipeptide()
    modeller = app.Modeller(topology, positions * unit.angstrom)
    modeller.addSolvent(field, padding=padding * unit.nanometer)
    return modeller, field


def context(system: openmm.System, positions, platform: str) -> openmm.Context:
    """Context at minimised positions with velocities."""
    made = openmm.Context(
        system,
        openmm.LangevinMiddleIntegrator(300, 1, 0.0005),
        openmm.Platform.getPlatformByName(platform),
    )
    made.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(made, 100, 30)
    made.setVelocitiesToTemperature(300, 1)
    return made


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description="Step time of the demo system.")
    parser.add_argument("--model", default="peptide-gfn2-small")
    parser.add_argument("--platform", default="CPU")
    parser.add_argument("--padding", type=float, default=1.0, help="nm of water around the peptide")
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20, help="steps in a block")
    arguments = parser.parse_args()
    model = openmm_les.load_model(arguments.model)
    modeller, field = solvated(arguments.padding)
    mm_system = field.createSystem(
        modeller.topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=0.9 * unit.nanometer,
        constraints=app.HBonds,
        rigidWater=True,
    )
    topology, positions = alanine_dipeptide()
    peptide = list(range(topology.getNumAtoms()))

    contexts = {"force field": context(mm_system, modeller.positions, arguments.platform)}
    routes = [name for name, status in available_routes().items() if status.available]
    for route in routes:
        alone = openmm_les.create_system(topology, model, route=route)
        contexts[f"model alone, {route}"] = context(alone, positions * unit.angstrom, arguments.platform)
        for embedding in ("mechanical", "electrostatic"):
            mixed = openmm_les.create_mixed_system(
                modeller.topology, mm_system, peptide, model, embedding=embedding, route=route
            )
            name = f"mixed {embedding}, {route}"
            contexts[name] = context(mixed, modeller.positions, arguments.platform)

    times: dict[str, list[float]] = {name: [] for name in contexts}
    for made in contexts.values():
        made.getIntegrator().step(arguments.steps)
    for _ in range(arguments.blocks):
        for name, made in contexts.items():
            made.getState(energy=True)  # waits for earlier work
            start = time.perf_counter()
            made.getIntegrator().step(arguments.steps)
            made.getState(energy=True)
            times[name].append(1e3 * (time.perf_counter() - start) / arguments.steps)

    reference = statistics.median(times["force field"])
    table = Table("system", "ms/step", "spread", "ratio to force field")
    rows = {}
    for name, values in times.items():
        median = statistics.median(values)
        rows[name] = {
            "ms_per_step": median,
            "spread_ms": max(values) - min(values),
            "ratio": median / reference,
        }
        table.add_row(name, f"{median:.2f}", f"{max(values) - min(values):.2f}", f"{median / reference:.2f}")
    Console().print(table)
    stack = "-".join(routes)
    if arguments.platform != "CPU":
        stack += f"-{arguments.platform}"
    atoms = {"total": modeller.topology.getNumAtoms(), "ml": len(peptide)}
    print(write_result(f"step_time-{stack}", {"platform": arguments.platform, "atoms": atoms, "times": rows}))


if __name__ == "__main__":
    main()
