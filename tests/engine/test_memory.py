"""What processes take of memory: no more with every system, and not anew with every force call."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from openmm_les.memory import OUTSIDE, SWITCH, keep_freed_memory
from tests.engine.builders import ROUTES_HERE

STATUS = Path("/proc/self/status")
SCRIPT = r"""
import gc, re, sys
from pathlib import Path
import openmm
from tests.engine.builders import BOXES, quiet_model, topology_of, water_and_formamide
from tests.engine.test_memory import STATUS, WATER_RESIDUE
import openmm_les

topology, model = topology_of([WATER_RESIDUE]), quiet_model(n_channels=48, n_message=8, n_layers=2)
positions = water_and_formamide()[0][:3]
for _ in range(5):
    system = openmm_les.create_system(topology, model, route=sys.argv[1])
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions)
    for _ in range(4):  # TorchScript optimises at the second and third
        context.getState(forces=True)
    del context, system
    gc.collect()
    print(int(re.search(r"VmRSS:\s+(\d+)", STATUS.read_text()).group(1)) / 1024)
"""
WATER_RESIDUE = ("HOH", [8, 1, 1], [(0, 1), (0, 2)])


CALLS = r"""
import resource, sys
import openmm
from openmm import app
from tests.engine.builders import quiet_model
import openmm_les

box = app.Modeller(app.Topology(), [])
box.addSolvent(app.ForceField("amber14/tip3p.xml"), numAdded=200)
model = quiet_model(n_channels=48, n_message=8, n_layers=2)
system = openmm_les.create_system(box.topology, model, route=sys.argv[1])
platform = openmm.Platform.getPlatformByName("Reference")
context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
context.setPositions(box.positions)
for call in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    context.getState(forces=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def printed(script: str, route: str, **variables: str) -> list[float]:
    """The numbers that a script prints in a process of its own."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    outside = {name: value for name, value in os.environ.items() if name not in OUTSIDE}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, route],
        env={**outside, "PYTHONPATH": path, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [float(word) for word in done.stdout.split()]


@pytest.mark.skipif(not STATUS.exists(), reason="needs /proc")
@pytest.mark.parametrize("route", ROUTES_HERE)
def test_systems_leave_nothing_behind(route: str) -> None:
    sizes = printed(SCRIPT, route)
    assert sizes[4] - sizes[2] < 30.0, sizes  # MB for two; a forgotten one of TorchForce takes 65


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize("route", ROUTES_HERE)
def test_force_calls_use_the_memory_of_the_last_one(route: str) -> None:
    kept, given_back = (sum(printed(CALLS, route, **{SWITCH: to})[-2:]) for to in ("1", "0"))
    assert kept < 0.3 * given_back, (kept, given_back)  # page faults


def test_thresholds_from_outside_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not keep_freed_memory.__wrapped__()
