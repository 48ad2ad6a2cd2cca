"""What the benchmarks against published LES models share: training, errors, the table, the file."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from provenance import write_result
from rich.console import Console
from rich.table import Table

from openmm_les.models.checkpoint import load_model, read_description
from openmm_les.training.evaluation import evaluate_model
from openmm_les.training.labels import LabelFormat
from openmm_les.training.recorder import LAST
from openmm_les.training.settings import TrainingSettings
from openmm_les.training.trainer import MODEL, SETTINGS, resume_training, train

SHARED = Path(os.environ.get("OPENMM_LES_SHARED", Path(__file__).parents[3] / "shared"))


def arguments(description: str, minutes: float) -> argparse.Namespace:
    """Options of a benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("run", type=Path, help="directory of the run; one that is there is gone on with")
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "benchmark", help="folder of the data")
    parser.add_argument("--minutes", type=float, default=minutes, help="of training, wall time")
    parser.add_argument("--short-range-only", action="store_true", help="the same without the Coulomb term")
    parser.add_argument("--latent-dipoles", action="store_true", help="latent dipoles beside the charges")
    parser.add_argument("--evaluate-only", action="store_true", help="take the run's model as it is")
    parser.add_argument("--label", default="", help="part of the result's name, for a run of its own kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def train_and_report(
    name: str,
    options: argparse.Namespace,
    settings: dict[str, Any],
    validation: Path,
    labels: LabelFormat,
    anchors: dict[str, dict[str, float]],
) -> None:
    """Train (or go on, or take what is there), evaluate, print the table and write the result.

    Parameters
    ----------
    name : of the result
    options : see `arguments`
    settings : of the training, beside what the options say
    validation : file of the validation configurations
    labels : how its labels are named
    anchors : published model: its errors, by the keys of the result
    """
    if options.evaluate_only:
        finished = True
    elif (options.run / LAST).is_file():
        finished = resume_training(options.run)
    else:
        finished = train(
            TrainingSettings(
                max_minutes=options.minutes,
                seed=options.seed,
                threads=options.threads,
                short_range_only=options.short_range_only,
                latent_dipoles=options.latent_dipoles,
                name=name,
                **settings,
            ),
            options.run,
        )
    if not finished:
        return
    start = time.perf_counter()
    errors = evaluate_model(options.run / MODEL, [validation], split="all", labels=labels, max_force=1e3)
    everything = errors["all"]
    ours = {
        "force_mae_mev_per_angstrom": 1e3 * everything["force_mae"],
        "force_rmse_mev_per_angstrom": 1e3 * everything["force_rmse"],
        "energy_mae_mev_per_atom": 1e3 * everything["energy_mae"],
    }
    if everything["born_charges"] is not None:
        born = everything["born_charges"]
        ours |= {
            "born_charge_r_squared": born["r_squared"],
            "born_charge_mae_e": born["mae"],
            "born_charge_slope": born["slope"],
        }
    if everything["dipole"] is not None:
        ours |= {"dipole_r": everything["dipole"]["r"], "dipole_slope": everything["dipole"]["slope"]}
    description = read_description(options.run / MODEL)
    trained = TrainingSettings.read(options.run / SETTINGS)
    kinds = {"short range only": trained.short_range_only, "latent dipoles": trained.latent_dipoles}
    of_run = [kind for kind, chosen in kinds.items() if chosen]
    own = ", ".join(["openmm-les", *of_run])
    columns = [key for key in ours if any(key in row for row in anchors.values())]
    table = Table("model", *columns)
    for title, row in [(own, ours), *anchors.items()]:
        table.add_row(title, *(f"{row[key]:.3g}" if key in row else "–" for key in columns))
    Console().print(table)
    result = {
        "what": (
            "errors on the validation configurations, which also chose the best weights of the run; "
            "published numbers are those of their authors on the same data"
        ),
        "model": {
            "backbone": description["backbone"],
            "parameters": sum(p.numel() for p in load_model(options.run / MODEL).parameters()),
            "step": description["metadata"]["validation"]["step"],
            "minutes": trained.max_minutes,
            "seed": trained.seed,
            "short_range_only": trained.short_range_only,
            "latent_dipoles": trained.latent_dipoles,
            "batch_atoms": trained.batch_atoms,
            "charge_start": trained.charge_start,
            "charge_gain": trained.charge_gain,
        },
        "errors": ours,
        "published": anchors,
        "seconds_of_evaluation": round(time.perf_counter() - start, 1),
    }
    parts = [name, *(kind.replace(" ", "-") for kind in of_run), *filter(None, [options.label])]
    print(write_result(f"{'-'.join(parts)}-seed{trained.seed}", result))
