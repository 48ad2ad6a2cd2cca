"""Training by several processes, started as a user would."""

from __future__ import annotations

import csv
import subprocess
import sys

import pytest

from openmm_les.models.checkpoint import load_model
from tests.training.toy import toy_configurations, write_hdf5


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    data = write_hdf5(tmp_path / "toy.h5", toy_configurations(48))
    # Lightning starts the second process by the same command, which must be a file.
    command = tmp_path / "command.py"
    command.write_text("from openmm_les.cli.main import app\n\nif __name__ == '__main__':\n    app()\n")
    sizes = ["--channels", "8", "--message-channels", "4", "--layers", "1", "--cutoff", "4"]
    run = [sys.executable, str(command), "train"]
    options = ["--max-steps", "8", "--validate-every", "4", "--batch-atoms", "24", *sizes]
    devices = ["--accelerator", "cpu", "--devices", "2", "--strategy", "ddp", "--charge-start", "0.5"]
    new = [*run, str(data), "-o", str(tmp_path / "run"), *options, *devices]
    done = subprocess.run(new, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    with (tmp_path / "run" / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["4", "8"]
    assert load_model(tmp_path / "run" / "model.safetensors").elements == [1, 8]
    again = [*run, "--resume", str(tmp_path / "run")]
    done = subprocess.run(again, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "finished already" in done.stdout
