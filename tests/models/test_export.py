"""Exported files give the model's numbers where this package is not known."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from openmm_les.cli.main import app
from openmm_les.models.adapters.convert import convert_mace
from openmm_les.models.checkpoint import save_model
from openmm_les.models.export import DESCRIPTION, SIGNATURE, export_model
from openmm_les.models.heads import NoCharges
from openmm_les.models.model import LESModel
from tests.builders import (
    FORMAMIDE,
    FORMAMIDE_NUMBERS,
    TRICLINIC,
    WATER,
    WATER_NUMBERS,
    multipole_model,
    small_model,
)
from tests.models.adapters.files import unpack

POSITIONS = np.concatenate([FORMAMIDE, WATER + np.array([3.0, 1.0, 1.0])])
NUMBERS = FORMAMIDE_NUMBERS + WATER_NUMBERS
MOLECULES = [0] * 6 + [1] * 3

# What another engine does: it never imports the package that the file came from.
READER = """
import json, sys
import torch
path, request = sys.argv[1:]
request = json.loads(request)
extra = {"openmm-les.json": ""}
model = torch.jit.load(path, _extra_files=extra)
r = torch.tensor(request["positions"], dtype=torch.float64)
cell = torch.tensor(request["cell"], dtype=torch.float64)
pairs, shifts = model.neighbours(r, cell)
mixed = torch.randperm(pairs.shape[1], generator=torch.Generator().manual_seed(0))
results = model(
    r, torch.tensor(request["numbers"]), cell, pairs[:, mixed], shifts[mixed],
    torch.tensor(request["molecules"]), torch.tensor(request["molecule_charges"]),
)
assert not any(name.startswith("openmm") for name in sys.modules)
about = [model.cutoff, list(model.elements), json.loads(extra["openmm-les.json"])]
print(json.dumps([x.tolist() for x in results] + about))
"""


def read_elsewhere(path, cell):
    request = {
        "positions": POSITIONS.tolist(),
        "numbers": NUMBERS,
        "cell": np.zeros((3, 3)).tolist() if cell is None else cell,
        "molecules": MOLECULES,
        "molecule_charges": [0.0, 0.0],
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READER, str(path), json.dumps(request)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("cell", [None, TRICLINIC], ids=["isolated", "triclinic"])
def test_round_trip(tmp_path, cell):
    model = small_model(1, charge_scale=-0.9)
    path = tmp_path / "model.pt"
    description = export_model(model, path)
    energy, forces, stress, latent, charges, dipoles, cutoff, elements, found = read_elsewhere(path, cell)
    options = {"total_charge": [0, 0], "molecules": np.array(MOLECULES)}
    box = None if cell is None else np.array(cell)
    expected = model.evaluate(POSITIONS, np.array(NUMBERS), box, stress=cell is not None, **options)
    assert energy == pytest.approx(expected.energy, abs=1e-9)
    np.testing.assert_allclose(forces, expected.forces, atol=1e-9)
    np.testing.assert_allclose(latent, expected.latent_charges, atol=1e-11)
    np.testing.assert_allclose(charges, expected.charges, atol=1e-11)
    np.testing.assert_allclose(stress, np.zeros((3, 3)) if cell is None else expected.stress, atol=1e-10)
    assert not np.any(dipoles)
    assert cutoff == model.cutoff and elements == list(model.elements)
    assert found == json.loads(json.dumps(description))
    assert [name for name, _, _ in found["outputs"]] == [
        "energy", "forces", "stress", "latent_charges", "charges", "dipoles",
    ]  # fmt: skip


def test_multipoles_are_exported_too(tmp_path):
    model = multipole_model(quadrupoles=True, polarizability="tensor", n_layers=1)
    export_model(model, tmp_path / "model.pt")
    _, forces, stress, _, charges, dipoles, *_ = read_elsewhere(tmp_path / "model.pt", TRICLINIC)
    options = {"total_charge": [0, 0], "molecules": np.array(MOLECULES)}
    expected = model.evaluate(POSITIONS, np.array(NUMBERS), np.array(TRICLINIC), stress=True, **options)
    np.testing.assert_allclose(forces, expected.forces, atol=1e-9)
    np.testing.assert_allclose(stress, expected.stress, atol=1e-10)
    np.testing.assert_allclose(charges, expected.charges, atol=1e-11)
    np.testing.assert_allclose(dipoles, expected.dipoles, atol=1e-10)


def test_converted_models_are_exported_too(tmp_path):
    model = convert_mace(unpack("maceles", tmp_path))
    export_model(model, tmp_path / "model.pt", precision="single")
    script = torch.jit.load(str(tmp_path / "model.pt"))
    r = torch.tensor(WATER)
    pairs, shifts = script.neighbours(r, torch.zeros(3, 3))
    arguments = (torch.tensor(WATER_NUMBERS), torch.zeros(3, 3), pairs, shifts)
    energy, forces, *_ = script(r, *arguments, torch.zeros(3, dtype=torch.int64), torch.zeros(1))
    expected = model.evaluate(WATER, np.array(WATER_NUMBERS))
    assert float(energy) == pytest.approx(expected.energy, abs=1e-4)
    np.testing.assert_allclose(forces.numpy(), expected.forces, atol=1e-4)


class Unscriptable(nn.Module):
    """Backbone that torch cannot compile."""

    cutoff, n_features = 4.0, 1

    def forward(self, graph):
        return {k: v for k, v in enumerate(graph)}[0][:, 0], graph.positions[:, :1], *()


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="`precision` must be one of single, double, got 'half'"):
        export_model(small_model(), tmp_path / "a.pt", precision="half")
    model = small_model()
    unscriptable = LESModel(Unscriptable(), NoCharges(), model.electrostatics, [1])
    with pytest.raises(ValueError, match="does not compile to TorchScript"):
        export_model(unscriptable, tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()


def test_command(tmp_path):
    save_model(small_model(), tmp_path / "m.safetensors")
    arguments = ["export", str(tmp_path / "m.safetensors"), str(tmp_path / "m.pt")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    for name, shape, _ in SIGNATURE["inputs"]:
        assert f"{name}: {shape}" in done.output
    extra = {DESCRIPTION: ""}
    torch.jit.load(str(tmp_path / "m.pt"), _extra_files=extra)
    assert json.loads(extra[DESCRIPTION])["precision"] == "double"
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "--overwrite replaces it" in again.output
