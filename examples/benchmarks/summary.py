"""The tables of measured numbers, from the JSON files that the benchmarks wrote.

    python examples/benchmarks/summary.py            # shows all
    python examples/benchmarks/summary.py --write    # puts all into docs/measured.md, some into the README

A benchmark has its rows here as soon as its file lies in ``results``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import result_rows

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
MEASURED = ROOT / "docs" / "measured.md"
BEGIN, END = (
    "<!-- begin of the table that examples/benchmarks/summary.py writes -->",
    "<!-- end of the table -->",
)

Reader = Callable[[dict[str, Any]], result_rows.Rows]

SECTIONS: dict[str, dict[str, Reader]] = {
    "Shipped models on held-out molecules": {
        "peptide-gfn2-small-test": result_rows.shipped_model,
        "peptide-gfn2-small-seed1-test": result_rows.shipped_model,
        "peptide-gfn2-small-third-run-test": result_rows.shipped_model,
        "peptide-gfn2-small-third-run-seed1-test": result_rows.shipped_model,
        "peptide-gfn2-small-probes": result_rows.shipped_model,
        "peptide-gfn2-small-contacts": result_rows.shipped_model,
        "peptide-gfn2-small-near": result_rows.shipped_model,
        "peptide-gfn2-small-stretched": result_rows.shipped_model,
        "peptide-gfn2-small-shared_protons": result_rows.shipped_model,
        "peptide-gfn2-small-acids": result_rows.shipped_model,
        "peptide-gfn2-small-active": result_rows.shipped_model,
        "water-gfn2-small-boxes": result_rows.shipped_model,
        "water-gfn2-small-clusters": result_rows.shipped_model,
        "water-gfn2-small-contacts": result_rows.shipped_model,
        "water-gfn2-small-near": result_rows.shipped_model,
        "water-gfn2-small-stretched": result_rows.shipped_model,
        "charges-against-gfn2": result_rows.charges_against_gfn2,
        "contact_walls": partial(result_rows.walls, "contacts", "facing"),
        "bond_walls": partial(result_rows.walls, "bonds", "stretched"),
    },
    "Stability": {
        "stability_molecules": result_rows.stability_molecules,
        "stability_molecules-copies": result_rows.stability_molecules,
        "stability_molecules-600K": result_rows.stability_molecules,
        "stability-nvt": result_rows.nvt,
        "stability-nve": result_rows.nve,
        "water_nve": result_rows.water_nve,
        "embedding_nve": result_rows.embedding_nve,
        "extensions_nve": result_rows.extensions_nve,
    },
    "Data of the LES papers": {
        "dipeptides-latent-dipoles-seed0": partial(result_rows.literature, "dipeptides"),
        "dipeptides-latent-dipoles-seed1": partial(result_rows.literature, "dipeptides"),
        "dipeptides-seed0": partial(result_rows.literature, "dipeptides"),
        "dipeptides-seed1": partial(result_rows.literature, "dipeptides"),
        "dipeptides-late-charges-seed0": partial(result_rows.literature, "dipeptides"),
        "dipeptides-short-range-only-seed0": partial(result_rows.literature, "dipeptides"),
        "water-seed0": partial(result_rows.literature, "water"),
    },
    "Embedding": {
        "embedding_interactions": result_rows.embedding_interactions,
        "embedding_box_size": result_rows.embedding_box_size,
        "ion_response": result_rows.ion_response,
    },
    "Extensions": {
        "extensions": result_rows.extensions,
        "extensions-short": result_rows.extensions,
        "charge_states": result_rows.charge_states,
    },
    "Speed on a CPU": {
        "model_speed": result_rows.model_speed,
        "kept_memory": result_rows.kept_memory,
        "step_time-python": result_rows.step_time,
        "step_time-torchforce-python": result_rows.step_time,
        "embedding_time": result_rows.embedding_time,
        "electrostatics_scaling-1": result_rows.electrostatics,
        "multipole_speed": result_rows.multipole_speed,
        "overhead-python": result_rows.overhead,
        "mace_comparison-openmmml-1.8": result_rows.mace_comparison,
    },
    "Speed on a GPU": {
        "cuda_graphs": result_rows.cuda_graphs,
        "step_time-python-CUDA": result_rows.step_time,
        "embedding_time-CUDA": result_rows.embedding_time,
        "electrostatics_scaling-cuda": partial(result_rows.electrostatics, key="median_ms"),
        "overhead-python-CUDA": result_rows.overhead,
    },
}
HEADLINES = (
    "peptide-gfn2-small-test",
    "charges-against-gfn2",
    "water-gfn2-small-boxes",
    "stability_molecules",
    "stability-nve",
    "dipeptides-latent-dipoles-seed0",
    "dipeptides-latent-dipoles-seed1",
    "model_speed",
    "electrostatics_scaling-1",
    "mace_comparison-openmmml-1.8",
    "cuda_graphs",
)
"""Results that the README shows."""


def table(readers: dict[str, Reader], folder: str) -> list[str]:
    """Markdown table of the results that are there; ``folder`` leads to them from where it will stand."""
    lines = ["| what | measured | file |", "| --- | --- | --- |"]
    for name, reader in readers.items():
        path = RESULTS / f"{name}.json"
        if path.is_file():
            link = f"[{name}]({folder}/{name}.json)"
            found = reader(json.loads(path.read_text()))
            lines += [f"| {what} | {number} | {link} |" for what, number in found]
    return lines


def headlines() -> str:
    """The README's table."""
    readers = {name: reader for section in SECTIONS.values() for name, reader in section.items()}
    return "\n".join(table({name: readers[name] for name in HEADLINES}, "examples/benchmarks/results"))


def everything() -> str:
    """The tables of docs/measured.md."""
    return "\n\n".join(
        "\n".join([f"## {title}", "", *table(readers, "../examples/benchmarks/results")])
        for title, readers in SECTIONS.items()
    )


TABLES: dict[Path, Callable[[], str]] = {README: headlines, MEASURED: everything}
"""Where each table stands."""


def main() -> None:
    """Show the tables or put them where they stand."""
    parser = argparse.ArgumentParser(description="The tables of measured numbers.")
    parser.add_argument("--write", action="store_true", help="put them into README.md and docs/measured.md")
    if not parser.parse_args().write:
        print(everything())
        return
    for path, written in TABLES.items():
        before, rest = path.read_text().split(BEGIN)
        _, after = rest.split(END)
        path.write_text(f"{before}{BEGIN}\n{written()}\n{END}{after}")


if __name__ == "__main__":
    main()
