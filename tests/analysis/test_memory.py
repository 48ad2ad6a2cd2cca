"""A trajectory of ten thousand frames stays small in memory, whatever is asked of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.analysis.systems import places_of, topology_of, trajectory_of

N_FRAMES = 10_000
ROOT = str(Path(__file__).parents[2])
SCRIPT = r"""
import re, sys
from pathlib import Path
import numpy as np
from openmm_les.analysis.dipoles import compute_dipoles
from openmm_les.analysis.radial import radial_distribution
from openmm_les.analysis.spectra import density_of_states
from openmm_les.analysis.statistics import charge_statistics
from openmm_les.analysis.trajectories import TrajectorySource
from tests.analysis.systems import bound_model

path, top = sys.argv[1:]
everything = TrajectorySource(path, top, frame_spacing=0.001)
model = bound_model(["HOH"] * 27)
series = compute_dipoles(everything, model, charges=np.tile([-0.834, 0.417, 0.417], 27), molecules_to="m.h5")
density_of_states(everything, model.masses, model.numbers, resolution=100.0)
radial_distribution(everything, "element O", "element O")
one = TrajectorySource(path, top, select="resid 0")
charge_statistics(one, bound_model(["HOH"], precision="single"), output="q.h5")
assert len(series) == 10000
# Not ru_maxrss: a child inherits the peak of the process that started it.
print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text()).group(1)) / 1024)
"""


def test_ten_thousand_frames_stay_below_a_gigabyte(tmp_path: Path) -> None:
    names = ["HOH"] * 27
    places = places_of(["HOH"])
    sites = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 1, 3) * 3.1
    positions = (places + sites).reshape(1, -1, 3)
    rng = np.random.default_rng(0)
    topology = topology_of(names)
    moving = positions + 0.05 * rng.normal(size=(N_FRAMES, 81, 3)).astype(np.float32)
    trajectory = trajectory_of(topology, moving, 9.3 * np.eye(3))
    trajectory.save(str(tmp_path / "long.dcd"))
    trajectory[0].save(str(tmp_path / "top.h5"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, "long.dcd", "top.h5"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) < 1000.0
