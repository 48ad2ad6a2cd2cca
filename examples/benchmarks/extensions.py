"""What each extension of latent charges buys: same start, same data, same time of training.

    python examples/benchmarks/extensions.py extensions --minutes 10

The backbone of a shipped model goes on with charges as they are, with charges that equilibrate, with
latent dipoles, with polarizabilities, and with the molecule's charge in the backbone, each trained for
the same time on GFN2-xTB energies and forces (gfn2_bio.h5 and data of `generate_probe_data.py`; no labels
of charges, dipoles or polarizabilities).
Held-out errors of neutral and charged molecules, dipoles, Born charges and molecular polarizabilities
(gfn2_bec.h5), and the time of a force call of 22 atoms. One after the other; the same command goes on
where an interrupted one stopped. Writes ``results/extensions.json``.
"""

from __future__ import annotations

import argparse
import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from literature import SHARED
from model_speed import milliseconds, peptide
from provenance import write_result
from rich.console import Console
from rich.table import Table

import openmm_les
from openmm_les.engine.compile import freeze
from openmm_les.models.checkpoint import read_description
from openmm_les.training.evaluation import evaluate_model
from openmm_les.training.recorder import LAST
from openmm_les.training.settings import TrainingSettings
from openmm_les.training.trainer import MODEL, resume_training, train

VARIANTS: dict[str, dict[str, Any]] = {
    "charges": {},
    "equilibrated": {"equilibration": True},
    "dipoles": {"latent_dipoles": True},
    "polarizable": {"latent_dipoles": True, "polarizability": "isotropic"},
    "charge states": {"charge_embedding": True},
}
COLUMNS = (
    "force MAE, meV/Å",
    "charged",
    "probes",
    "dipole r",
    "slope",
    "Born r²",
    "slope",
    "α r",
    "slope",
    "ms/call",
    "steps",
)


def time_of_call(path: Path) -> float:
    """Median time of energy and forces of capped alanine, frozen script, one thread, ms."""
    torch.set_num_threads(1)
    force, arguments = peptide(openmm_les.load_model(path))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
        frozen = freeze(torch.jit.script(force))
    with torch.jit.optimized_execution(False):
        return milliseconds(partial(frozen, *arguments), 100)["processor_median_ms"]


def measured(model: Path, bio: Path, probes: Path, bec: Path) -> dict[str, Any]:
    """Held-out errors and the time of a call."""
    of_bio = evaluate_model(model, [bio])
    of_probes = evaluate_model(model, [probes])
    of_bec = evaluate_model(model, [bec])
    charged = of_bio["charged"]
    polarizability = of_bec["all"].get("polarizability")
    return {
        "force_mae_mev_per_angstrom": 1e3 * of_bio["all"]["force_mae"],
        "force_mae_charged_mev_per_angstrom": 1e3 * charged["force_mae"],
        "force_mae_probes_mev_per_angstrom": 1e3 * of_probes["all"]["force_mae"],
        "dipole_neutral": of_bio["dipole_neutral"],
        "born_charges": of_bec["all"]["born_charges"],
        "polarizability": polarizability,
        "processor_ms_per_call": time_of_call(model),
    }


def row(found: dict[str, Any]) -> list[str]:
    """Cells of `COLUMNS`."""
    alpha = found["polarizability"]
    return [
        *(f"{found[f'force_mae_{k}mev_per_angstrom']:.1f}" for k in ("", "charged_", "probes_")),
        f"{found['dipole_neutral']['r']:.3f}",
        f"{found['dipole_neutral']['slope']:.2f}",
        f"{found['born_charges']['r_squared']:.3f}",
        f"{found['born_charges']['slope']:.2f}",
        "–" if alpha is None else f"{alpha['r']:.3f}",
        "–" if alpha is None else f"{alpha['slope']:.2f}",
        f"{found['processor_ms_per_call']:.1f}",
        str(found["steps"]),
    ]


def main() -> None:
    """Train all variants, measure them, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of the runs")
    parser.add_argument("--probes", type=Path, required=True, help="file of generate_probe_data.py")
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "training", help="folder of the data")
    parser.add_argument("--init", default="peptide-gfn2-small")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training each, wall time")
    options = parser.parse_args()
    bio, bec = options.data / "gfn2_bio.h5", options.data / "gfn2_bec.h5"
    options.run.mkdir(parents=True, exist_ok=True)
    results = {}
    table = Table("charges", *COLUMNS)
    for name, choice in VARIANTS.items():
        run, kept = options.run / name, options.run / f"{name}.json"
        if not kept.exists():
            finished = (
                resume_training(run)
                if (run / LAST).is_file()
                else train(
                    TrainingSettings(
                        data=(str(bio), str(options.probes)),
                        init=options.init,
                        max_minutes=options.minutes,
                        molecule_weight=5.0,
                        batch_atoms=200,
                        learning_rate=2e-3,
                        energy_weight=1.0,
                        charge_gain=1.0,
                        max_valid=200,
                        threads=1,
                        name=name,
                        **choice,
                    ),
                    run,
                )
            )
            if not finished:
                return
            kept.write_text(json.dumps(measured(run / MODEL, bio, options.probes, bec)))
        results[name] = json.loads(kept.read_text())
        # Of the same minutes, steps that cost more are fewer.
        results[name]["steps"] = read_description(run / MODEL)["metadata"]["validation"]["step"]
        table.add_row(name, *row(results[name]))
    Console(width=130).print(table)
    what = {"init": options.init, "minutes": options.minutes, "variants": results}
    print(write_result("extensions", what))


if __name__ == "__main__":
    main()
