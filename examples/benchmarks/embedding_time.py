"""Time of one MD step of an embedded ligand: force field, openmm-ml's mechanical embedding, and ours.

    python examples/benchmarks/embedding_time.py complex.pdb.gz --ff amber14-all.xml --ff amber14/tip3p.xml \\
        --ff ligand.xml --ligand "resname LIG"

Medians over interleaved blocks of steps in one process. Writes ``results/embedding_time.json``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import mdtraj
import openmm
from openmm import unit
from openmmml import MLPotential
from provenance import write_result

import openmm_les
from openmm_les.engine.inputs import build_mm_system, load_force_field, read_structure
from openmm_les.engine.routes import choose_route


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("structure", nargs="+", type=Path)
    parser.add_argument("--ff", action="append", default=[])
    parser.add_argument("--ligand", required=True, help="mdtraj selection")
    parser.add_argument("--model", default="peptide-gfn2-small")
    parser.add_argument("--platform", default="CPU")
    parser.add_argument("--cutoff", type=float, default=0.9, help="nm")
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="steps in a block")
    parser.add_argument("--name", default="embedding_time")
    arguments = parser.parse_args()
    structure = read_structure(arguments.structure)
    field = load_force_field(arguments.ff) if structure.prmtop is None else None
    mm_system = build_mm_system(structure, field, cutoff=arguments.cutoff)
    ligand = mdtraj.Topology.from_openmm(structure.topology).select(arguments.ligand).tolist()
    model = openmm_les.load_model(arguments.model)
    parts = (structure.topology, mm_system, ligand)
    name = model.metadata.get("name", "")
    theirs = MLPotential("les", modelPath=arguments.model) if not name else MLPotential(f"les-{name}")
    systems = {
        "force field": mm_system,
        "openmm-ml, mechanical": theirs.createMixedSystem(*parts),
        "mechanical": openmm_les.create_mixed_system(*parts, model, "mechanical"),
        "electrostatic": openmm_les.create_mixed_system(*parts, model, "electrostatic"),
    }
    contexts = {}
    for key, system in systems.items():
        integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.0005)
        platform = openmm.Platform.getPlatformByName(arguments.platform)
        contexts[key] = openmm.Context(system, integrator, platform)
        contexts[key].setPositions(structure.positions * unit.nanometer)
        integrator.step(4)  # TorchScript optimises during the first
    times: dict[str, list[float]] = {key: [] for key in contexts}
    for _ in range(arguments.blocks):
        for key, context in contexts.items():
            context.getState(getEnergy=True)
            begin = time.perf_counter()
            context.getIntegrator().step(arguments.steps)
            context.getState(getPositions=True)
            times[key].append(1e3 * (time.perf_counter() - begin) / arguments.steps)
    reference = statistics.median(times["force field"])
    rows = {}
    for key, values in times.items():
        median = statistics.median(values)
        rows[key] = {
            "ms_per_step": median,
            "least_ms": min(values),
            "spread_ms": max(values) - min(values),
            "ratio": median / reference,
        }
        print(f"{key:24} {median:9.2f} ms/step, least {min(values):9.2f}, ratio {median / reference:.2f}")
    atoms = {"total": structure.topology.getNumAtoms(), "ml": len(ligand)}
    # Times on a busy machine are no speeds; ratios of interleaved blocks still mean something.
    print(f"load average {os.getloadavg()[0]:.1f}")
    described = {
        "load_average": os.getloadavg()[0],
        "platform": arguments.platform,
        "route": choose_route(),
        "atoms": atoms,
        "times": rows,
    }
    print(write_result(arguments.name, {"structure": arguments.structure[0].name, **described}))


if __name__ == "__main__":
    main()
