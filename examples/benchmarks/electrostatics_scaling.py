"""Energy and forces of a Coulomb sum over Gaussian charges: time, memory and error against size.

    python examples/benchmarks/electrostatics_scaling.py --threads 1
    python examples/benchmarks/electrostatics_scaling.py --device cuda

Water boxes of 192 to 98304 atoms, σ = 1 Å, single precision, one process, codes in turn:

- ours at the default tolerance, ours on the mesh of the other codes, ours recorded by autograd;
- torch-pme's P3M, mlipops' PME, OpenMM's PME on its CPU or CUDA platform (reciprocal part alone), all
  order 5 on the same mesh (powers of two, as torch-pme takes them);
- the direct sum of published models, |k| <= 2π/(2 Å), in blocks of waves (up to 12288 atoms).

Times are wall-clock (median and least of the rounds) and processor time of all threads (least), which
other work on the machine disturbs less; on a GPU the wall clock alone counts, until the device is done, and
memory is the device's. Errors are those of the forces against ours at tolerance 1e-6, of the direct sum
against our cut one. Writes ``results/electrostatics_scaling-<threads, or device>.json`` and a plot. Needs
``pip install torch-pme mlipops``.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import math
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import unit
from provenance import RESULTS, write_result
from rich.console import Console
from rich.table import Table
from torch import Tensor

from openmm_les.electrostatics import LatentCoulomb, pme_sum
from openmm_les.electrostatics.bsplines import spline_table
from openmm_les.electrostatics.ewald import wave_vectors
from openmm_les.electrostatics.influence import influence_function, mesh_self_terms

sys.path.insert(0, str(Path(__file__).parents[1]))
from water_boxes import lattice_water

SMEARING = 1.0
KE = 14.399645
ORDER = 5
SIDES = (4, 8, 16, 32)
DIRECT_LIMIT = 13000
MIB = 2.0**20


def ours(r: Tensor, q: Tensor, cell: Tensor) -> Callable[[], Tensor]:
    """Default tolerance, frozen as in TorchForce."""
    solver = torch.jit.freeze(torch.jit.script(LatentCoulomb(SMEARING, KE, method="pme").eval()))

    def run() -> Tensor:
        with torch.no_grad():
            return -solver(r, q, cell)[2]

    return run


def ours_recorded(r: Tensor, q: Tensor, cell: Tensor) -> Callable[[], Tensor]:
    """Default tolerance, forces and potentials by autograd, as training does it."""
    solver = LatentCoulomb(SMEARING, KE, method="pme")
    places, sources = r.clone().requires_grad_(), q.clone().requires_grad_()

    def run() -> Tensor:
        return -torch.autograd.grad(solver(places, sources, cell)[0], (places, sources))[0]

    return run


def ours_same_mesh(r: Tensor, q: Tensor, cell: Tensor, mesh: int) -> Callable[[], Tensor]:
    """Order and mesh of the other codes."""
    sizes = [mesh] * 3
    influence = influence_function(cell, sizes, ORDER, SMEARING, KE)
    own = mesh_self_terms(influence, sizes, ORDER)
    table = spline_table(ORDER, 1).float().to(r.device)

    def run() -> Tensor:
        with torch.no_grad():
            return -pme_sum(
                r, q, cell, SMEARING, KE, sizes, ORDER, influence=influence, self_terms=own, table=table
            )[2]

    return run


def torchpme_p3m(r: Tensor, q: Tensor, cell: Tensor, mesh: int) -> Callable[[], Tensor]:
    """Reciprocal part of torch-pme's P3M, forces by its autograd."""
    from torchpme import P3MCalculator
    from torchpme.potentials import CoulombPotential

    potential = CoulombPotential(smearing=SMEARING, prefactor=KE)
    # It takes the power of two above twice the length over the spacing.
    spacing = 2.0 * float(cell[0, 0]) / (mesh - 2)
    calculator = P3MCalculator(potential, mesh_spacing=spacing, interpolation_nodes=ORDER).to(r.device)
    places, sources = r.clone().requires_grad_(), q.unsqueeze(1).clone().requires_grad_()

    def run() -> Tensor:
        energy = (sources * calculator._compute_kspace(sources, cell, places)).sum()
        return -torch.autograd.grad(energy, (places, sources))[0]

    run()
    found = calculator.mesh_interpolator.ns_mesh.tolist()
    if found != [mesh] * 3:
        raise RuntimeError(f"torch-pme took the mesh {found} instead of {mesh}")
    return run


def mlipops_pme(r: Tensor, q: Tensor, cell: Tensor, mesh: int) -> Callable[[], Tensor]:
    """Reciprocal part of mlipops' PME, forces by its written derivatives."""
    from mlipops.coulombpme import CoulombPME
    from mlipops.neighborlist import NeighborList

    alpha = 1.0 / (math.sqrt(2.0) * SMEARING)
    pme = CoulombPME(NeighborList(cutoff=5.0), None, mesh, mesh, mesh, ORDER, alpha, KE).to(r.device)
    places, sources = r.clone().requires_grad_(), q.clone().requires_grad_()

    def run() -> Tensor:
        energy = pme(places, sources, cell, include_direct=False)
        return -torch.autograd.grad(energy.sum(), (places, sources))[0]

    return run


def openmm_reciprocal(r: Tensor, q: Tensor, cell: Tensor, mesh: int, threads: int) -> Callable[[], Tensor]:
    """Reciprocal part of OpenMM's PME on the CPU platform, or on CUDA where the tensors are."""
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(0.1 * cell.double().cpu().numpy()))
    force = openmm.NonbondedForce()
    for charge in q.tolist():
        system.addParticle(1.0)
        force.addParticle(charge, 1.0, 0.0)
    force.setNonbondedMethod(openmm.NonbondedForce.PME)
    force.setCutoffDistance(0.5)
    force.setPMEParameters(10.0 / (math.sqrt(2.0) * SMEARING), mesh, mesh, mesh)
    force.setReciprocalSpaceForceGroup(1)
    system.addForce(force)
    name, properties = ("CUDA", {}) if r.is_cuda else ("CPU", {"Threads": str(threads)})
    platform = openmm.Platform.getPlatformByName(name)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform, properties)
    context.setPositions(0.1 * r.double().cpu().numpy())
    per_angstrom = unit.kilojoule_per_mole / unit.angstrom

    def run() -> openmm.State:
        return context.getState(getForces=True, getEnergy=True, groups=2)

    def forces() -> Tensor:
        values = run().getForces(asNumpy=True).value_in_unit(per_angstrom)
        return torch.tensor(np.asarray(values) / 96.48533212331)

    run.forces = forces  # unpacking them in Python is no part of the time
    return run


def direct_sum(r: Tensor, q: Tensor, cell: Tensor) -> Callable[[], Tensor]:
    """Sum over all waves up to 2π/(2 Å), 1000 waves at a time (at once it needs 10 GB at 12288 atoms)."""
    waves = wave_vectors(cell, math.pi)
    squares = waves.square().sum(1)
    volume = float(torch.linalg.det(cell))
    factors = (4.0 * math.pi * KE / volume) * torch.exp(-0.5 * SMEARING**2 * squares) / squares

    def run() -> Tensor:
        gradient = torch.zeros_like(r)
        for block, factor in zip(waves.split(1000), factors.split(1000), strict=True):
            phases = r @ block.t()
            cosines, sines = torch.cos(phases), torch.sin(phases)
            real, imaginary = factor * (q @ cosines), factor * (q @ sines)
            gradient += (cosines * imaginary - sines * real) @ block
        return -2.0 * q.unsqueeze(1) * gradient

    return run


def memory(line: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (highest) of this process, MiB."""
    found = re.search(rf"{line}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) / 1024.0


def peak_memory(run: Callable[[], object], device: torch.device) -> float:
    """MiB above what the process, or torch on the GPU, holds before the call."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - held) / MIB
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    base = memory("VmRSS")
    run()
    return memory("VmHWM") - base


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(side: int, threads: int, rounds: int, device: torch.device) -> list[dict]:
    """Times (s), memory and errors of all codes at one size."""
    r, q, cell = (value.float().to(device) for value in lattice_water(side))
    n_atoms = len(q)
    mesh = 8 * side
    codes: dict[str, Callable] = {
        "ours": ours(r, q, cell),
        "ours, same mesh": ours_same_mesh(r, q, cell, mesh),
        "ours, autograd": ours_recorded(r, q, cell),
        "torch-pme P3M": torchpme_p3m(r, q, cell, mesh),
        "mlipops PME": mlipops_pme(r, q, cell, mesh),
        f"OpenMM {device.type.upper()} PME": openmm_reciprocal(r, q, cell, mesh, threads),
    }
    if n_atoms < DIRECT_LIMIT:
        codes["direct sum"] = direct_sum(r, q, cell)
    exact = LatentCoulomb(SMEARING, KE, tolerance=1e-6, method="pme")
    with torch.no_grad():
        reference = -exact(r.double(), q.double(), cell.double())[2]
        cut = LatentCoulomb(SMEARING, KE, tolerance=1e-6, method="pme", k_cutoff=math.pi)
        reference_cut = -cut(r.double(), q.double(), cell.double())[2]
    results = []
    for name, run in codes.items():
        for _ in range(3 if name != "direct sum" else 1):  # warm: TorchScript optimises by its first runs
            run()
        wanted = reference_cut if name == "direct sum" else reference
        found = getattr(run, "forces", run)().double().to(device)
        error = float(torch.linalg.norm(found - wanted) / torch.linalg.norm(wanted))
        results.append(
            {
                "code": name,
                "atoms": n_atoms,
                "mesh": mesh,
                "force_error": error,
                "memory_mib": peak_memory(run, device),
                "times": [],
                "cpu_times": [],
            }
        )
    for i in range(rounds):
        for entry, run in zip(results, codes.values(), strict=True):
            if entry["code"] == "direct sum" and i >= 3:
                continue
            wait(device)
            start, cpu_start = time.perf_counter(), time.process_time()
            run()
            wait(device)
            entry["times"].append(time.perf_counter() - start)
            entry["cpu_times"].append(time.process_time() - cpu_start)
    for entry in results:
        entry["median_ms"] = 1e3 * statistics.median(entry["times"])
        entry["least_ms"] = 1e3 * min(entry.pop("times"))
        entry["least_cpu_ms"] = 1e3 * min(entry.pop("cpu_times"))
    return results


def plot(results: list[dict], path: Path, key: str) -> None:
    """A time (``key`` of the results) against the number of atoms, both axes logarithmic."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.5, 4.5), constrained_layout=True)
    for name in dict.fromkeys(entry["code"] for entry in results):
        points = [(e["atoms"], e[key]) for e in results if e["code"] == name]
        axes.loglog(*zip(*points, strict=True), marker="o", label=name)
    axes.set_xlabel("atoms")
    axes.set_ylabel(f"energy and forces, {'processor' if 'cpu' in key else 'wall'} time / ms")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print, write and plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sides", type=int, nargs="*", default=list(SIDES), help="molecules along an edge")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
    results: list[dict] = []
    for side in arguments.sides:
        rounds = arguments.rounds if side < 32 else max(3, arguments.rounds // 3)
        results += measure(side, arguments.threads, rounds, torch.device(arguments.device))
    on_gpu = arguments.device == "cuda"
    time_key = "median_ms" if on_gpu else "least_cpu_ms"
    name = f"electrostatics_scaling-{arguments.device if on_gpu else arguments.threads}"
    path = write_result(name, {"smearing": SMEARING, "order_of_others": ORDER, "results": results})
    plot(results, RESULTS / f"{name}.png", time_key)
    columns = ("least / ms", "median / ms", "CPU / ms", "time / ours", "force error", "peak / MiB")
    table = Table("code", "atoms", *columns)
    for entry in results:
        own = next(e for e in results if e["code"] == "ours" and e["atoms"] == entry["atoms"])
        table.add_row(
            entry["code"],
            str(entry["atoms"]),
            f"{entry['least_ms']:.2f}",
            f"{entry['median_ms']:.2f}",
            f"{entry['least_cpu_ms']:.2f}",
            f"{entry[time_key] / own[time_key]:.2f}",
            f"{entry['force_error']:.1e}",
            f"{entry['memory_mib']:.0f}",
        )
    Console(width=110).print(table)
    Console().print(f"written: {path}")


if __name__ == "__main__":
    main()
