"""A process that makes one system after another, as for many ligands, stays as large as for one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.skipif(not STATUS.exists(), reason="needs /proc")
@pytest.mark.parametrize("route", ROUTES_HERE)
def test_systems_leave_nothing_behind(route: str) -> None:
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, route],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    sizes = [float(size) for size in done.stdout.split()]
    assert sizes[4] - sizes[2] < 30.0, sizes  # MB for two; a forgotten one of TorchForce takes 65
