from __future__ import annotations

import csv
import io
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from openmm_les.exceptions import DataError, RunError
from openmm_les.models.checkpoint import read_description
from openmm_les.training.evaluation import evaluate_model
from openmm_les.training.recorder import LAST, LOG
from openmm_les.training.settings import TrainingSettings
from openmm_les.training.trainer import MODEL, resume_training, train
from tests.training.toy import toy_configurations, write_hdf5

SMALL = {
    "channels": 8,
    "message_channels": 4,
    "layers": 1,
    "cutoff": 4.0,
    "batch_atoms": 24,
    "warm_up": 5,
    "accelerator": "cpu",
    "dtype": "float64",
}


@pytest.fixture
def data(tmp_path):
    return str(write_hdf5(tmp_path / "toy.h5", toy_configurations(24)))


def _quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def _rows(directory):
    with (directory / LOG).open() as file:
        return list(csv.DictReader(file))


def logged_run(data: str | Path, directory: Path, **settings: object) -> list[dict[str, str]]:
    """Log of a small run that says nothing on the screen."""
    assert train(TrainingSettings(data=(str(data),), **{**SMALL, **settings}), directory, console=_quiet())
    return _rows(directory)


def _weights(directory):
    return torch.load(directory / LAST, weights_only=False)["state_dict"]


def test_errors_fall_and_the_best_model_is_kept(data, tmp_path):
    console = _quiet()
    settings = TrainingSettings(data=(data,), max_steps=60, validate_every=20, name="toy", **SMALL)
    assert train(settings, tmp_path / "run", console=console)
    rows = _rows(tmp_path / "run")
    assert [int(r["step"]) for r in rows] == [20, 40, 60]
    assert float(rows[-1]["valid_force_mae"]) < 0.7 * float(rows[0]["valid_force_mae"])
    description = read_description(tmp_path / "run" / MODEL)["metadata"]
    best = min(rows, key=lambda row: float(row["valid_loss"]))
    assert description["name"] == "toy"
    assert description["level_of_theory"] == "springs and point charges"
    assert description["validation"]["valid_loss"] == pytest.approx(float(best["valid_loss"]), rel=1e-4)
    # The file holds the averaged weights that were validated.
    result = evaluate_model(tmp_path / "run" / MODEL, [data], split="valid")
    assert result["all"]["force_mae"] == pytest.approx(float(best["valid_force_mae"]), rel=1e-4)
    assert "training on 20, validating on 4" in console.file.getvalue()


def test_resumed_run_equals_an_uninterrupted_one(data, tmp_path, monkeypatch):
    settings = TrainingSettings(
        data=(data,),
        max_steps=16,
        validate_every=6,
        save_minutes=1e-9,
        dipoles=True,
        molecule_weight=1.0,
        **SMALL,
    )
    assert train(settings, tmp_path / "whole", console=_quiet())

    from openmm_les.training.trainer import LESTraining

    def interrupted_at(step):
        original = LESTraining.training_step

        def training_step(self, batch, batch_idx):
            if self.trainer.global_step == step:
                signal.raise_signal(signal.SIGINT)
            return original(self, batch, batch_idx)

        return training_step

    # Once between two validations, once in the step that a validation follows.
    with monkeypatch.context() as patch:
        patch.setattr(LESTraining, "training_step", interrupted_at(8))
        assert not train(settings, tmp_path / "parts", console=_quiet())
    with monkeypatch.context() as patch:
        patch.setattr(LESTraining, "training_step", interrupted_at(11))
        assert not resume_training(tmp_path / "parts", console=_quiet())
    assert resume_training(tmp_path / "parts", console=_quiet())

    whole, parts = _weights(tmp_path / "whole"), _weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for key in whole:
        torch.testing.assert_close(whole[key], parts[key], rtol=0.0, atol=0.0, msg=key)
    same = [key for key in _rows(tmp_path / "whole")[0] if key != "minutes"]
    assert [[row[key] for key in same] for row in _rows(tmp_path / "whole")] == [
        [row[key] for key in same] for row in _rows(tmp_path / "parts")
    ]


def test_an_interrupt_in_the_last_step_leaves_a_finished_run(data, tmp_path, monkeypatch):
    from openmm_les.training.trainer import LESTraining

    original = LESTraining.training_step

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == 3:
            signal.raise_signal(signal.SIGINT)
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LESTraining, "training_step", training_step)
        assert not train(
            TrainingSettings(data=(data,), max_steps=4, **SMALL), tmp_path / "run", console=_quiet()
        )
    assert [row["step"] for row in _rows(tmp_path / "run")] == ["4"]  # validated all the same
    assert resume_training(tmp_path / "run", console=_quiet())
    assert (tmp_path / "run" / "CARD.md").is_file()


def test_time_limit_ends_the_run(data, tmp_path):
    settings = TrainingSettings(data=(data,), max_minutes=0.05, validate_every=10_000, **SMALL)
    assert train(settings, tmp_path / "run", console=_quiet())
    (row,) = _rows(tmp_path / "run")
    assert 0.05 <= float(row["minutes"]) < 0.2


def test_seeds_decide(data, tmp_path):
    results = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        settings = TrainingSettings(data=(data,), max_steps=6, validate_every=6, seed=seed, **SMALL)
        train(settings, tmp_path / name, console=_quiet())
        results.append(_rows(tmp_path / name)[0]["valid_loss"])
    assert results[0] == results[1] != results[2]


def test_a_run_is_not_overwritten(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").touch()
    settings = TrainingSettings(data=(data,), max_steps=1, **SMALL)
    with pytest.raises(RunError, match="not empty"):
        train(settings, tmp_path / "run", console=_quiet())
    with pytest.raises(RunError, match="nothing to resume"):
        resume_training(tmp_path / "run", console=_quiet())


def test_a_run_resumes_with_the_data_it_has_only(data, tmp_path):
    settings = TrainingSettings(data=(data,), max_steps=2, **SMALL)
    assert train(settings, tmp_path / "run", console=_quiet())
    for name, split in (("energy", "train"), ("dipole", "train"), ("forces", "valid"), ("group", "train")):
        other = toy_configurations(24)
        first = int(np.flatnonzero(other.split == split)[0])
        values = getattr(other, name)
        place = other.atoms_of(first) if name == "forces" else first
        values[place] = "water4" if name == "group" else values[place] + 0.1
        write_hdf5(Path(data), other)
        with pytest.raises(RunError, match="not those the run was started with"):
            resume_training(tmp_path / "run", console=_quiet())


def test_a_device_that_is_not_there_leaves_nothing_behind(data, tmp_path):
    settings = TrainingSettings(data=(data,), max_steps=1, **{**SMALL, "accelerator": "gpuu"})
    with pytest.raises(ValueError, match="gpuu"):
        train(settings, tmp_path / "run", console=_quiet())
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        train(settings, tmp_path / "file", console=_quiet())


def test_a_learning_rate_that_is_not_reached_is_told(data, tmp_path):
    console = _quiet()
    train(
        TrainingSettings(data=(data,), max_steps=2, **{**SMALL, "warm_up": 200}),
        tmp_path / "run",
        console=console,
    )
    assert "rises for 200 of 2 steps" in console.file.getvalue()


def test_bad_data_leave_nothing_behind(tmp_path):
    toy = toy_configurations(24)
    toy.forces[4, 1] = np.nan
    settings = TrainingSettings(data=(str(write_hdf5(tmp_path / "nan.h5", toy)),), max_steps=1, **SMALL)
    with pytest.raises(DataError, match="NaN"):
        train(settings, tmp_path / "run", console=_quiet())
    assert not (tmp_path / "run").exists()


def test_charges_near_zero_draw_a_warning(data, tmp_path, monkeypatch, caplog):
    from openmm_les.models.heads import LatentChargeHead

    def no_charges(self, features, numbers, molecules, molecule_charges):
        return 0.0 * features[:, 0]

    monkeypatch.setattr(LatentChargeHead, "forward", no_charges)
    settings = TrainingSettings(data=(data,), max_steps=2, validate_every=2, **SMALL)
    train(settings, tmp_path / "run", console=_quiet())
    assert "Coulomb term is as good as off" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_steps": None}, "say how long"),
        ({"max_steps": -3}, "`max_steps` must be positive"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be positive"),
        ({"ema": 1.5}, "`ema` must lie between"),
        ({"dtype": "float16"}, "`dtype` must be"),
        ({"data": ()}, "no training data"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        TrainingSettings(**{"data": ("x.h5",), "max_steps": 1, **change})


def test_settings_survive_writing(tmp_path):
    settings = TrainingSettings(data=("ä.h5", "b.xyz"), max_minutes=1.5, seed=3)
    settings.write(tmp_path / "settings.json")
    assert TrainingSettings.read(tmp_path / "settings.json") == settings
    values = json.loads((tmp_path / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps({**values, "colour": "red"}))
    with pytest.raises(DataError, match="unknown settings: colour"):
        TrainingSettings.read(tmp_path / "settings.json")


def test_a_run_starts_from_another_ones_model_at_another_level(data, tmp_path):
    first = TrainingSettings(data=(data,), max_steps=60, validate_every=60, **SMALL)
    assert train(first, tmp_path / "first", console=_quiet())
    error = float(_rows(tmp_path / "first")[-1]["valid_force_mae"])
    # Labels of another method: the same forces, 7 eV more for each oxygen.
    shifted = toy_configurations(24)
    shifted.energy += 7.0 * np.add.reduceat(shifted.numbers == 8, shifted.offsets[:-1])
    other = str(write_hdf5(tmp_path / "other.h5", shifted))
    model = tmp_path / "first" / MODEL
    settings = TrainingSettings(
        data=(other,), init=str(model), max_steps=2, validate_every=2, **{**SMALL, "cutoff": 3.0}
    )
    assert train(settings, tmp_path / "second", console=_quiet())
    row = _rows(tmp_path / "second")[-1]
    assert float(row["valid_force_mae"]) < 1.5 * error
    assert float(row["valid_energy_mae"]) < 0.1
    assert read_description(tmp_path / "second" / MODEL)["backbone"]["cutoff"] == 4.0
    assert read_description(tmp_path / "second" / MODEL)["metadata"]["settings"]["init"] == MODEL


def test_a_started_run_resumes_without_the_model_it_started_from(data, tmp_path):
    first = TrainingSettings(data=(data,), max_steps=2, validate_every=2, **SMALL)
    assert train(first, tmp_path / "first", console=_quiet())
    model = tmp_path / "first" / MODEL
    settings = TrainingSettings(data=(data,), init=str(model), max_steps=4, validate_every=2, **SMALL)
    assert train(settings, tmp_path / "second", console=_quiet())
    model.unlink()
    done = json.loads((tmp_path / "second" / "settings.json").read_text())
    (tmp_path / "second" / "settings.json").write_text(json.dumps({**done, "max_steps": 6}))
    assert resume_training(tmp_path / "second", console=_quiet())
    assert int(_rows(tmp_path / "second")[-1]["step"]) == 6


def test_a_model_is_not_trained_on_elements_it_does_not_know(data, tmp_path):
    first = TrainingSettings(data=(data,), max_steps=2, validate_every=2, **SMALL)
    assert train(first, tmp_path / "first", console=_quiet())
    c = toy_configurations(24)
    c.numbers[c.numbers == 1] = 9
    other = str(write_hdf5(tmp_path / "other.h5", c))
    settings = TrainingSettings(data=(other,), init=str(tmp_path / "first" / MODEL), max_steps=2, **SMALL)
    with pytest.raises(DataError, match=r"the data hold F, which model.safetensors does not know .*H, O"):
        train(settings, tmp_path / "second", console=_quiet())
    assert not (tmp_path / "second").exists()
