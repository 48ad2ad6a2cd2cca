"""The training data's place in feature space, stored with the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from openmm_les.exceptions import DataError
from openmm_les.models.checkpoint import load_model, save_model
from openmm_les.models.domain import FeatureDomain
from openmm_les.models.model import LESModel
from openmm_les.training.batches import Batches, GraphData
from openmm_les.training.checks import check_configurations
from openmm_les.training.data import Configurations, concatenate
from openmm_les.training.labels import LabelFormat
from openmm_les.training.readers import read_configurations

_MOST = 3000  # configurations that are enough for means and covariances


def fit_domain(model: LESModel, configurations: Configurations, seed: int = 0) -> FeatureDomain:
    """Description of (up to 3000 of) the configurations in the features of a trained model.

    Raises
    ------
    DataError
        They hold too few atoms.
    """
    drawn = np.random.default_rng(seed).permutation(len(configurations))[:_MOST]
    parameter = next(model.parameters())
    data = GraphData(configurations.select(np.sort(drawn)), model.cutoff, dtype=parameter.dtype)
    features, numbers = [], []
    with torch.no_grad():
        for batch in Batches(data, 800):
            features.append(model.backbone(batch.graph).features)
            numbers.append(batch.graph.numbers)
    found = torch.cat(features)
    domain = FeatureDomain(model.elements, found.shape[1]).to(parameter.dtype)
    try:
        domain.fit(found, torch.cat(numbers))
    except ValueError as error:
        raise DataError(str(error)) from error
    return domain


def add_domain(
    model_file: str | Path,
    data: Sequence[str | Path],
    labels: LabelFormat | None = None,
    *,
    max_force: float = 10.0,
) -> None:
    """Describe training data in a model file that has no such description yet (or another one).

    Parameters
    ----------
    model_file : replaced by one with the same weights
    data : files the model was trained on; where they say, their training split counts
    labels : their names and units, where they are not those of the format
    max_force : eV/Å, as in the training

    Raises
    ------
    DataError
        See `check_configurations`; or no training data among them.
    """
    model = load_model(model_file)
    read = concatenate([read_configurations(path, labels) for path in data])
    chosen = read.select(np.isin(read.split, ["train", ""]))
    if not len(chosen):
        raise DataError(f"no training data in {', '.join(map(str, data))}")
    checked, _ = check_configurations(chosen, max_force=max_force, elements=model.elements)
    model.domain = fit_domain(model, checked)
    save_model(model, model_file)


__all__ = ["add_domain", "fit_domain"]
