"""What Lightning runs: steps, validations and the average of a model's weights."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from openmm_les.exceptions import RunError
from openmm_les.models.checkpoint import save_model
from openmm_les.models.model import LESModel
from openmm_les.training.batches import Batch, Batches, GraphData, TrainingStream
from openmm_les.training.data import fingerprint
from openmm_les.training.loss import (
    Weights,
    batch_losses,
    counted_molecules,
    molecule_error,
    predict_batch,
)
from openmm_les.training.metrics import SMALL_CHARGES, Predictions
from openmm_les.training.optimizer import MuonAdamW, learning_rate_factor, split_parameters
from openmm_les.training.settings import TrainingSettings

logger = logging.getLogger(__name__)

MODEL = "model.safetensors"


class LESTraining(pl.LightningModule):
    """Trains a model on its labels; validates and keeps the average of its weights.

    The charge head joins in at ``charge_start``: while the short-range part is still poor, forces
    say little about charges, and free ones drift to values that serve as mere fitting constants.
    ``shares`` [n_train] says how often a pass over the data takes each configuration.
    """

    def __init__(
        self,
        model: LESModel,
        settings: TrainingSettings,
        train: GraphData,
        shares: np.ndarray,
        valid: GraphData,
        directory: Path,
        metadata: dict[str, Any],
    ) -> None:
        super().__init__()
        self.model = model
        self.average = AveragedModel(model, multi_avg_fn=_moving_average(settings.ema))
        self.average.requires_grad_(False)
        self.settings = settings
        self.train_data, self.shares, self.valid_data = train, shares, valid
        self.fingerprint = fingerprint(train.configurations, valid.configurations)
        self.directory = directory
        self.metadata = metadata
        self.best = float("inf")
        self.recent = {"loss": float("nan"), "force": float("nan"), "energy": float("nan")}
        self.steps_per_epoch = 1
        self.first_step = 0  # of this session
        self.stale = 0  # validations since the best one
        self._elapsed = 0.0  # seconds of training in earlier sessions
        self._started: float | None = None
        self._shared_elapsed = 0.0  # where several processes must agree
        if settings.freeze_backbone:
            model.backbone.requires_grad_(False)

    def elapsed(self) -> float:
        """Seconds of training so far, all sessions together; the same in all processes."""
        return self._shared_elapsed if self.trainer.world_size > 1 else self._own_elapsed()

    def _own_elapsed(self) -> float:
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

    def stopped_early(self) -> bool:
        """Whether too many validations brought nothing."""
        return 0 < self.settings.patience <= self.stale

    def validation_due(self) -> bool:
        """Whether a validation follows the step just done: the last step has one, too."""
        due = self.trainer.global_step % self.settings.validate_every == 0
        return due or self.trainer.should_stop or self.progress() >= 1.0

    def train_dataloader(self) -> TrainingStream:
        stream = TrainingStream(
            self.train_data,
            self.settings.batch_atoms,
            self.settings.seed,
            self.trainer.global_rank,
            self.trainer.world_size,
            self.shares,
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
        self._shared_elapsed = self._elapsed
        if self.progress() >= 1.0 or self.stopped_early():  # a finished run, resumed
            self.trainer.should_stop = True

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self.trainer.world_size > 1:
            # Processes that see different clocks would stop, save and anneal at different steps.
            self._shared_elapsed = self.trainer.strategy.broadcast(self._own_elapsed())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        s, progress = self.settings, self.progress()
        for group in self.optimizers().param_groups:
            group["lr"] = s.learning_rate * learning_rate_factor(
                self.trainer.global_step, progress, s.warm_up
            )
        # A trained head goes on from the first step.
        self.model.charge_module().requires_grad_(bool(s.init) or progress >= s.charge_start)
        outputs = predict_batch(
            self.model,
            batch,
            train=True,
            stress=s.stress,
            dipole=s.dipoles,
            born_charges=s.born_charges,
            polarizability=s.polarizability_labels,
        )
        losses = batch_losses(outputs, batch, self._weights(progress))
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

    def _weights(self, progress: float) -> Weights:
        """Weights of the terms of the loss; energies gain on forces late in the run."""
        s = self.settings
        return Weights(
            force=s.force_weight,
            energy=s.energy_weight * (s.late_energy_factor if progress >= s.late_start else 1.0),
            stress=s.stress_weight if s.stress else 0.0,
            dipole=s.dipole_weight if s.dipoles else 0.0,
            born_charges=s.born_charges_weight if s.born_charges else 0.0,
            molecule=s.molecule_weight,
            polarizability=s.polarizability_weight if s.polarizability_labels else 0.0,
        )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.average.update_parameters(self.model)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.progress() >= 1.0:
            self.trainer.should_stop = True  # Lightning validates once more, then ends

    def on_validation_epoch_start(self) -> None:
        self._predictions = Predictions(self.valid_data.configurations)
        self._molecule_errors: list[tuple[float, int]] = []  # mean and number of each batch

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        s, model = self.settings, cast(LESModel, self.average.module)
        outputs = predict_batch(
            model,
            batch,
            train=False,
            stress=s.stress,
            born_charges=s.born_charges,
            polarizability=s.polarizability_labels,
        )
        self._predictions.add(batch, outputs)
        if s.molecule_weight > 0.0:
            error = molecule_error(outputs.forces - batch.forces, batch.graph)
            self._molecule_errors.append((float(error.detach()), int(counted_molecules(batch.graph).sum())))

    def on_validation_epoch_end(self) -> None:
        errors, others = self._predictions.errors(), self._predictions.label_errors()
        found = np.array(self._molecule_errors).reshape(-1, 2)
        others["molecule"] = float(found.prod(1).sum() / found[:, 1].sum()) if found[:, 1].any() else math.nan
        weights = self._weights(0.0)  # of one kind throughout, to compare validations
        spread = self._predictions.charge_spread().get("all", float("nan"))
        dipole = self._predictions.dipole_agreement(self.valid_data.configurations.total_charge == 0.0)
        loss = weights.force * errors["force_error"] + weights.energy * errors["energy_mae"]
        for name, weight in zip(
            ("stress", "dipole", "born_charges", "molecule", "polarizability"), weights[2:]
        ):
            loss += 0.0 if math.isnan(others[name]) else weight * others[name]
        if self.trainer.world_size > 1:
            # All processes validate all data, but a GPU rounds differently each time, and which
            # validation was the best decides when each of them stops.
            loss = self.trainer.strategy.broadcast(loss)
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
            **{f"valid_{name}_error": value for name, value in others.items()},
        }
        if spread < SMALL_CHARGES and not self.settings.short_range_only:
            logger.warning(
                "std(q) of neutral configurations is %.3f e: the charges are near zero and the Coulomb "
                "term is as good as off; forces do not show it",
                spread,
            )
        self.stale += 1
        if loss < self.best:
            self.best, self.stale = loss, 0
            if self.trainer.is_global_zero:
                result = {
                    key: value
                    for key, value in self._row.items()
                    if key.startswith(("valid", "step")) and math.isfinite(value)
                }
                averaged = cast(LESModel, self.average.module)
                save_model(averaged, self.directory / MODEL, {**self.metadata, "validation": result})

        if self.stopped_early():
            self.trainer.should_stop = True

    def validation_row(self) -> dict[str, float]:
        """The last validation, one value for each column of the log."""
        return self._row

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["openmm_les"] = {
            "data": self.fingerprint,
            "elapsed": self.elapsed(),
            "best": self.best,
            "stale": self.stale,
            "recent": dict(self.recent),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = checkpoint["openmm_les"]
        if own["data"] != self.fingerprint:
            raise RunError(
                "the data are not those the run was started with: a resumed run would be neither's. "
                "Put them back, or start a new run from its model with --init"
            )
        self._elapsed, self.best, self.recent = own["elapsed"], own["best"], dict(own["recent"])
        self.stale = own["stale"]


def _moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Exponential average that forgets faster in the first steps, when the weights still run."""

    @torch.no_grad()
    def update(averages: list[Tensor], weights: list[Tensor], n_averaged: Tensor | int) -> None:
        n = float(n_averaged)
        torch._foreach_lerp_(averages, weights, 1.0 - min(decay, (1.0 + n) / (10.0 + n)))

    return update


__all__ = ["MODEL", "LESTraining"]
