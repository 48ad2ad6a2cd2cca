"""What each extension of latent charges buys: same start, same data, same training.

    python examples/benchmarks/extensions.py extensions --probes probes.h5 --minutes 10

The backbone of a shipped model, which knows the molecule's charge (`charge_states.py` says what that is
worth), goes on with charges as they are, with charges that equilibrate, with latent dipoles and
quadrupoles, and with polarizabilities, each trained as long on GFN2-xTB energies and forces (gfn2_bio.h5 and
data of `generate_probe_data.py`; no labels of charges, dipoles or polarizabilities).
Held-out errors of neutral and charged molecules, dipoles, Born charges and molecular polarizabilities
(gfn2_bec.h5), and the time of a force call of 22 atoms, in turns at the end. One after the other, or on
more cores side by side with ``--only``; the same command goes on where an interrupted one stopped.
Writes ``results/extensions.json``.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

from literature import SHARED
from provenance import write_result
from rich.console import Console
from rich.table import Table
from variants import add_options, budget, times_of_calls, variant

from openmm_les.training.evaluation import evaluate_model
from openmm_les.training.trainer import MODEL

VARIANTS: dict[str, dict[str, Any]] = {
    "charges": {},
    "equilibrated": {"equilibration": True},
    "dipoles": {"latent_dipoles": True},
    "quadrupoles": {"latent_dipoles": True, "latent_quadrupoles": True},
    "polarizable": {"latent_dipoles": True, "polarizability": "isotropic"},
    "tensor polarizable": {"latent_dipoles": True, "polarizability": "tensor"},
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
    "ms a call",
    "steps",
)


def errors(bio: Path, probes: Path, bec: Path, model: Path) -> dict[str, Any]:
    """Held-out errors of a model."""
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
    }


def row(found: dict[str, Any], call: dict[str, float]) -> list[str]:
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
        f"{call['least_cpu_ms']:.2f}",
        str(found["steps"]),
    ]


def main() -> None:
    """Train all variants, evaluate them, time them in turn, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser, VARIANTS)
    parser.add_argument("--probes", type=Path, required=True, help="file of generate_probe_data.py")
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "training", help="folder of the data")
    parser.add_argument("--rounds", type=int, default=200, help="calls of each model that are timed")
    options = parser.parse_args()
    bio = options.data / "gfn2_bio.h5"
    settings = {
        "data": (str(bio), str(options.probes)),
        "molecule_weight": 5.0,
        "batch_atoms": 200,
        "learning_rate": 2e-3,
        "energy_weight": 1.0,
        "charge_gain": 1.0,
        "max_valid": 200,
    }
    evaluate = partial(errors, bio, options.probes, options.data / "gfn2_bec.h5")
    results = {}
    for name in [options.only] if options.only else VARIANTS:
        found = variant(name, options, settings | VARIANTS[name], evaluate)
        if found is None:
            return
        results[name] = found
    if options.only:
        return
    calls = times_of_calls({name: options.run / name / MODEL for name in VARIANTS}, options.rounds)
    table = Table("charges", *COLUMNS)
    for name, found in results.items():
        table.add_row(name, *row(found, calls[name]))
    Console(width=140).print(table)
    what = {
        "init": options.init,
        **budget(options),
        "variants": results,
        "calls": calls,
        "load_average": os.getloadavg()[0],
    }
    print(write_result("extensions", what))


if __name__ == "__main__":
    main()
