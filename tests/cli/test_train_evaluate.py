"""`openmm-les train` and `openmm-les evaluate` as a user calls them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from openmm_les.cli.main import app
from openmm_les.models.checkpoint import model_card
from tests.training.toy import toy_configurations, write_hdf5, write_xyz

SMALL = [
    "--channels",
    "8",
    "--message-channels",
    "4",
    "--layers",
    "1",
    "--batch-atoms",
    "30",
    "--cutoff",
    "4",
    "--accelerator",
    "cpu",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a few steps on extended XYZ, and what it printed."""
    folder = tmp_path_factory.mktemp("train")
    data = write_xyz(folder / "toy.xyz", toy_configurations(24))
    keys = ["--energy-key", "my_energy", "--forces-key", "my_force"]
    command = ["train", str(data), "-o", str(folder / "run"), "--max-steps", "4", *keys, *SMALL]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_train_reports_data_and_leaves_a_model(trained):
    folder, output = trained
    assert "24 configurations, 144 atoms" in output
    assert "elements H O" in output
    assert "dropped" not in output
    assert {path.name for path in (folder / "run").iterdir()} == {
        "model.safetensors",
        "last.ckpt",
        "log.csv",
        "settings.json",
        "CARD.md",
        "curves.png",
        "parity.png",
    }
    card = (folder / "run" / "CARD.md").read_text()
    assert "openmm-les train toy.xyz -o run --max-steps 4" in card
    assert model_card(str(folder / "run" / "model.safetensors")) == card


def test_evaluate_prints_and_writes_errors(trained, tmp_path):
    folder, _ = trained
    data = write_hdf5(tmp_path / "toy.h5", toy_configurations(24))
    model = str(folder / "run" / "model.safetensors")
    output = tmp_path / "errors.json"
    result = CliRunner().invoke(app, ["evaluate", model, str(data), "--split", "valid", "-o", str(output)])
    assert result.exit_code == 0, result.output
    assert "water3" in result.output
    numbers = json.loads(output.read_text(), parse_constant=pytest.fail)
    assert numbers["all"]["configurations"] == 4
    assert np.isfinite(numbers["all"]["force_mae"])
    some = ["evaluate", model, str(data), "--split", "all", "--groups", "water1, water2"]
    result = CliRunner().invoke(app, some)
    assert result.exit_code == 0, result.output
    assert "water2" in result.output and "water3" not in result.output
    again = CliRunner().invoke(app, ["evaluate", model, str(data), "-o", str(output)])
    assert again.exit_code == 2 and "exists" in again.output


def test_a_finished_run_resumes_to_nothing(trained):
    folder, _ = trained
    log = (folder / "run" / "log.csv").read_text()
    result = CliRunner().invoke(app, ["train", "--resume", str(folder / "run")])
    assert result.exit_code == 0, result.output
    assert "already" in result.output
    assert (folder / "run" / "log.csv").read_text() == log


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "give data files and --output"),
        (["train", "{data}", "-o", "{new}"], "say how long to train"),
        (["train", "absent.h5", "-o", "{new}", "--epochs", "1"], "no data file"),
        (["train", "{data}", "-o", "{used}", "--epochs", "1"], "not empty"),
        (["train", "{data}", "-o", "{new}", "--max-steps", "-1"], "must be positive"),
        (["train", "{nan}", "-o", "{new}", "--max-steps", "1"], "NaN"),
        (["train", "--resume", "{new}"], "nothing to resume"),
        (["train", "{data}", "--resume", "{used}"], "goes without data"),
        (["train", "--resume", "{used}", "--max-steps", "9"], "goes without max_steps"),
        (["evaluate", "absent-model", "{data}"], "no model"),
        (["evaluate", "{model}", "{data}"], "no 'test' configurations"),
        (["evaluate", "{model}", "{data}", "--split", "best"], "`split` must be one of"),
        (["evaluate", "{model}", "{data}", "--plot", "{new}/parity.png"], "no folder"),
        (["evaluate", "{model}", "{data}", "--plot", "{used}/parity.png"], "exists"),
        (["evaluate", "{model}", "{data}", "--groups", "ice"], "no configurations of ice"),
        (["evaluate", "{model}", "{carbon}", "--split", "all"], "the data hold C; the model knows H O"),
    ],
)
def test_bad_input_ends_in_one_line(trained, tmp_path, arguments, message):
    folder, _ = trained
    broken, carbon = toy_configurations(24), toy_configurations(24)
    broken.forces[3] = np.nan
    carbon.numbers[0] = 6
    names = {
        "data": write_hdf5(tmp_path / "toy.h5", toy_configurations(24)),
        "nan": write_hdf5(tmp_path / "nan.h5", broken),
        "carbon": write_hdf5(tmp_path / "carbon.h5", carbon),
        "new": tmp_path / "new",
        "used": folder / "run",
        "model": folder / "run" / "model.safetensors",
    }
    result = CliRunner().invoke(app, [argument.format(**names) for argument in arguments])
    assert result.exit_code not in (0, None)
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "new").exists()
