"""A force call on a GPU: kernels launched one by one, and the same replayed as a CUDA graph.

    python examples/benchmarks/cuda_graphs.py

Capped alanine (22 atoms) and periodic boxes of water to 12288 atoms, single precision, all-ML, as
PythonForce calls them; positions come from the CPU and forces go back there. Medians of wall time over
interleaved rounds, the time of the replay alone, the memory torch took, and how far forces of both ways are
from each other and from those in double. Writes ``results/cuda_graphs.json``.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from model_speed import peptide, water
from provenance import write_result
from rich.console import Console
from rich.table import Table

import openmm_les
from openmm_les.engine.boundary import ForceBoundary
from openmm_les.engine.cuda_graphs import ReplayedForce

DEVICE = torch.device("cuda")


def on_device(force: ForceBoundary, device: torch.device) -> torch.jit.ScriptModule:
    """The scripted module, as PythonForce loads it."""
    archive = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
        torch.jit.save(torch.jit.script(force), archive)
        archive.seek(0)
        return torch.jit.load(archive, map_location=device).eval()


def milliseconds(call: Callable[[], object]) -> float:
    """Wall time until the device is done."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def measure(
    build: Callable[[torch.dtype], tuple[ForceBoundary, tuple[torch.Tensor, ...]]], rounds: int
) -> dict[str, Any]:
    """Times and differences of both ways for one system."""
    force, arguments = build(torch.float32)
    positions, box = arguments[0], arguments[1] if len(arguments) > 1 else None
    module = on_device(force, DEVICE)
    moved = [each.to(DEVICE) for each in arguments]

    def one_by_one() -> torch.Tensor:
        return module(*moved)[1].detach().cpu()

    replayed = ReplayedForce(module)
    graph = partial(replayed, positions, box, {})
    exact = on_device(build(torch.float64)[0], DEVICE)(*moved)[1].detach().cpu()
    scale = float(exact.abs().max())
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        one_by_one(), graph()
    times: dict[str, list[float]] = {"one by one": [], "replayed": [], "replay alone": []}
    replay = replayed._replay
    for _ in range(rounds):
        times["one by one"].append(milliseconds(one_by_one))
        times["replayed"].append(milliseconds(graph))
        times["replay alone"].append(milliseconds(replay))
    return {
        "atoms": len(force.numbers),
        **{f"{name}: median_ms": statistics.median(values) for name, values in times.items()},
        "memory_mib": torch.cuda.max_memory_allocated() / 2**20,
        "largest_force_kJ_per_mol_per_nm": scale,
        "replayed_from_one_by_one": float((graph()[1] - one_by_one()).abs().max()) / scale,
        "replayed_from_double": float((graph()[1] - exact).abs().max()) / scale,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="peptide-gfn2-small")
    parser.add_argument("--waters", type=int, nargs="*", default=[64, 200, 512, 4096])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    model = openmm_les.load_model(options.model)
    systems: dict[str, Callable[[torch.dtype], Any]] = {"capped alanine": partial(peptide, model)}
    systems |= {f"{n} waters": partial(water, model, n) for n in options.waters}
    table = Table("system", "atoms", "one by one / ms", "replayed / ms", "replay alone / ms", "MiB", "error")
    results = {}
    with torch.jit.optimized_execution(False):
        for name, build in systems.items():
            found = measure(build, options.rounds if "4096" not in name else options.rounds // 3)
            results[name] = found
            times = (found[f"{k}: median_ms"] for k in ("one by one", "replayed", "replay alone"))
            table.add_row(
                name,
                str(found["atoms"]),
                *(f"{value:.2f}" for value in times),
                f"{found['memory_mib']:.0f}",
                f"{found['replayed_from_double']:.1e}",
            )
    Console(width=120).print(table)
    print(write_result("cuda_graphs", {"model": options.model, "systems": results}))


if __name__ == "__main__":
    main()
