"""Training on more than energies and forces, and what a run leaves behind."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from openmm_les.exceptions import DataError, UnknownElementError
from openmm_les.models.checkpoint import load_model, read_description, save_model
from openmm_les.training.card import command_line
from openmm_les.training.domain import add_domain
from openmm_les.training.evaluation import evaluate_model
from openmm_les.training.recorder import LOG, TENSORBOARD
from openmm_les.training.settings import TrainingSettings
from openmm_les.training.trainer import CARD, CURVES, MODEL, PARITY, resume_training, train
from tests.training.test_trainer import SMALL, _quiet, _rows
from tests.training.toy import toy_configurations, write_hdf5

STEPS = {"max_steps": 2, "validate_every": 2, **SMALL}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_hdf5(tmp_path_factory.mktemp("data") / "toy.h5", toy_configurations(24)))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A model of energies and forces alone."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    settings = TrainingSettings(data=(data,), **{**STEPS, "max_steps": 30, "validate_every": 30})
    assert train(settings, folder, console=_quiet())
    return folder


def card_of(folder: Path) -> str:
    return (folder / CARD).read_text()


def test_charges_alone_are_tuned_on_their_labels(data, trained, tmp_path):
    settings = TrainingSettings(
        data=(data,),
        init=str(trained / MODEL),
        freeze_backbone=True,
        dipoles=True,
        born_charges=True,
        learning_rate=3e-2,
        force_weight=0.0,
        energy_weight=1e-9,
        **{**STEPS, "max_steps": 60, "validate_every": 20},
    )
    assert train(settings, tmp_path / "tuned", console=_quiet())
    before, after = load_model(trained / MODEL), load_model(tmp_path / "tuned" / MODEL)
    for (name, a), b in zip(before.backbone.named_parameters(), after.backbone.parameters()):
        torch.testing.assert_close(a, b, rtol=0.0, atol=0.0, msg=name)
    errors = [evaluate_model(f / MODEL, [data], split="valid")["all"] for f in (trained, tmp_path / "tuned")]
    for label in ("dipole", "born_charges"):
        assert errors[1][label]["mae"] < 0.6 * errors[0][label]["mae"]
    rows = _rows(tmp_path / "tuned")
    assert float(rows[-1]["valid_dipole_error"]) < float(rows[0]["valid_dipole_error"])
    card = card_of(tmp_path / "tuned")
    assert "**Labels used: energies, dipoles, Born charges.**" in card
    assert "tuned on dipoles and Born charges" in card and "backbone frozen" in card
    assert "Charges follow from these alone" in card_of(trained)
    # What charges were tuned on stays true of what is trained further.
    settings = TrainingSettings(data=(data,), init=str(tmp_path / "tuned" / MODEL), **STEPS)
    assert train(settings, tmp_path / "further", console=_quiet())
    card = card_of(tmp_path / "further")
    assert "**Labels used: energies, forces.**" in card
    assert "tuned on dipoles and Born charges" in card and "from these alone" not in card


def test_a_test_split_is_not_trained_on(tmp_path):
    toy = toy_configurations(24)
    toy.split[:6] = "test"
    data = str(write_hdf5(tmp_path / "toy.h5", toy))
    other = str(write_hdf5(tmp_path / "other.h5", toy_configurations(9, seed=1)))
    console = Console(record=True, width=200, file=io.StringIO())
    assert train(TrainingSettings(data=(data,), valid=(other,), **STEPS), tmp_path / "run", console=console)
    assert "training on 18, validating on 9" in console.export_text()


def test_few_atoms_leave_a_model_that_cannot_tell_what_is_new(tmp_path):
    toy = toy_configurations(4)
    small = toy.select(np.array([0, 3]))  # two waters
    small.split[:] = ["train", "valid"]
    data = str(write_hdf5(tmp_path / "toy.h5", small))
    console = Console(record=True, width=200, file=io.StringIO())
    assert train(TrainingSettings(data=(data,), **STEPS), tmp_path / "run", console=console)
    assert "cannot tell what is new to it: 3 atoms are too few" in console.export_text()
    assert load_model(tmp_path / "run" / MODEL).domain is None
    assert (tmp_path / "run" / CARD).is_file() and (tmp_path / "run" / PARITY).is_file()


def test_a_model_is_for_the_elements_it_is_told(data, tmp_path):
    console = Console(record=True, width=200, file=io.StringIO())
    for folder, elements in (("all", ""), ("few", "O, H")):
        settings = TrainingSettings(data=(data,), init="peptide-gfn2-small", elements=elements, **STEPS)
        assert train(settings, tmp_path / folder, console=console)
    assert console.export_text().count("the data hold no C, N, F, S, Cl:") == 1
    assert load_model(tmp_path / "all" / MODEL).elements == load_model("peptide-gfn2-small").elements
    few = load_model(tmp_path / "few" / MODEL)
    assert few.elements == [1, 8] and few.domain is not None
    with pytest.raises(UnknownElementError, match="knows H, O"):
        few.evaluate(np.zeros((1, 3)), np.array([6]))
    # Others may be in the data, as distant ions are.
    settings = TrainingSettings(data=(data,), elements="H", **STEPS)
    assert train(settings, tmp_path / "one", console=console)
    assert "learns from O in the data and will refuse them" in console.export_text()
    assert load_model(tmp_path / "one" / MODEL).elements == [1]


@pytest.mark.parametrize("elements", ["H,Xx", "C", ","])
def test_elements_that_the_model_does_not_know(data, tmp_path, elements):
    settings = TrainingSettings(data=(data,), elements=elements, **STEPS)
    with pytest.raises(DataError, match=f"must read like H,O and be among H, O; got '{elements}'"):
        train(settings, tmp_path / "run", console=_quiet())
    assert not (tmp_path / "run").exists()


def test_training_on_some_groups(data, tmp_path):
    settings = TrainingSettings(data=(data,), groups="water1,water3", **STEPS)
    assert train(settings, tmp_path / "run", console=_quiet())
    groups = read_description(tmp_path / "run" / MODEL)["metadata"]["training_data"]["groups"]
    assert sorted(groups) == ["water1", "water3"]
    assert "--groups water1,water3" in card_of(tmp_path / "run")


def test_a_model_without_charges(data, tmp_path):
    settings = TrainingSettings(data=(data,), short_range_only=True, **STEPS)
    assert train(settings, tmp_path / "run", console=_quiet())
    model = load_model(tmp_path / "run" / MODEL)
    out = model.evaluate(np.array([[0.0, 0, 0], [0.95, 0, 0], [0, 0.95, 0]]), np.array([8, 1, 1]))
    assert out.energy_long_range == 0.0 and (out.latent_charges == 0.0).all()
    assert np.abs(out.forces).max() > 0.0
    assert "no latent charges" in card_of(tmp_path / "run")
    further = TrainingSettings(data=(data,), init=str(tmp_path / "run" / MODEL), **STEPS)
    with pytest.raises(DataError, match=r"model\.safetensors has no latent charges"):
        train(further, tmp_path / "further", console=_quiet())
    for settings in (replace(further, short_range_only=True), replace(further, equilibration=True)):
        assert train(settings, tmp_path / f"further-{settings.equilibration}", console=_quiet())
    assert evaluate_model(tmp_path / "run" / MODEL, [data], split="valid")["warnings"] == []


def test_isolated_and_periodic_systems_train_together(tmp_path):
    toy = toy_configurations(24)
    toy.cell[2::3] = np.diag([12.0, 9.0, 9.0])
    toy.stress[2::3] = 0.001 * np.eye(3)
    data = write_hdf5(tmp_path / "mixed.h5", toy)
    settings = TrainingSettings(data=(str(data),), stress=True, **STEPS)
    with pytest.raises(DataError, match="no labels of `stress`"):
        train(settings, tmp_path / "none", console=_quiet())
    cells = TrainingSettings(data=(str(data),), groups="water3", dipoles=True, **STEPS)
    with pytest.raises(DataError, match="no labels of `dipole` of isolated systems"):
        train(cells, tmp_path / "none", console=_quiet())
    import h5py

    with h5py.File(data, "a") as file:
        file["stress"] = toy.stress
    assert train(settings, tmp_path / "run", console=_quiet())
    assert np.isfinite(float(_rows(tmp_path / "run")[-1]["valid_stress_error"]))
    result = evaluate_model(tmp_path / "run" / MODEL, [data], split="all", plot=tmp_path / "parity.png")
    assert result["all"]["stress"]["n"] == 8
    assert result["groups"]["water1"]["stress"] is None
    assert (tmp_path / "parity.png").stat().st_size > 10_000


def test_patience_ends_a_run_and_stays_at_its_end(data, tmp_path):
    settings = TrainingSettings(data=(data,), patience=2, learning_rate=1e-300, **{**STEPS, "max_steps": 40})
    console = _quiet()
    assert train(settings, tmp_path / "run", console=console)
    rows = _rows(tmp_path / "run")
    assert len(rows) == 3
    assert "validations without a better one" in console.file.getvalue()
    assert resume_training(tmp_path / "run", console=_quiet())
    assert _rows(tmp_path / "run") == rows


def test_a_run_leaves_pictures_and_events(data, tmp_path):
    settings = TrainingSettings(data=(data,), tensorboard=True, **STEPS)
    assert train(settings, tmp_path / "run", console=_quiet())
    for name in (CURVES, PARITY):
        assert (tmp_path / "run" / name).read_bytes()[1:4] == b"PNG"
    (events,) = (tmp_path / "run" / TENSORBOARD).iterdir()
    assert b"valid/force_mae" in events.read_bytes()
    assert (tmp_path / "run" / LOG).is_file()


def test_reference_energies_can_be_given(data, tmp_path):
    settings = TrainingSettings(data=(data,), reference_energies="H=-13.5, O=-109.5", **STEPS)
    assert train(settings, tmp_path / "run", console=_quiet())
    assert load_model(tmp_path / "run" / MODEL).reference_energies[[1, 8]].tolist() == [-13.5, -109.5]
    for text, message in (("H=-13.5", "given for O"), ("H:-1,O=2", "must read like")):
        wrong = TrainingSettings(data=(data,), reference_energies=text, **STEPS)
        with pytest.raises(DataError, match=message):
            train(wrong, tmp_path / "wrong", console=_quiet())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"freeze_backbone": True}, "say which with `init`"),
        ({"short_range_only": True, "dipoles": True}, "no charges to train"),
        ({"dipole_weight": 0.0}, "`dipole_weight` must be positive"),
        ({"energy_unit": "stone"}, "no unit that is known"),
    ],
)
def test_bad_combinations_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        TrainingSettings(data=("x.h5",), max_steps=1, **change)


def test_the_card_s_command_is_the_run_s(trained):
    settings = TrainingSettings.read(trained / "settings.json")
    command = command_line(settings).split()
    assert command[:2] == ["openmm-les", "train"]
    assert command[command.index("--channels") + 1] == "8"
    assert "--warm-up" in command and "--seed" not in command
    metadata = read_description(trained / MODEL)["metadata"]
    assert metadata["training_data"]["labels"] == "energies, forces"
    assert metadata["training_data"]["elements"] == {"H": 24, "O": 24}


def test_models_keep_what_their_data_look_like(trained, data, tmp_path):
    first = load_model(trained / MODEL)
    assert first.domain is not None
    first.domain = None
    save_model(first, tmp_path / "bare.safetensors")
    add_domain(tmp_path / "bare.safetensors", [data])
    bare = load_model(tmp_path / "bare.safetensors")
    assert bare.metadata == first.metadata
    torch.testing.assert_close(bare.domain.means, load_model(trained / MODEL).domain.means)
    with pytest.raises(DataError, match="no training data"):
        toy = toy_configurations(6)
        toy.split[:] = "valid"
        add_domain(trained / MODEL, [write_hdf5(tmp_path / "valid.h5", toy)])
