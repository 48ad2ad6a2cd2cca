"""A MACE checkpoint in OpenMM: our rebuilt model against openmm-ml's own MACE, in one run.

    python examples/benchmarks/mace_comparison.py

Needs mace-torch (``pip install mace-torch``) for openmm-ml's side and to make the checkpoint: a
ScaleShiftMACE of the size of the published MACE-LES models (64 channels, degree 3, three factors, two
layers, 4.5 Å) with random weights. Boxes of 64 and 512 waters. Each engine and size runs in a process
of its own, whose peak memory is what it needed. Writes ``results/mace_comparison-<openmm-ml>.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

PEAK = "ru_maxrss"


def make_checkpoint(path: Path) -> None:
    """Random MACE of water, as mace saves it."""
    import mace  # noqa: F401  before e3nn, which torch would refuse to import otherwise
    import torch
    from e3nn import o3
    from mace.modules import blocks
    from mace.modules.models import ScaleShiftMACE

    torch.manual_seed(1)
    model = ScaleShiftMACE(
        r_max=4.5,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=blocks.RealAgnosticResidualInteractionBlock,
        interaction_cls_first=blocks.RealAgnosticResidualInteractionBlock,
        num_interactions=2,
        num_elements=2,
        hidden_irreps=o3.Irreps("64x0e"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.array([-13.0, -2040.0]),
        avg_num_neighbors=38.0,
        atomic_numbers=[1, 8],
        correlation=3,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    torch.save(model, path)


def water_box(side: int):
    """Topology and positions (nm) of ``side³`` waters at the density of the liquid."""
    from openmm import Vec3, app, unit

    topology = app.Topology()
    chain = topology.addChain()
    generator = np.random.default_rng(1)
    molecule = np.array([[0.0, 0.0, 0.0], [0.0757, 0.0586, 0.0], [-0.0757, 0.0586, 0.0]])
    positions = []
    for corner in np.ndindex(side, side, side):
        residue = topology.addResidue("HOH", chain)
        oxygen = topology.addAtom("O", app.element.oxygen, residue)
        for name in ("H1", "H2"):
            topology.addBond(oxygen, topology.addAtom(name, app.element.hydrogen, residue))
        rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
        positions.append(molecule @ rotation + 0.3107 * np.array(corner))
    length = 0.3107 * side
    vectors = [Vec3(*row) for row in length * np.eye(3)] * unit.nanometer
    topology.setPeriodicBoxVectors(vectors)
    return topology, np.concatenate(positions)


def measure(engine: str, path: str, side: int, steps: int, precision: str) -> dict:
    """Energy, forces and speed of one engine; runs in a process of its own."""
    import warnings

    warnings.simplefilter("ignore")
    if engine == "mace":
        import mace  # noqa: F401  switches torch.load to running code from files, which this path needs
    import openmm
    import torch
    import vesin_torch  # noqa: F401
    from openmm import unit
    from openmmml import MLPotential

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    topology, positions = water_box(side)
    name, _, route = engine.partition(" ")
    options = {"returnEnergyType": "energy"} if name == "mace" else {"route": route}
    started = time.perf_counter()
    system = MLPotential(name, modelPath=path).createSystem(topology, precision=precision, **options)
    integrator = openmm.VerletIntegrator(1e-4)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("CPU"))
    context.setPositions(positions)
    state = context.getState(getEnergy=True, getForces=True)
    made = time.perf_counter() - started
    integrator.step(3)
    times, busy = [], []
    for _ in range(steps):
        start, worked = time.perf_counter(), time.process_time()
        integrator.step(1)
        times.append(time.perf_counter() - start)
        busy.append(time.process_time() - worked)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    return {
        "energy": state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole),
        "forces": forces.tolist(),
        "seconds_to_first_energy": made,
        "seconds_per_step": statistics.median(times),
        "spread_seconds": max(times) - min(times),
        # What other work on the machine does not change, on one thread.
        "processor_seconds_per_step": statistics.median(busy),
        "peak_memory_MB": getattr(resource.getrusage(resource.RUSAGE_SELF), PEAK) / 1024,
    }


def main() -> None:
    """Measure each engine and size, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[4, 8], help="waters along an edge")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--precision", default="single")
    parser.add_argument("--one", nargs=3, metavar=("ENGINE", "CHECKPOINT", "SIDE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        engine, path, side = arguments.one
        print(json.dumps(measure(engine, path, int(side), arguments.steps, arguments.precision)))
        return

    from provenance import write_result

    from openmm_les.engine.routes import available_routes

    engines = ["mace", *(f"les {name}" for name, s in available_routes().items() if s.available)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "water.model"
        make_checkpoint(path)
        for side in arguments.sides:
            found = {}
            for engine in engines:
                command = [sys.executable, __file__, "--one", engine, str(path), str(side)]
                command += ["--steps", str(arguments.steps), "--precision", arguments.precision]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(f"{engine}, {3 * side**3} atoms: {done.stderr[-2000:]}")
                found[engine] = json.loads(done.stdout.strip().splitlines()[-1])
            reference = found["mace"]
            for engine, row in found.items():
                difference = np.array(row.pop("forces") if engine != "mace" else row["forces"])
                difference = difference - np.array(reference["forces"])
                row["energy_difference_kJ_per_mol_per_atom"] = (row["energy"] - reference["energy"]) / len(
                    difference
                )
                row["largest_force_difference_kJ_per_mol_per_nm"] = float(np.abs(difference).max())
            row = {"atoms": 3 * side**3, "engines": found}
            row["largest_force_kJ_per_mol_per_nm"] = float(np.abs(reference.pop("forces")).max())
            rows.append(row)
            print(json.dumps(row, indent=2))
    result = {"platform": "CPU", "precision": arguments.precision, "mace-torch": version("mace-torch")}
    print(write_result(f"mace_comparison-openmmml-{version('openmmml')}", {**result, "boxes": rows}))


if __name__ == "__main__":
    main()
