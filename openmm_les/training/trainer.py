"""Training on Lightning: the module it runs, and one function from settings to a model file."""

from __future__ import annotations

import logging
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from openmm_les.exceptions import DataError, RunError
from openmm_les.models.checkpoint import load_model, save_model
from openmm_les.models.model import LESModel
from openmm_les.training.batches import Batch, Batches, GraphData, TrainingStream
from openmm_les.training.data import (
    Configurations,
    check_configurations,
    concatenate,
    fit_reference_energies,
    level_of_theory,
    read_configurations,
    split_configurations,
)
from openmm_les.training.loss import energy_force_loss, predict_with_forces
from openmm_les.training.metrics import SMALL_CHARGES, Predictions
from openmm_les.training.optimizer import MuonAdamW, learning_rate_factor, split_parameters
from openmm_les.training.recorder import LAST, Interrupted, Recorder
from openmm_les.training.settings import TrainingSettings
from openmm_les.training.starting_model import build_model, refit_reference_energies, trained_model

logger = logging.getLogger(__name__)

MODEL = "model.safetensors"
SETTINGS = "settings.json"
INITIAL = "initial.safetensors"


class LESTraining(pl.LightningModule):
    """Trains a model on energies and forces; validates and keeps the average of its weights.

    The charge head joins in at ``charge_start``: while the short-range part is still poor, forces
    say little about charges, and free ones drift to values that serve as mere fitting constants.
    """

    def __init__(
        self,
        model: LESModel,
        settings: TrainingSettings,
        train: GraphData,
        valid: GraphData,
        directory: Path,
        metadata: dict[str, Any],
    ) -> None:
        super().__init__()
        self.model = model
        self.average = AveragedModel(model, multi_avg_fn=_moving_average(settings.ema))
        self.average.requires_grad_(False)
        self.settings = settings
        self.train_data, self.valid_data = train, valid
        self.directory = directory
        self.metadata = metadata
        self.best = float("inf")
        self.recent = {"loss": float("nan"), "force": float("nan"), "energy": float("nan")}
        self.steps_per_epoch = 1
        self.first_step = 0  # of this session
        self._elapsed = 0.0  # seconds of training in earlier sessions
        self._started: float | None = None

    def elapsed(self) -> float:
        """Seconds of training so far, all sessions together."""
        return self._elapsed + (0.0 if self._started is None else time.monotonic() - self._started)

    def progress(self) -> float:
        """Fraction of the run that is done, by whichever limit is nearest."""
        s, step = self.settings, self.trainer.global_step
        done = [
            step / s.max_steps if s.max_steps else 0.0,
            self.elapsed() / (60.0 * s.max_minutes) if s.max_minutes else 0.0,
            step / (s.epochs * self.steps_per_epoch) if s.epochs else 0.0,
        ]
        return max(done)

    def validation_due(self) -> bool:
        """Whether a validation follows the step just done."""
        return self.trainer.should_stop or self.trainer.global_step % self.settings.validate_every == 0

    def train_dataloader(self) -> TrainingStream:
        stream = TrainingStream(
            self.train_data,
            self.settings.batch_atoms,
            self.settings.seed,
            self.trainer.global_rank,
            self.trainer.world_size,
        )
        self.steps_per_epoch = stream.steps_per_epoch
        stream.first_step = self.trainer.global_step  # a resumed run goes on where it was
        return stream

    def val_dataloader(self) -> Batches:
        return Batches(self.valid_data)

    def configure_optimizers(self) -> MuonAdamW:
        matrices, others = split_parameters(self.model)
        return MuonAdamW(
            matrices,
            others,
            learning_rate=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
        )

    def on_train_start(self) -> None:
        self._started = time.monotonic()
        self.first_step = self.trainer.global_step
        if self.progress() >= 1.0:  # a finished run, resumed
            self.trainer.should_stop = True

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        s, progress = self.settings, self.progress()
        for group in self.optimizers().param_groups:
            group["lr"] = s.learning_rate * learning_rate_factor(
                self.trainer.global_step, progress, s.warm_up
            )
        # A trained head goes on from the first step.
        self.model.charge_head.requires_grad_(bool(s.init) or progress >= s.charge_start)
        weight = s.energy_weight * (s.late_energy_factor if progress >= s.late_start else 1.0)
        _, energy, forces = predict_with_forces(self.model, batch, train=True)
        losses = energy_force_loss(energy, forces, batch, weight)
        if not bool(torch.isfinite(losses.total)):
            names = self.train_data.configurations.name[batch.indices.cpu().numpy()]
            raise RunError(
                f"the loss is {float(losses.total)} at step {self.trainer.global_step} "
                f"(configurations {', '.join(names[:5])} …); a smaller learning rate may help"
            )
        for key, term in (("loss", losses.total), ("force", losses.force), ("energy", losses.energy)):
            value, old = float(term.detach()), self.recent[key]
            self.recent[key] = value if math.isnan(old) else 0.98 * old + 0.02 * value
        return losses.total

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.average.update_parameters(self.model)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.progress() >= 1.0:
            self.trainer.should_stop = True  # Lightning validates once more, then ends

    def on_validation_epoch_start(self) -> None:
        self._predictions = Predictions(self.valid_data.configurations)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._predictions.add(batch, *predict_with_forces(self.average.module, batch, train=False))

    def on_validation_epoch_end(self) -> None:
        errors = self._predictions.errors()
        spread = self._predictions.charge_spread().get("all", float("nan"))
        dipole = self._predictions.dipole_agreement(self.valid_data.configurations.total_charge == 0.0)
        loss = errors["force_error"] + self.settings.energy_weight * errors["energy_mae"]
        self._row = {
            "step": self.trainer.global_step,
            "minutes": self.elapsed() / 60.0,
            "epoch": self.trainer.global_step / self.steps_per_epoch,
            "learning_rate": self.optimizers().param_groups[0]["lr"],
            "train_loss": self.recent["loss"],
            "train_force_error": self.recent["force"],
            "train_energy_mae": self.recent["energy"],
            "valid_loss": loss,
            "valid_force_mae": errors["force_mae"],
            "valid_force_rmse": errors["force_rmse"],
            "valid_energy_mae": errors["energy_mae"],
            "valid_charge_spread": spread,
            "valid_dipole_r": float("nan") if dipole is None else dipole["r"],
        }
        if spread < SMALL_CHARGES:
            logger.warning(
                "std(q) of neutral configurations is %.3f e: the charges are near zero and the Coulomb "
                "term is as good as off; forces do not show it",
                spread,
            )
        if loss < self.best:
            self.best = loss
            if self.trainer.is_global_zero:
                result = {key: self._row[key] for key in self._row if key.startswith(("valid", "step"))}
                averaged = cast(LESModel, self.average.module)
                save_model(averaged, self.directory / MODEL, {**self.metadata, "validation": result})

    def validation_row(self) -> dict[str, float]:
        """The last validation, one value for each column of the log."""
        return self._row

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["openmm_les"] = {"elapsed": self.elapsed(), "best": self.best, "recent": dict(self.recent)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = checkpoint["openmm_les"]
        self._elapsed, self.best, self.recent = own["elapsed"], own["best"], dict(own["recent"])


def _moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Exponential average that forgets faster in the first steps, when the weights still run."""

    @torch.no_grad()
    def update(averages: list[Tensor], weights: list[Tensor], n_averaged: Tensor | int) -> None:
        n = float(n_averaged)
        torch._foreach_lerp_(averages, weights, 1.0 - min(decay, (1.0 + n) / (10.0 + n)))

    return update


def load_data(settings: TrainingSettings, console: Console) -> tuple[Configurations, Configurations]:
    """Training and validation configurations, checked; the report goes to ``console``.

    Raises
    ------
    DataError
        See `check_configurations`; or nothing to train or validate on.
    """
    keys = {"energy_key": settings.energy_key, "forces_key": settings.forces_key}
    data = concatenate([read_configurations(path, **keys) for path in settings.data])
    if settings.valid:
        data.split = np.full(len(data), "train")
        valid = concatenate([read_configurations(path, **keys) for path in settings.valid])
        valid.split = np.full(len(valid), "valid")
        data = concatenate([data, valid])
    data, report = check_configurations(data, max_force=settings.max_force)
    for line in report.lines():
        _say(console, line)
    data = split_configurations(data, valid_fraction=settings.valid_fraction, seed=settings.seed)
    train, valid = data.select(data.split == "train"), data.select(data.split == "valid")
    for name, part in (("train", train), ("valid", valid)):
        if len(part) == 0:
            raise DataError(f"no configurations to {name} on; the splits found: {sorted(set(data.split))}")
    unseen = sorted(set(valid.numbers.tolist()) - set(train.numbers.tolist()))
    if unseen:
        raise DataError(f"validation data hold elements that training data do not: atomic numbers {unseen}")
    if len(valid) > settings.max_valid:
        drawn = np.random.default_rng(settings.seed).permutation(len(valid))[: settings.max_valid]
        valid = valid.select(np.sort(drawn))
    _say(console, f"training on {len(train)}, validating on {len(valid)} configurations")
    return train, valid


def prepare(settings: TrainingSettings, directory: Path, console: Console) -> LESTraining:
    """Data read and checked, model built: everything before the first step. Writes nothing."""
    train_set, valid_set = load_data(settings, console)
    elements = sorted(set(train_set.numbers.tolist()))
    dtype = getattr(torch, settings.dtype)
    initial: LESModel | None = None
    if settings.init:
        copy = directory / INITIAL  # kept by the run, for when it is resumed
        initial = trained_model(copy if copy.is_file() else settings.init, elements, dtype)
    cutoff = settings.cutoff if initial is None else initial.cutoff
    with console.status("finding neighbours"):
        train_graphs = GraphData(train_set, cutoff, dtype=dtype)
        valid_graphs = GraphData(valid_set, cutoff, dtype=dtype)
    if train_graphs.n_unresolved:
        _say(
            console,
            f"{train_graphs.n_unresolved} configurations: total charge not attributable to molecules, "
            "conserved as a whole",
        )
    mean_neighbors = train_graphs.centers.numel() / len(train_set.numbers)
    if initial is None:
        references = fit_reference_energies(train_set, elements)
        model = build_model(settings, elements, references, max(1.0, round(mean_neighbors, 1)))
    else:
        model = initial
        with console.status("fitting reference energies"):
            shift = refit_reference_energies(model, train_graphs, settings.seed)
        _say(console, f"starting from {Path(settings.init).name}; reference energies shift by {shift:.3g} eV")
    n_parameters = sum(p.numel() for p in model.parameters())
    _say(console, f"{n_parameters} parameters, {mean_neighbors:.1f} neighbours per atom")
    metadata = {
        "name": settings.name,
        "level_of_theory": settings.level_of_theory or level_of_theory(settings.data),
        "training_data": {
            "files": [Path(path).name for path in settings.data],
            "train": len(train_set),
            "valid": len(valid_set),
            "labels": "energies and forces",
        },
        # Files by name: where they lay on one machine tells nobody else anything.
        "settings": {
            **asdict(settings),
            "data": [Path(path).name for path in settings.data],
            "valid": [Path(path).name for path in settings.valid],
            "init": Path(settings.init).name,
        },
    }
    return LESTraining(model, settings, train_graphs, valid_graphs, directory, metadata)


def train(
    settings: TrainingSettings, directory: Path, *, resume: bool = False, console: Console | None = None
) -> bool:
    """Train a model in ``directory``: best model, checkpoint, settings and log.

    Parameters
    ----------
    settings : of a new run; of a run to resume they come from its directory (`resume_training`)
    directory : must not hold a run, unless it is resumed

    Returns
    -------
    finished : False where Ctrl-C stopped it; it can be resumed

    Raises
    ------
    DataError, RunError
        Before any epoch: data that cannot be used, a directory in use or nothing to resume.
    """
    directory = Path(directory)
    console = console or Console()
    if not resume and directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RunError(f"{directory} exists and is not empty: choose another, or --resume it")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    module = prepare(settings, directory, console)
    directory.mkdir(parents=True, exist_ok=True)
    if not resume:
        settings.write(directory / SETTINGS)
        if settings.init:
            save_model(load_model(settings.init), directory / INITIAL)
    recorder = Recorder(directory, settings.save_minutes, console)
    with _quiet_lightning(), _stop_on_interrupt(recorder):
        trainer = pl.Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            precision="64-true" if settings.dtype == "float64" else "32-true",
            max_epochs=-1,
            val_check_interval=settings.validate_every,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            gradient_clip_val=settings.gradient_clip,
            callbacks=[recorder],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            inference_mode=False,
            default_root_dir=directory,
        )
        try:
            trainer.fit(module, ckpt_path=str(directory / LAST) if resume else None, weights_only=True)
        except Interrupted:
            _say(console, f"stopped at step {trainer.global_step}; go on with --resume {directory}")
            return False
    if trainer.global_step == module.first_step:
        _say(console, f"the run in {directory} was finished already")
    _say(console, f"best model: {directory / MODEL}")
    return True


def resume_training(directory: Path, *, console: Console | None = None) -> bool:
    """Go on with the run of a directory from its last checkpoint, with its own settings."""
    directory = Path(directory)
    for name in (SETTINGS, LAST):
        if not (directory / name).is_file():
            raise RunError(f"nothing to resume in {directory}: no {name}")
    return train(TrainingSettings.read(directory / SETTINGS), directory, resume=True, console=console)


def _say(console: Console, line: str) -> None:
    """One plain line, unbroken where output goes to a file."""
    console.print(line, highlight=False, soft_wrap=True)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's tips and advice about workers and loggers have no place in our output."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    levels = [logging.getLogger(name).level for name in names]
    for name in names:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            yield
    finally:
        for name, level in zip(names, levels):
            logging.getLogger(name).setLevel(level)


@contextmanager
def _stop_on_interrupt(recorder: Recorder) -> Iterator[None]:
    """The first Ctrl-C saves and stops, the second is as usual."""

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, previous)
        recorder.request_stop()

    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


__all__ = ["LESTraining", "load_data", "resume_training", "train"]
