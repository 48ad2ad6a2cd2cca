"""What the long range costs: a model against its own short-range part alone, inside OpenMM.

    python examples/benchmarks/overhead.py

All-ML water boxes of 192 to 12288 atoms (``--sides`` for others) on the CPU platform (``--platform`` for
another), single precision, one thread. Both systems run the same weights; the second has neither latent
charges nor a Coulomb sum. They take MD steps in turn; times are wall-clock medians and the least processor
time of a step, which other work on the machine disturbs less, and which is what is compared (on a GPU: wall
time). Writes ``results/overhead-<route>.json`` (of another platform ``overhead-<route>-<platform>.json``).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path

import openmm
import torch
from provenance import write_result
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import openmm_les
from openmm_les.electrostatics import LatentCoulomb

sys.path.insert(0, str(Path(__file__).parents[1]))
from water_boxes import lattice_water, water_topology


class NoCharges(nn.Module):
    """Zeros in place of a charge head."""

    def forward(self, features: Tensor, numbers: Tensor, molecules: Tensor, charges: Tensor) -> Tensor:
        return torch.zeros_like(features[:, 0])


class NoCoulomb(LatentCoulomb):
    """Zeros in place of a Coulomb sum; of its kind, so that on a GPU a CUDA graph stands for both models."""

    def forward(
        self, positions: Tensor, charges: Tensor, cell: Tensor | None, exact: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        return torch.zeros_like(charges).sum(), torch.zeros_like(charges), torch.zeros_like(positions)


def short_range_part(model: openmm_les.LESModel) -> openmm_les.LESModel:
    """The same weights without charges and their energy."""
    part = copy.deepcopy(model)
    part.charge_head, part.electrostatics = NoCharges(), NoCoulomb()
    return part


def context(system: openmm.System, positions: Tensor, name: str) -> openmm.Context:
    """Context on a platform; its steps are so short that the waters stay where they are."""
    platform = openmm.Platform.getPlatformByName(name)
    properties = {"Threads": "1"} if name == "CPU" else {}
    made = openmm.Context(system, openmm.VerletIntegrator(1e-6), platform, properties)
    made.setPositions(0.1 * positions.numpy())
    return made


def measure(model: openmm_les.LESModel, side: int, route: str, rounds: int, platform: str) -> dict:
    """Times of a step with and without the long range, and their ratio."""
    positions, charges, _ = lattice_water(side)
    topology = water_topology(side)
    contexts = {
        name: context(openmm_les.create_system(topology, which, route), positions, platform)
        for name, which in (("short range", short_range_part(model)), ("both", model))
    }
    wall: dict[str, list[float]] = {name: [] for name in contexts}
    processor: dict[str, list[float]] = {name: [] for name in contexts}
    for made in contexts.values():
        made.getIntegrator().step(3)
    for _ in range(rounds):
        for name, made in contexts.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            made.getIntegrator().step(1)
            made.getState(positions=True)  # waits for what a GPU still does
            wall[name].append(1e3 * (time.perf_counter() - start))
            processor[name].append(1e3 * (time.process_time() - cpu_start))
    result = {"atoms": len(charges), "rounds": rounds}
    for name in contexts:
        result[f"{name}: median_ms"] = statistics.median(wall[name])
        result[f"{name}: least_cpu_ms"] = min(processor[name])
    times = processor if platform == "CPU" else wall
    result["added"] = min(times["both"]) / min(times["short range"]) - 1.0
    # Neighbouring rounds share what else the machine does.
    pairs = zip(times["both"], times["short range"], strict=True)
    result["added_median_of_rounds"] = statistics.median(long / short for long, short in pairs) - 1.0
    return result


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="peptide-gfn2-small")
    parser.add_argument("--route", default="python", choices=["python", "torchforce"])
    parser.add_argument("--platform", default="CPU")
    parser.add_argument("--sides", type=int, nargs="*", default=[4, 8, 16], help="molecules along an edge")
    parser.add_argument("--rounds", type=int, nargs="*", default=[60, 20, 6], help="for each size")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = openmm_les.load_model(arguments.model)
    table = Table("atoms", "short range / ms", "both / ms", "added")
    results = []
    for side, rounds in zip(arguments.sides, arguments.rounds, strict=True):
        entry = measure(model, side, arguments.route, rounds, arguments.platform)
        results.append(entry)
        short, both = entry["short range: median_ms"], entry["both: median_ms"]
        table.add_row(str(entry["atoms"]), f"{short:.1f}", f"{both:.1f}", f"{100.0 * entry['added']:.1f} %")
    Console().print(table)
    result = {"model": Path(arguments.model).stem, "route": arguments.route, "results": results}
    if arguments.platform != "CPU":
        result["platform"] = arguments.platform
    suffix = "" if arguments.platform == "CPU" else f"-{arguments.platform}"
    print(write_result(f"overhead-{arguments.route}{suffix}", result))


if __name__ == "__main__":
    main()
