"""A model against labelled data, from names and files to numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from openmm_les.exceptions import DataError
from openmm_les.models.checkpoint import load_model
from openmm_les.models.heads import NoCharges
from openmm_les.training.batches import GraphData
from openmm_les.training.checks import check_configurations
from openmm_les.training.data import SPLITS, concatenate, select_groups
from openmm_les.training.labels import LabelFormat
from openmm_les.training.metrics import SMALL_CHARGES, predict
from openmm_les.training.plots import plot_parity
from openmm_les.training.readers import read_configurations

logger = logging.getLogger(__name__)

LARGEST_OFFSET = 1.0
"""eV, between energies of charged and neutral configurations, from which `evaluate_model` warns."""


def evaluate_model(
    model: str | Path,
    data: Sequence[str | Path],
    *,
    split: str = "test",
    groups: str = "",
    labels: LabelFormat | None = None,
    plot: Path | None = None,
    say: Callable[[str], None] = logger.info,
    max_force: float = 10.0,
    batch_atoms: int = 400,
    threads: int = 0,
) -> dict[str, Any]:
    """Errors of a model, JSON-ready; see `Predictions.summary`.

    Parameters
    ----------
    model : name of a shipped model, or a file
    data : files, as `read_configurations` takes them
    split : "train", "valid", "test" or "all"
    groups : "one,another": these groups of the data only
    labels : their names and units, where they are not those of the format
    plot : PNG of predictions against labels, written where given
    say : called with a line about each file's units, and about what was dropped
    max_force : eV/Å; configurations with larger forces are left out, as in training

    Raises
    ------
    CheckpointError
        No such model.
    DataError
        The data cannot be used, hold elements the model does not know, or have no such split.
    """
    if split not in (*SPLITS, "all"):
        raise DataError(f"`split` must be one of {', '.join(SPLITS)}, all; got {split!r}")
    if threads:
        torch.set_num_threads(threads)
    les_model = load_model(model)
    configurations = concatenate([read_configurations(path, labels, say=say) for path in data])
    configurations = select_groups(configurations, groups)
    if split != "all":
        chosen = configurations.split == split
        if not chosen.any():
            found = ", ".join(sorted(set(configurations.split) - {""})) or "none"
            raise DataError(
                f"no {split!r} configurations in the data (splits found: {found}); try --split all"
            )
        configurations = configurations.select(chosen)
    configurations, report = check_configurations(
        configurations, max_force=max_force, elements=les_model.elements
    )
    for reason, count in report.dropped.items():
        say(f"dropped {count}: {reason}")
    dtype = next(les_model.parameters()).dtype
    cutoff = cast(float, les_model.backbone.cutoff)
    predictions = predict(les_model, GraphData(configurations, cutoff, dtype=dtype), batch_atoms)
    if plot is not None:
        plot_parity(predictions, plot, f"{Path(model).name}, {split}")
    names = [Path(path).name for path in data]
    results: dict[str, Any] = {"model": Path(model).name, "data": names, "split": split}
    results.update(predictions.summary())
    results["dropped"] = report.dropped
    results["warnings"] = warnings_of(results, charges=not isinstance(les_model.charge_module(), NoCharges))
    return results


def warnings_of(results: dict[str, Any], charges: bool) -> list[str]:
    """What the errors hide: charges that came to nothing, energies of ions that are off by a constant.

    Parameters
    ----------
    results : of `Predictions.summary`
    charges : whether the model has any
    """
    warnings = []
    spread = results["charge_spread_neutral"].get("all", np.inf)
    if charges and spread < SMALL_CHARGES:
        warnings.append(
            f"std(q) of neutral configurations is {spread:.3f} e: the Coulomb term is as good as off"
        )
    offsets = results["energy_offsets"]
    warnings += [
        f"energies of configurations of charge {charge} e are off by {offset - offsets['0']:+.1f} eV against "
        "neutral ones (median): forces do not show it, energies of ionisation and of proton transfer do"
        for charge, offset in offsets.items()
        if "0" in offsets and abs(offset - offsets["0"]) > LARGEST_OFFSET
    ]
    return warnings


__all__ = ["LARGEST_OFFSET", "evaluate_model", "warnings_of"]
