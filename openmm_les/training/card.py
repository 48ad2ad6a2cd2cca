"""The card of a model, written by the run that made it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from openmm_les.training.settings import TrainingSettings


def command_line(settings: TrainingSettings) -> str:
    """The ``openmm-les train`` command of a run, files by the names that the settings have."""
    words = ["openmm-les", "train", *settings.data, "-o", "run"]
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name == "data" or value == field.default:
            continue
        flag = "--" + field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, tuple):
            for entry in value:
                words += [flag, str(entry)]
        else:
            words += [flag, str(value)]
    return shlex.join(words)


def card(description: Mapping[str, Any], settings: TrainingSettings, results: Mapping[str, Any]) -> str:
    """Card of a model in Markdown.

    Parameters
    ----------
    description : of its file, see `read_description`
    settings : of the run, files by name
    results : `Predictions.summary` on the validation data
    """
    return "\n".join(_lines(description, settings, results)) + "\n"


def _lines(
    description: Mapping[str, Any], settings: TrainingSettings, results: Mapping[str, Any]
) -> Iterator[str]:
    metadata = description["metadata"]
    data = metadata["training_data"]
    backbone = description["backbone"]
    yield f"# {metadata['name']}"
    yield ""
    level = metadata["level_of_theory"] or "not declared"
    yield f"**Level of theory: {level}.** A model is no better than its labels."
    yield ""
    yield (
        f"**Architecture.** {backbone['type']}, {backbone.get('n_channels', '?')} channels, "
        f"{backbone.get('n_layers', '?')} rounds, cutoff {backbone.get('cutoff', '?')} Å, "
        f"{metadata['n_parameters']} parameters; {_charges(description, settings)}"
    )
    yield ""
    yield (
        f"**Training data.** {data['train']} configurations for training, {data['valid']} for validation, of "
        f"{', '.join(data['files'])}. Configurations that hold each element: "
        f"{', '.join(f'{element} {n}' for element, n in data['elements'].items())}. "
        f"Groups: {', '.join(f'{group} {n}' for group, n in data['groups'].items())}."
        + "".join(f" Dropped {n}: {reason}." for reason, n in data["dropped"].items())
    )
    yield ""
    yield f"**Labels used: {data['labels']}.** {_labels(data['tuned_on'], settings)}"
    yield ""
    if settings.init:
        yield f"**Started from** {settings.init}{', backbone frozen' if settings.freeze_backbone else ''}."
        yield ""
    reached = metadata["validation"]
    yield f"**Training.** The best model by validation, of step {int(reached['step'])}; seed {settings.seed}:"
    yield ""
    yield f"    {command_line(settings)}"
    yield ""
    if settings.max_minutes is not None:
        yield "The length is in minutes: another machine takes other steps and gets other weights."
        yield ""
    yield "**Errors on the validation data**, which chose the best weights; other data may do worse."
    yield ""
    yield from _table(results)
    yield ""
    spread = ", ".join(f"{name} {value:.3f}" for name, value in results["charge_spread_neutral"].items())
    yield f"Standard deviation of latent charges of neutral configurations, e: {spread}."
    yield ""
    yield (
        "**Limits.** Elements, functional groups, charges, densities and temperatures beyond the training "
        "data are beyond the model. Check it on data of your own (`openmm-les evaluate`) before you trust it."
    )


def _charges(description: Mapping[str, Any], settings: TrainingSettings) -> str:
    if settings.short_range_only:
        return "no latent charges: short-range energies only."
    coulomb, sources = description["electrostatics"], description.get("sources")
    kind, kept = "latent charges", "molecule"
    if sources and sources["type"] == "ChargeEquilibration":
        kind, kept = "latent charges by equilibration", sources["conserve"]
    if sources and sources["type"] == "MultipoleSources":
        more = [name for name in ("dipoles", "quadrupoles") if sources[name]]
        if sources["polarizability"]:
            more.append(f"{sources['polarizability']} polarizabilities")
        kind = " and ".join([", ".join(["latent charges", *more[:-1]]), more[-1]])
    return (
        f"{kind} with σ = {coulomb['smearing']:g} Å, conserved per {kept}, "
        f"{'converged Coulomb sum' if coulomb['k_cutoff'] is None else 'sharp cut of the Coulomb sum'}."
    )


def _labels(tuned_on: Sequence[str], settings: TrainingSettings) -> str:
    """What the charges come from; ``tuned_on`` counts the runs before this one, too."""
    tuned = [name for name in ("dipoles", "Born charges") if name in tuned_on]
    if settings.short_range_only:
        return "There are no charges in this model."
    if tuned:
        text = (
            f"The charges were tuned on {' and '.join(tuned)}; they are not a prediction from energies alone."
        )
    else:
        text = "Charges follow from these alone: no dipoles, no partial or Born charges were trained on."
    return text + " Polarizabilities were trained on labels." * ("polarizabilities" in tuned_on)


def _table(results: Mapping[str, Any]) -> Iterator[str]:
    """Errors by group."""
    columns = ["group", "n", "force MAE, meV/Å", "force RMSE", "energy MAE, meV/atom"]
    others = {
        "dipole": "dipole",
        "born_charges": "Born charges",
        "polarizability": "polarizability",
        "stress": "stress",
    }
    shown = [name for name in others if results["all"][name] is not None]
    for name in shown:
        columns += [f"{others[name]} r", "slope"]
    yield "| " + " | ".join(columns) + " |"
    yield "| " + " | ".join("---" for _ in columns) + " |"
    for group, row in [*results["groups"].items(), ("all", results["all"])]:
        cells = [
            group,
            str(row["configurations"]),
            f"{1e3 * row['force_mae']:.1f}",
            f"{1e3 * row['force_rmse']:.1f}",
            f"{1e3 * row['energy_mae']:.2f}",
        ]
        for name in shown:
            agreement = row[name]
            cells += (
                ["–", "–"] if agreement is None else [f"{agreement['r']:.3f}", f"{agreement['slope']:.2f}"]
            )
        yield "| " + " | ".join(cells) + " |"


__all__ = ["card", "command_line"]
