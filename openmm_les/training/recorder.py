"""What a training run leaves behind and shows: checkpoint, best model, CSV log, progress bar."""

from __future__ import annotations

import csv
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LAST = "last.ckpt"
LOG = "log.csv"
TENSORBOARD = "tensorboard"
COLUMNS = (
    "step", "minutes", "epoch", "learning_rate", "train_loss", "train_force_error", "train_energy_mae",
    "valid_loss", "valid_force_mae", "valid_force_rmse", "valid_energy_mae", "valid_charge_spread",
    "valid_dipole_r", "valid_stress_error", "valid_dipole_error", "valid_born_charges_error",
    "valid_molecule_error", "valid_polarizability_error",
)  # fmt: skip


class Interrupted(Exception):
    """The user asked to stop; the checkpoint is written."""


class Recorder(Callback):
    """Writes and shows a run as it goes.

    Parameters
    ----------
    directory : of the run
    save_minutes : between two checkpoints; one is written after each validation too
    console : where progress goes
    tensorboard : write each line of the log for TensorBoard, too

    Raises
    ------
    ImportError
        ``tensorboard`` without tensorboardX.
    """

    def __init__(
        self, directory: Path, save_minutes: float, console: Console, *, tensorboard: bool = False
    ) -> None:
        if tensorboard and find_spec("tensorboardX") is None:
            raise ImportError("--tensorboard needs tensorboardX: pip install 'openmm-les[train]'")
        self.tensorboard = tensorboard
        self.directory = directory
        self.save_seconds = 60.0 * save_minutes
        self.console = console
        self.interrupted = False
        self._last_save = 0.0  # by the run's clock
        self._progress: Progress | None = None

    def request_stop(self) -> None:
        """Save and stop after the step under way."""
        self.interrupted = True
        self.console.print("stopping after this step (Ctrl-C again: at once, unsaved)")

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        self._last_save = module.elapsed()
        if not (trainer.is_global_zero and self.console.is_terminal):
            return
        self._progress = Progress(
            TextColumn("step {task.fields[step]}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[train]}"),
            TextColumn("[bold]{task.fields[valid]}"),
            console=self.console,
        )
        self._task = self._progress.add_task(
            "training", total=1.0, completed=module.progress(), step=trainer.global_step, train="", valid=""
        )
        self._progress.start()

    def on_train_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._progress is not None:
            self._progress.update(
                self._task,
                completed=module.progress(),
                step=trainer.global_step,
                train=f"train {1000 * module.recent['force']:.0f} meV/Å",
            )
        # A step that ends with a validation is saved after it, so that resuming does not skip it.
        if module.validation_due():
            return
        stop = self._asked_to_stop(trainer)
        if stop or module.elapsed() - self._last_save > self.save_seconds:
            self._save(trainer, module, stop)

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        if trainer.sanity_checking:
            return
        row = module.validation_row()
        if trainer.is_global_zero:
            path = self.directory / LOG
            new = not path.exists()
            with path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS)
                if new:
                    writer.writeheader()
                writer.writerow({key: f"{row[key]:.6g}" for key in COLUMNS})
            text = f"{1000 * row['valid_force_mae']:.1f} meV/Å {1000 * row['valid_energy_mae']:.2f} meV/atom"
            if self._progress is not None:
                self._progress.update(self._task, valid=f"valid {text}")
            self.console.print(
                f"step {row['step']:>7}  {row['minutes']:7.1f} min  "
                f"train {1000 * row['train_force_error']:6.1f}  valid {text}  "
                + "  ".join(
                    text.format(row[key])
                    for key, text in (
                        ("valid_charge_spread", "std(q) {:.3f} e"),
                        ("valid_dipole_r", "dipole r {:.3f}"),
                    )
                    if math.isfinite(row[key])
                ),
                highlight=False,
                soft_wrap=True,
            )
            if self.tensorboard:
                self._write_tensorboard(row)
        self._save(trainer, module, self._asked_to_stop(trainer))

    def _asked_to_stop(self, trainer: Trainer) -> bool:
        """Whether any process was interrupted: signals reach them at different steps, or one of them only."""
        if trainer.world_size > 1:
            return trainer.strategy.reduce_boolean_decision(self.interrupted, all=False)
        return self.interrupted

    def _write_tensorboard(self, row: dict[str, float]) -> None:
        from tensorboardX import SummaryWriter

        with SummaryWriter(str(self.directory / TENSORBOARD)) as writer:
            for key in (key for key in COLUMNS[1:] if math.isfinite(row[key])):
                kind, _, name = key.partition("_")
                tag = f"{kind}/{name}" if kind in ("train", "valid") else key
                writer.add_scalar(tag, row[key], int(row["step"]))

    def _save(self, trainer: Trainer, module: Any, stop: bool) -> None:
        # Lightning writes to a temporary file first, so a crash keeps the previous checkpoint.
        trainer.save_checkpoint(self.directory / LAST)
        self._last_save = module.elapsed()
        if stop:
            raise Interrupted

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if self._progress is not None:
            self._progress.stop()


__all__ = ["LAST", "LOG", "Interrupted", "Recorder"]
