"""Everything before the first step: data read and checked, a model to start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from openmm_les.elements import symbol
from openmm_les.exceptions import DataError
from openmm_les.models.equilibration import ChargeEquilibration, equilibrate_charges
from openmm_les.models.heads import NoCharges
from openmm_les.models.model import LESModel
from openmm_les.training.batches import GraphData
from openmm_les.training.checks import Report, check_configurations
from openmm_les.training.data import (
    Configurations,
    check_splits,
    concatenate,
    fit_reference_energies,
    group_shares,
    select_groups,
    split_configurations,
)
from openmm_les.training.hdf5 import level_of_theory
from openmm_les.training.module import LESTraining
from openmm_les.training.readers import read_configurations
from openmm_les.training.settings import TrainingSettings
from openmm_les.training.starting_model import (
    build_model,
    chosen_elements,
    give_charge_embedding,
    give_multipoles,
    given_reference_energies,
    refit_reference_energies,
    trained_model,
)

INITIAL = "initial.safetensors"


def load_data(settings: TrainingSettings, console: Console) -> tuple[Configurations, Configurations, Report]:
    """Training and validation configurations, checked, and the report, which also goes to ``console``.

    Raises
    ------
    DataError
        See `check_configurations`; or nothing to train or validate on.
    """

    def read(paths: Sequence[str]) -> Configurations:
        return concatenate(
            [read_configurations(p, settings.labels, say=partial(say, console)) for p in paths]
        )

    data = read(settings.data)
    check_splits(data)
    if settings.valid:
        data.split = np.where(data.split == "test", "test", "train")  # a test set stays one
        valid = read(settings.valid)
        valid.split = np.full(len(valid), "valid")
        data = concatenate([data, valid])
    data = select_groups(data, settings.groups)
    data, report = check_configurations(data, max_force=settings.max_force)
    for line in report.lines():
        say(console, line)
    data = split_configurations(data, valid_fraction=settings.valid_fraction, seed=settings.seed)
    train, valid = data.select(data.split == "train"), data.select(data.split == "valid")
    for name, part in (("train", train), ("valid", valid)):
        if len(part) == 0:
            found = ", ".join(sorted(set(data.split.tolist()))) or "none"
            lost = f"; dropped before: {', '.join(report.dropped)}" if report.dropped else ""
            raise DataError(f"no configurations to {name} on; the splits found: {found}{lost}")
    asked = {
        "stress": settings.stress,
        "dipole": settings.dipoles,
        "born_charges": settings.born_charges,
        "polarizability": settings.polarizability_labels,
    }
    for label in (name for name, wanted in asked.items() if wanted):
        labels = getattr(train, label)
        if label in ("dipole", "polarizability"):  # those of a cell are none, see `GraphData`
            labels = labels[~(train.cell != 0.0).any((1, 2))]
        if not np.isfinite(labels).any():
            where = " of isolated systems" if len(labels) < len(train) else ""
            raise DataError(f"the training data hold no labels of `{label}`{where} to train on")
    unseen = sorted(set(valid.numbers.tolist()) - set(train.numbers.tolist()))
    if unseen:
        raise DataError(
            f"validation data hold elements that training data do not: {', '.join(map(symbol, unseen))}"
        )
    if len(valid) > settings.max_valid:
        drawn = np.random.default_rng(settings.seed).permutation(len(valid))[: settings.max_valid]
        valid = valid.select(np.sort(drawn))
    say(console, f"training on {len(train)}, validating on {len(valid)} configurations")
    return train, valid, report


def prepare(settings: TrainingSettings, directory: Path, console: Console) -> LESTraining:
    """Data read and checked, model built: everything before the first step. Writes nothing."""
    train_set, valid_set, report = load_data(settings, console)
    shares = group_shares(train_set, settings.group_shares)
    elements = sorted(set(train_set.numbers.tolist()))
    dtype = getattr(torch, settings.dtype)
    initial: LESModel | None = None
    if settings.init:
        copy = directory / INITIAL  # kept by the run, for when it is resumed
        initial = trained_model(copy if copy.is_file() else settings.init, elements, dtype)
        if settings.short_range_only:
            initial.charge_head = NoCharges()
            initial.set_sources(None)
        if settings.equilibration and not isinstance(initial.sources, ChargeEquilibration):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(settings.seed)
                equilibrate_charges(initial, gain=settings.charge_gain, conserve=settings.conserve)
        give_multipoles(initial, settings)
        give_charge_embedding(initial, settings)
        if not settings.short_range_only and isinstance(initial.charge_module(), NoCharges):
            raise DataError(
                f"{Path(settings.init).name} has no latent charges to train: `short_range_only` trains it as "
                "it is, `equilibration` gives it charges"
            )
    cutoff = settings.cutoff if initial is None else initial.cutoff
    with console.status("finding neighbours"):
        train_graphs = GraphData(train_set, cutoff, dtype=dtype)
        valid_graphs = GraphData(valid_set, cutoff, dtype=dtype)
    if train_graphs.n_unresolved:
        say(
            console,
            f"{train_graphs.n_unresolved} configurations: total charge not attributable to molecules, "
            "conserved as a whole",
        )
    if settings.charge_embedding and not bool((train_graphs.molecule_charges != 0.0).any()):
        raise DataError(
            "no molecule of the training data is charged: `charge_embedding` would stay silent (`charge_key` "
            "says where charges are)"
        )
    mean_neighbors = train_graphs.centers.numel() / len(train_set.numbers)
    if initial is None:
        references = (
            given_reference_energies(settings.reference_energies, elements)
            if settings.reference_energies
            else fit_reference_energies(train_set, elements)
        )
        model = build_model(settings, elements, references, max(1.0, round(mean_neighbors, 1)))
    else:
        model = initial
        if settings.reference_energies:
            references = given_reference_energies(settings.reference_energies, elements)
            model.reference_energies[torch.tensor(elements)] = torch.from_numpy(references)
            say(console, f"starting from {Path(settings.init).name}, with the reference energies given")
        else:
            with console.status("fitting reference energies"):
                shift = refit_reference_energies(model, train_graphs, settings.seed)
            done = f"shift by {shift:.3g} eV" if shift else "stay: the data are of the same method"
            say(console, f"starting from {Path(settings.init).name}; reference energies {done}")
    if settings.elements:
        model.elements = chosen_elements(settings.elements, model.elements)
        refused = ", ".join(symbol(z) for z in elements if z not in model.elements)
        if refused:
            say(console, f"the model learns from {refused} in the data and will refuse them (`elements`)")
    unseen = ", ".join(symbol(z) for z in model.elements if z not in elements)
    if unseen:
        say(
            console,
            f"the data hold no {unseen}: what the model says of them changes unseen; `elements` (--elements) "
            "makes it refuse them",
        )
    if settings.polarizability_labels and not model.responds:
        raise DataError("`polarizability_labels` need a model that is polarizable: give `polarizability`")
    if settings.max_steps and settings.warm_up > settings.max_steps // 2:
        say(
            console,
            f"the learning rate rises for {settings.warm_up} of {settings.max_steps} steps (`warm_up`) and "
            f"does not reach {settings.learning_rate:g}",
        )
    n_parameters = sum(p.numel() for p in model.parameters())
    say(console, f"{n_parameters} parameters, {mean_neighbors:.1f} neighbours per atom")
    before = {} if initial is None else initial.metadata
    metadata = {
        "name": settings.name,
        "n_parameters": n_parameters,
        "level_of_theory": settings.level_of_theory or level_of_theory(settings.data),
        "training_data": {
            "files": [Path(path).name for path in settings.data],
            "train": len(train_set),
            "valid": len(valid_set),
            "labels": ", ".join(settings.labels_used),
            "tuned_on": sorted({*settings.tuned_on, *before.get("training_data", {}).get("tuned_on", [])}),
            "elements": {symbol(z): n for z, n in report.elements.items()},
            "groups": report.groups,
            "dropped": report.dropped,
        },
        # Files by name: where they lay on one machine tells nobody else anything.
        "settings": {
            **asdict(settings),
            "data": tuple(Path(path).name for path in settings.data),
            "valid": tuple(Path(path).name for path in settings.valid),
            "init": Path(settings.init).name,
        },
    }
    return LESTraining(model, settings, train_graphs, shares, valid_graphs, directory, metadata)


def say(console: Console, line: str) -> None:
    """One plain line, unbroken where output goes to a file."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


__all__ = ["INITIAL", "load_data", "prepare", "say"]
