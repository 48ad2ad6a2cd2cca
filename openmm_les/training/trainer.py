"""From settings to a model file: one function that runs Lightning and leaves nothing out."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from openmm_les.exceptions import DataError, RunError
from openmm_les.folders import sole_process
from openmm_les.memory import keep_freed_memory
from openmm_les.models.checkpoint import load_model, read_description, save_model
from openmm_les.training.card import card
from openmm_les.training.domain import fit_domain
from openmm_les.training.metrics import predict
from openmm_les.training.module import MODEL, LESTraining
from openmm_les.training.plots import plot_curves, plot_parity
from openmm_les.training.preparation import INITIAL, prepare, say
from openmm_les.training.recorder import LAST, LOG, Interrupted, Recorder
from openmm_les.training.settings import TrainingSettings

SETTINGS = "settings.json"
CARD = "CARD.md"
CURVES = "curves.png"
PARITY = "parity.png"


def train(
    settings: TrainingSettings, directory: Path, *, resume: bool = False, console: Console | None = None
) -> bool:
    """Train a model in ``directory``: best model, its card, checkpoint, settings, log and plots.

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
    main = rank_zero_only.rank == 0  # Lightning starts the other processes by this same command
    console = (console or Console()) if main else Console(quiet=True)
    if main and not resume and directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        if directory.is_dir():
            raise RunError(f"{directory} exists and is not empty: choose another, or --resume it")
        raise RunError(f"{directory} is a file: choose another name for the run's directory")
    keep_freed_memory()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    module = prepare(settings, directory, console)
    recorder = Recorder(directory, settings.save_minutes, console, tensorboard=settings.tensorboard)
    with ExitStack() as held:
        with _quiet_lightning(), _stop_on_interrupt(recorder):
            trainer = pl.Trainer(
                accelerator=settings.accelerator,
                devices=settings.devices,
                num_nodes=settings.nodes,
                strategy=_strategy(settings),
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
            directory.mkdir(parents=True, exist_ok=True)
            if main:
                held.enter_context(sole_process(directory))
            if main and not resume:
                settings.write(directory / SETTINGS)
                if settings.init:
                    save_model(load_model(settings.init), directory / INITIAL)
            try:
                trainer.fit(module, ckpt_path=str(directory / LAST) if resume else None, weights_only=True)
            except Interrupted:
                say(console, f"stopped at step {trainer.global_step}; go on with --resume {directory}")
                return False
        if trainer.global_step == module.first_step:
            say(console, f"the run in {directory} was finished already")
        elif module.stopped_early():
            say(
                console,
                f"stopped at step {trainer.global_step}: {module.stale} validations without a better one",
            )
        if main:
            with console.status("card and plots"):
                _finish(module, settings, directory, console)
        say(console, f"best model: {directory / MODEL}")
        return True


def resume_training(directory: Path, *, console: Console | None = None) -> bool:
    """Go on with the run of a directory from its last checkpoint, with its own settings."""
    directory = Path(directory)
    for name in (SETTINGS, LAST):
        if not (directory / name).is_file():
            raise RunError(f"nothing to resume in {directory}: no {name}")
    return train(TrainingSettings.read(directory / SETTINGS), directory, resume=True, console=console)


def _strategy(settings: TrainingSettings) -> str:
    """How processes share the work; charges join in late, so that some weights have no gradient at first."""
    several = settings.devices * settings.nodes > 1
    if settings.strategy == "ddp" or (several and settings.strategy == "auto"):
        return "ddp_find_unused_parameters_true"
    return settings.strategy


def _finish(module: LESTraining, settings: TrainingSettings, directory: Path, console: Console) -> None:
    """Card and plots of the best model; what its training data look like goes into its file."""
    model = load_model(directory / MODEL)
    if model.domain is None:
        try:
            model.domain = fit_domain(model, module.train_data.configurations, settings.seed)
        except DataError as error:
            say(console, f"the model cannot tell what is new to it: {error}")
        save_model(model, directory / MODEL)
    predictions = predict(model, module.valid_data)
    results = predictions.summary()
    named = replace(settings, **{key: module.metadata["settings"][key] for key in ("data", "valid", "init")})
    description = read_description(directory / MODEL)
    (directory / CARD).write_text(card(description, named, results), encoding="utf-8")
    plot_curves(directory / LOG, directory / CURVES)
    plot_parity(predictions, directory / PARITY, f"{settings.name}, validation data")


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


__all__ = ["CARD", "CURVES", "MODEL", "PARITY", "SETTINGS", "resume_training", "train"]
