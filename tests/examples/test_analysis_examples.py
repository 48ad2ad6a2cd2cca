"""The examples of analysis, each in a short form, and the notebook from top to bottom."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(arguments: list[object], folder: Path) -> str:
    """Output of a Python process in ``folder`` that finds the examples' modules."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, arguments)],
        cwd=folder,
        env={**environment, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_ir_of_a_capped_amino_acid(tmp_path):
    said = run([EXAMPLES / "ir_gas_phase.py", "out", "--ps", 0.3, "--resolution", 250], tmp_path)
    assert (tmp_path / "out" / "ir.png").is_file()
    rows = np.genfromtxt(tmp_path / "out" / "ir.csv", delimiter=",", skip_header=1)
    assert np.isfinite(rows[:, 1]).all()
    assert rows[:, 1].max() > 0.0
    modes = [float(line.split()[0]) for line in said.splitlines() if line.startswith("  ")]
    # C=O stretches are among the strongest modes of a peptide, whatever the model.
    assert any(1550.0 < mode < 1850.0 for mode in modes)


def test_ir_of_liquid_water(tmp_path):
    said = run([EXAMPLES / "ir_water.py", "out", "--waters", 8, "--ps", 0.1, "--resolution", 700], tmp_path)
    assert "bands" in said
    assert (tmp_path / "out" / "ir.png").is_file()
    assert (tmp_path / "out" / "water.dcd").is_file()


def test_charges_of_a_solute_in_water_and_in_vacuum(tmp_path):
    said = run([EXAMPLES / "ligand_charges.py", "out", "--ps", 0.1, "--frames", 2], tmp_path)
    assert "D in water" in said
    rows = np.genfromtxt(tmp_path / "out" / "charges.csv", delimiter=",", skip_header=1)
    assert rows.shape == (22, 5)
    np.testing.assert_allclose(rows[:, 1:4].sum(0), 0.0, atol=5e-3)
    assert np.abs(rows[:, 3]).max() > 1e-3
    for name in ("charges.png", "difference.png"):
        assert (tmp_path / "out" / name).is_file()


def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    pytest.importorskip("py3Dmol")
    notebook = json.loads((EXAMPLES / "first_steps.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join(cells).replace("picoseconds = 0.5", "picoseconds = 0.2"))
    said = run([script], tmp_path)
    assert "sum rule kept" in said
    assert (tmp_path / "first-steps" / "ir.png").is_file()
