"""Time of the model's own force call: a peptide and a box of water, scripted, on one CPU thread.

    python examples/benchmarks/model_speed.py

Energies and forces of the frozen script, as TorchForce runs it (optimised) and as PythonForce does
(not optimised), and where the time of the eager model goes. Writes ``results/model_speed.json``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from openmm import app, unit
from provenance import write_result
from rich.console import Console
from rich.table import Table

import openmm_les
from openmm_les.engine.boundary import ForceBoundary, IsolatedForce, PeriodicForce
from openmm_les.engine.compile import freeze
from openmm_les.memory import keep_freed_memory
from openmm_les.molecules import bonded_molecules

sys.path.insert(0, str(Path(__file__).parents[1]))
from make_alanine_dipeptide import alanine_dipeptide


def peptide(
    model: openmm_les.LESModel, dtype: torch.dtype = torch.float32
) -> tuple[ForceBoundary, tuple[torch.Tensor, ...]]:
    """Force and arguments of capped alanine, 22 atoms."""
    topology, positions = alanine_dipeptide()
    numbers = [atom.element.atomic_number for atom in topology.atoms()]
    force = IsolatedForce(model, numbers, [0] * len(numbers), [0.0], dtype=dtype)
    return force, (torch.tensor(0.1 * np.asarray(positions)),)


def water(
    model: openmm_les.LESModel, n_waters: int, dtype: torch.dtype = torch.float32
) -> tuple[ForceBoundary, tuple[torch.Tensor, ...]]:
    """Force and arguments of a periodic box of waters."""
    modeller = app.Modeller(app.Topology(), np.zeros((0, 3)) * unit.nanometer)
    modeller.addSolvent(app.ForceField("amber14/tip3p.xml"), numAdded=n_waters, neutralize=False)
    positions = np.asarray(modeller.positions.value_in_unit(unit.nanometer))
    numbers = np.array([atom.element.atomic_number for atom in modeller.topology.atoms()])
    cell = np.asarray(modeller.topology.getPeriodicBoxVectors().value_in_unit(unit.nanometer))
    molecules = bonded_molecules(10.0 * positions, numbers, 10.0 * cell)
    charges = [0.0] * (int(molecules.max()) + 1)
    force = PeriodicForce(model, numbers.tolist(), molecules.tolist(), charges, dtype=dtype)
    return force, (torch.tensor(positions), torch.tensor(cell))


def milliseconds(call: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median and least time of a call, and the processor's own time, which other work does not stretch."""
    for _ in range(5):
        call()
    wall, processor = [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        call()
        wall.append(1e3 * (time.perf_counter() - start))
        processor.append(1e3 * (time.process_time() - used))
    return {
        "median_ms": statistics.median(wall),
        "least_ms": min(wall),
        "processor_median_ms": statistics.median(processor),
    }


def parts(
    force: ForceBoundary, arguments: tuple[torch.Tensor, ...], repeats: int
) -> dict[str, dict[str, float]]:
    """Times of the steps of an eager force call."""
    box = arguments[1] if len(arguments) > 1 else None
    model = force.model
    graph = force.graph_of(arguments[0], box)
    atoms = model.backbone(graph)
    charges = model.charge_head(atoms.features, graph.numbers, graph.molecules, graph.molecule_charges)
    cell = graph.cells[0] if box is not None else None

    def gradient() -> None:
        output = model.backbone(graph)
        torch.autograd.grad(output.energies.sum() + output.features.sum(), graph.positions)

    def coulomb() -> None:
        with torch.no_grad():
            model.electrostatics(graph.positions.detach(), charges.detach(), cell)

    return {
        "neighbours and graph": milliseconds(lambda: force.graph_of(arguments[0], box), repeats),
        "backbone, energies only": milliseconds(lambda: model.backbone(graph), repeats),
        "backbone, with derivatives": milliseconds(gradient, repeats),
        "Coulomb sum": milliseconds(coulomb, repeats),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description="Time of the model's own force call.")
    parser.add_argument("--model", default="peptide-gfn2-small")
    parser.add_argument("--waters", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--no-write", action="store_true", help="print only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as a force does
    model = openmm_les.load_model(options.model)
    table = Table("system", "what", "median ms", "least ms", "processor ms")
    results = {}
    for name, (force, arguments) in {
        "capped alanine": peptide(model),
        f"{options.waters} waters": water(model, options.waters),
    }.items():
        n_atoms = len(force.numbers)
        repeats = max(10, options.repeats * 22 // n_atoms)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
            frozen = freeze(torch.jit.script(force))
        rows = {}
        for title, optimized in (("script, optimised", True), ("script, not optimised", False)):
            with torch.jit.optimized_execution(optimized):
                rows[title] = milliseconds(partial(frozen, *arguments), repeats)
        rows |= parts(force, arguments, repeats)
        for title, times in rows.items():
            table.add_row(name, title, *(f"{times[key]:.2f}" for key in times))
        results[name] = {"atoms": n_atoms, "times": rows}
    Console().print(table)
    if not options.no_write:
        print(write_result("model_speed", {"model": options.model, "systems": results}))


if __name__ == "__main__":
    main()
