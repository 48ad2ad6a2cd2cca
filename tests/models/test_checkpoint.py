from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save

from openmm_les.electrostatics import LatentCoulomb
from openmm_les.exceptions import CheckpointError, UnknownElementError
from openmm_les.models import checkpoint
from openmm_les.models.checkpoint import list_models, load_model, model_card, read_description, save_model
from tests.builders import ELEMENTS, FORMAMIDE, FORMAMIDE_NUMBERS, WATER, WATER_NUMBERS, small_model

REFERENCES = [-13.6, -1030.0, -1485.25, -2042.0625, -12520.123456789]
METADATA = {"name": "test", "level_of_theory": "GFN2-xTB", "errors": {"force_mae": 0.1}, "data": ["a", "b"]}


def build(dtype: torch.dtype = torch.float32):
    solver = LatentCoulomb(0.7, 14.3, k_cutoff=3.0, self_interaction=True, tolerance=1e-4)
    sizes = dict(cutoff=3.7, mean_neighbors=7.0, n_layers=1)
    return small_model(3, dtype, solver, REFERENCES, -1.25, **sizes).eval()


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(build(), path, METADATA)
    return path


def rewrite(path, change):
    """The file with its description changed, weights as they were."""
    description = read_description(path)
    with checkpoint.safetensors.safe_open(path, framework="pt") as file:
        names = list(file.keys())
        weights = {name: file.get_tensor(name) for name in names}
    change(description, weights)
    path.write_bytes(save(weights, {checkpoint.FORMAT: json.dumps(description)}))


# --- round trip -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_round_trip_is_exact(tmp_path, dtype, default):
    model = build(dtype)
    path = tmp_path / "model.safetensors"
    save_model(model, path, METADATA)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        loaded = load_model(path)
    finally:
        torch.set_default_dtype(before)
    assert not loaded.training
    state, expected = loaded.state_dict(), model.state_dict()
    assert list(state) == list(expected)
    for name, value in expected.items():
        assert state[name].dtype == value.dtype
        assert torch.equal(state[name], value), name
    assert loaded.reference_energies.dtype == torch.float64
    assert loaded.reference_energies[17] == REFERENCES[-1]
    assert loaded.metadata == METADATA
    assert loaded.elements == ELEMENTS
    assert loaded.charge_scale == model.charge_scale == -1.25
    for part in ("backbone", "charge_head", "electrostatics"):
        assert getattr(loaded, part).config() == getattr(model, part).config()
    for positions, numbers, cell in (
        (FORMAMIDE, FORMAMIDE_NUMBERS, None),
        (WATER, WATER_NUMBERS, 6.0 * np.eye(3)),
    ):
        found, wanted = loaded.evaluate(positions, numbers, cell), model.evaluate(positions, numbers, cell)
        assert found.energy == wanted.energy
        assert np.array_equal(found.forces, wanted.forces)
        assert np.array_equal(found.latent_charges, wanted.latent_charges)


def test_a_second_round_trip_gives_the_same_file(saved, tmp_path):
    again = tmp_path / "again.safetensors"
    save_model(load_model(saved), again)  # metadata travel with the model
    assert again.read_bytes() == saved.read_bytes()


def test_description_is_readable_without_the_package(saved):
    # The format: eight bytes of length, a JSON header, raw numbers.
    content = saved.read_bytes()
    length = int.from_bytes(content[:8], "little")
    description = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["openmm-les"])
    assert description["format"] == "openmm-les"
    assert description["units"] == {"length": "angstrom", "energy": "eV", "charge": "e"}
    assert description["elements"] == ELEMENTS
    assert description["electrostatics"]["coulomb_constant"] == 14.3
    assert description["metadata"]["level_of_theory"] == "GFN2-xTB"
    assert set(description["versions"]) == {"openmm-les", "torch", "safetensors"}
    assert description == read_description(saved)


def test_loaded_model_knows_its_elements(saved):
    with pytest.raises(UnknownElementError, match="does not know S; it knows H, C, N, O, Cl"):
        load_model(saved).evaluate(WATER, [16, 1, 1])


def test_a_path_may_be_a_string(saved):
    assert load_model(str(saved)).cutoff == 3.7


# --- files that are no models -----------------------------------------------------------------


def test_missing_file_names_the_shipped_models(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "PRETRAINED", tmp_path / "pretrained")
    with pytest.raises(CheckpointError, match=r"no model 'nope\.pt': no such file.*\(none\)"):
        load_model("nope.pt")
    with pytest.raises(CheckpointError, match="no model"):
        load_model(tmp_path)  # a folder


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 0.5, 0.99, -1])
def test_truncated_file(saved, kept):
    content = saved.read_bytes()
    length = int(kept * len(content)) if isinstance(kept, float) else kept
    saved.write_bytes(content[:length])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a complete openmm-les model"):
        load_model(saved)


@pytest.mark.parametrize("content", [b"not a model", b"\x00" * 64, b"\xff" * 64])
def test_other_content(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="must be converted first"):
        load_model(path)


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize(
    ("write", "message"),
    [("pickle", "is not a complete openmm-les model"), ("torch", "asks for 'io.open', .* refused")],
)
def test_pickles_are_refused_and_never_executed(tmp_path, write, message):
    trace = tmp_path / "executed"
    path = tmp_path / "model.pt"
    if write == "pickle":
        path.write_bytes(pickle.dumps({"model": Bomb(trace)}))
    else:
        torch.save({"model": Bomb(trace)}, path)
    with pytest.raises(CheckpointError, match=message):
        load_model(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace))).close()  # the bomb is a real one
    assert trace.exists()


def test_safetensors_of_another_program(tmp_path):
    path = tmp_path / "other.safetensors"
    for metadata in (None, {"format": "pt"}):
        path.write_bytes(save({"weight": torch.zeros(3)}, metadata))
        with pytest.raises(CheckpointError, match="is a safetensors file but not an openmm-les model"):
            load_model(path)


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[1, 2]", '"text"', "{}", '{"format": "openmm-les"}', "[" * 100_000]
)
def test_damaged_description(tmp_path, text):
    path = tmp_path / "model.safetensors"
    path.write_bytes(save({"weight": torch.zeros(3)}, {checkpoint.FORMAT: text}))
    with pytest.raises(CheckpointError, match="has a damaged description"):
        load_model(path)


def test_newer_format(saved):
    rewrite(saved, lambda description, _: description.update(format_version=99))
    with pytest.raises(CheckpointError, match="has format version 99, this openmm-les reads 1"):
        load_model(saved)


def set_part(part, key, value):
    return lambda description, _: description[part].update({key: value})


DAMAGE = {
    "no elements": (lambda d, _: d.pop("elements"), "elements"),
    "unknown element": (set_part("backbone", "elements", [1, 500]), "distinct atomic numbers"),
    "elements of another kind": (lambda d, _: d.update(elements=None), "None"),
    "unknown part": (set_part("backbone", "type", "os.system"), "unknown part 'os.system'"),
    "unhashable part": (set_part("backbone", "type", ["a"]), "unhashable"),
    "part is text": (lambda d, _: d.update(backbone="EquivariantBackbone"), "does not describe"),
    "no part": (lambda d, _: d.pop("electrostatics"), "electrostatics"),
    "unknown argument": (set_part("charge_head", "colour", 1), "colour"),
    "cutoff of zero": (set_part("backbone", "cutoff", 0), "`cutoff` must be positive"),
    "cutoff is text": (set_part("backbone", "cutoff", "4.5"), "does not describe"),
    "no smearing": (set_part("electrostatics", "smearing", 0.0), "`smearing` must be positive"),
    "unknown type": (lambda d, _: d.update(dtype="object"), "object"),
    "another shape": (lambda _, w: w.update({"charge_head.hidden.bias": torch.zeros(3)}), "size mismatch"),
    "other size": (set_part("backbone", "n_channels", 7), "size mismatch"),
    "missing weight": (lambda _, w: w.pop("charge_head.hidden.bias"), "Missing key"),
    "surplus weight": (lambda _, w: w.update(extra=torch.zeros(3)), "Unexpected key"),
    "NaN weight": (lambda _, w: w["charge_head.hidden.bias"].fill_(float("nan")), "charge_head.hidden.bias"),
    "no metadata": (lambda d, _: d.pop("metadata"), "metadata"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_description_that_builds_no_model(saved, name):
    change, message = DAMAGE[name]
    rewrite(saved, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(saved)
    assert "does not describe a model that this version can build" in str(caught.value)
    assert "model.safetensors" in str(caught.value)


# --- writing ----------------------------------------------------------------------------------


def test_an_existing_file_is_replaced(saved):
    first = saved.read_bytes()
    save_model(small_model(4), saved)
    assert saved.read_bytes() != first
    assert load_model(saved).metadata == {}
    assert os.listdir(saved.parent) == [saved.name]


@pytest.mark.parametrize("step", ["fdopen", "replace"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_part(saved, monkeypatch, step):
    first = saved.read_bytes()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        save_model(small_model(4), saved)
    assert saved.read_bytes() == first
    assert os.listdir(saved.parent) == [saved.name]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_model(build(), tmp_path / "model.safetensors")
    assert os.listdir(tmp_path) == []


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        save_model(build(), tmp_path / "nowhere" / "model.safetensors")


def test_saved_file_is_readable_by_others(saved):
    assert saved.stat().st_mode & 0o777 == 0o644


def test_parts_that_could_not_be_loaded_again_are_refused(tmp_path):
    class Other(LatentCoulomb):
        pass

    model = build()
    model.electrostatics = Other()
    with pytest.raises(TypeError, match="a model with a Other cannot be saved; known are LatentCoulomb"):
        save_model(model, tmp_path / "model.safetensors")
    model.electrostatics = torch.nn.Identity()
    with pytest.raises(TypeError, match="Identity cannot be saved"):
        save_model(model, tmp_path / "model.safetensors")
    assert os.listdir(tmp_path) == []


def test_metadata_that_are_no_json_are_refused(tmp_path):
    with pytest.raises(TypeError, match="JSON"):
        save_model(build(), tmp_path / "model.safetensors", {"name": object()})
    assert os.listdir(tmp_path) == []


# --- shipped models ---------------------------------------------------------------------------


def test_shipped_models_load_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "PRETRAINED", tmp_path)
    assert list_models() == []
    for name in ("water-small", "peptide-small"):
        (tmp_path / name).mkdir()
        save_model(build(), tmp_path / name / checkpoint.WEIGHTS, {"name": name})
        (tmp_path / name / checkpoint.CARD).write_text(f"# {name}\n")
    (tmp_path / "empty").mkdir()
    assert list_models() == ["peptide-small", "water-small"]
    assert load_model("peptide-small").metadata == {"name": "peptide-small"}
    assert model_card("water-small") == "# water-small\n"
    with pytest.raises(
        CheckpointError, match=r"no model 'other': no such file, .* are peptide-small, water-small"
    ):
        model_card("other")
    with pytest.raises(CheckpointError, match="the shipped models are peptide-small, water-small"):
        load_model("other")


def test_every_shipped_model_works():
    for name in list_models():
        model = load_model(name)
        assert "MIT" in model_card(name) and model.metadata["license"] == "MIT"
        assert model.metadata["level_of_theory"].split()[0] in model_card(name)
        charges = model.evaluate(WATER, WATER_NUMBERS).latent_charges
        assert charges[0] < -0.2, name
        assert charges.sum() == pytest.approx(0.0, abs=1e-5)


def test_a_model_that_could_not_be_loaded_is_not_saved(tmp_path):
    path = tmp_path / "model.safetensors"
    model = small_model()
    save_model(model, path)
    kept = path.read_bytes()
    with torch.no_grad():
        model.charge_head.hidden.bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"charge_head\.hidden\.bias holds NaN"):
        save_model(model, path)
    assert path.read_bytes() == kept
