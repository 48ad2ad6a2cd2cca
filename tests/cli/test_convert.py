"""The convert command, and the card of the file it writes."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from openmm_les.cli.main import app
from openmm_les.models.checkpoint import load_model, read_description
from tests.models.adapters.files import unpack


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_converts_and_tells_what_it_found(tmp_path):
    source, output = unpack("maceles", tmp_path), tmp_path / "out.safetensors"
    done = run("convert", source, output, "--electrostatics", "converged")
    assert done.exit_code == 0, done.output
    for text in ("# maceles", "MACEBackbone, MACEChargeHead", "energy_difference_meV_per_atom", "H C O"):
        assert text in done.output
    assert "NOTE: licence of the weights: CC-BY-NC-4.0" in done.output
    metadata = read_description(output)["metadata"]
    assert ("NOTE: the sign" in done.output) == metadata["charge_sign"]["ambiguous"]
    assert str(tmp_path) not in str(metadata)
    shown = run("models", output)
    assert shown.exit_code == 0 and "MACEBackbone" in shown.output
    again = run("convert", source, output)
    assert again.exit_code == 2 and "exists; --overwrite replaces it" in again.output
    assert run("convert", source, output, "--overwrite", "--license", "CC0").exit_code == 0
    assert read_description(output)["metadata"]["license"] == "CC0"
    signed = run("convert", source, output, "--overwrite", "--charge-sign", "-1", "--license", "CC0")
    assert signed.exit_code == 0 and "NOTE: the sign" not in signed.output
    assert load_model(output).charge_scale == -1.0
    assert not read_description(output)["metadata"]["charge_sign"]["ambiguous"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--electrostatics", "none"], "must be sharp or converged"),
        (["--head", "other"], "has no head 'other', it has first, second"),
        ([], "several heads"),
        (["--head", "first", "--charge-sign", "2"], "--charge-sign must be 1 or -1, got 2"),
    ],
)
def test_bad_options(tmp_path, arguments, message):
    done = run("convert", unpack("density", tmp_path), tmp_path / "out.safetensors", *arguments)
    assert done.exit_code == 2 and message in done.output
    assert not (tmp_path / "out.safetensors").exists()


def test_missing_file(tmp_path):
    done = run("convert", tmp_path / "none.model", tmp_path / "out.safetensors")
    assert done.exit_code == 2 and "no file" in done.output
