"""What latent dipoles and self-consistent polarization cost in a box of water, on one CPU thread.

    python examples/benchmarks/multipole_speed.py

Processor time, which other work on the machine hardly stretches, of energy and forces by the script as
PythonForce runs it. Dipoles and polarizabilities stand beside a shipped model's charges as training
starts from them: times do not depend on how well they are trained. Writes
``results/multipole_speed.json``.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from model_speed import water
from provenance import write_result

import openmm_les
from openmm_les.engine.compile import freeze
from openmm_les.models import add_multipoles

VARIANTS = {
    "charges": None,
    "latent dipoles": {"dipoles": True},
    "latent and induced dipoles": {"dipoles": True, "polarizability": "isotropic"},
}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="peptide-gfn2-small")
    parser.add_argument("--waters", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = openmm_les.load_model(options.model)
    calls: dict[str, Callable[[], object]] = {}
    for name, settings in VARIANTS.items():
        variant = copy.deepcopy(model)
        if settings is not None:
            add_multipoles(variant, **settings)
        force, arguments = water(variant, options.waters)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
            calls[name] = partial(freeze(torch.jit.script(force)), *arguments)
    used: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with torch.jit.optimized_execution(False):
        for turn in range(-2, options.repeats):  # in turn, so that all meet the same load; two to warm up
            for name, call in calls.items():
                start = time.process_time()
                call()
                if turn >= 0:
                    used[name].append(1e3 * (time.process_time() - start))
    times = {n: {"median_ms": statistics.median(t), "least_ms": min(t)} for n, t in used.items()}
    print(times)
    atoms = len(force.numbers)
    print(write_result("multipole_speed", {"model": options.model, "atoms": atoms, "processor_times": times}))


if __name__ == "__main__":
    main()
