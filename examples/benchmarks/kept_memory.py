"""What it is worth on a CPU that freed memory is kept from one force call to the next.

    python examples/benchmarks/kept_memory.py

Boxes of water, all ML, on one thread; each in processes of its own, in turn with and without
(``OPENMM_LES_KEEP_MEMORY``). Writes ``results/kept_memory.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import openmm
import torch
from openmm import app
from provenance import write_result
from rich.progress import track

import openmm_les
from openmm_les.memory import OUTSIDE, SWITCH

MODEL = "peptide-gfn2-small"


def force_calls(waters: int, calls: int, route: str) -> dict[str, float]:
    """Processor time and page faults of a force call, and the largest size of this process."""
    torch.set_num_threads(1)
    box = app.Modeller(app.Topology(), [])
    box.addSolvent(app.ForceField("amber14/tip3p.xml"), numAdded=waters)
    system = openmm_les.create_system(box.topology, openmm_les.load_model(MODEL), route=route)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(box.positions)
    for _ in range(3):
        context.getState(forces=True)
    times = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        start = time.process_time()
        context.getState(forces=True)
        times.append(1e3 * (time.process_time() - start))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "processor_median_ms": statistics.median(times),
        "processor_least_ms": min(times),
        "page_faults": (usage.ru_minflt - before) / calls,
        "largest_MB": usage.ru_maxrss / 1024,
    }


def in_its_own_process(waters: int, kept: bool, arguments: argparse.Namespace) -> dict[str, float]:
    """`force_calls` in a new process."""
    command = [sys.executable, "-W", "ignore", __file__, "--waters", str(waters), "--alone"]
    command += ["--calls", str(arguments.calls), "--route", arguments.route]
    variables = {name: value for name, value in os.environ.items() if name not in OUTSIDE}
    variables |= {SWITCH: str(int(kept)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--waters", type=int, nargs="+", default=[64, 200, 1000])
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2, help="the better of them counts")
    parser.add_argument("--route", default="auto")
    parser.add_argument("--alone", action="store_true", help="one size, in this process, printed only")
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(force_calls(arguments.waters[0], arguments.calls, arguments.route)))
        return
    boxes: list[dict[str, Any]] = []
    for waters in track(arguments.waters, "boxes"):
        runs: dict[bool, list[dict[str, float]]] = {True: [], False: []}
        for _ in range(arguments.rounds):
            for kept, found in runs.items():
                found.append(in_its_own_process(waters, kept, arguments))
        kept, given_back = (min(r, key=lambda x: x["processor_median_ms"]) for r in runs.values())
        boxes.append({"waters": waters, "kept": kept, "given_back": given_back})
        print(boxes[-1])
    print(write_result("kept_memory", {"model": MODEL, "route": arguments.route, "boxes": boxes}))


if __name__ == "__main__":
    main()
