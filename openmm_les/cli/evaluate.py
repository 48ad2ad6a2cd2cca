"""``openmm-les evaluate``: errors of a model on labelled configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="Name of a shipped model, or a model file.")],
    data: Annotated[list[Path], typer.Argument(help="HDF5 of flat arrays, or extended XYZ.")],
    split: Annotated[str, typer.Option(help="train, valid, test, or all.")] = "test",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the numbers as JSON.", show_default=False)
    ] = None,
    energy_key: Annotated[str, typer.Option(help="Name of the energies, eV.")] = "energy",
    forces_key: Annotated[str, typer.Option(help="Name of the forces, eV/Å.")] = "forces",
    max_force: Annotated[
        float, typer.Option(help="Leave out configurations with larger forces, eV/Å.")
    ] = 10.0,
    batch_atoms: Annotated[int, typer.Option(help="Atoms in a batch, about.")] = 400,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")] = 0,
) -> None:
    """Errors of energies and forces by group, dipoles from latent charges, health of the charges."""
    from rich.console import Console

    from openmm_les.training.evaluation import evaluate_model

    if output is not None and output.exists():
        raise FileExistsError(f"{output} exists")
    results = evaluate_model(
        model,
        data,
        split=split,
        energy_key=energy_key,
        forces_key=forces_key,
        max_force=max_force,
        batch_atoms=batch_atoms,
        threads=threads,
    )
    if output is not None:
        output.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    console = Console()
    console.print(error_table(results))
    spread = ", ".join(f"{key} {value:.3f}" for key, value in results["charge_spread_neutral"].items())
    console.print(f"std(q) of neutral configurations, e: {spread}", highlight=False, soft_wrap=True)
    if results["warnings"]:
        console.print(*results["warnings"], sep="\n", highlight=False, soft_wrap=True)


def error_table(results: dict[str, Any]) -> Any:
    """Rich table of errors, a row for each group."""
    from rich.table import Table

    table = Table(title=f"{results['model']} on {results['split']} data", title_justify="left")
    table.add_column("group")
    for column in ("n", "F MAE\nmeV/Å", "F RMSE\nmeV/Å", "E MAE\nmeV/atom", "dipole r", "slope"):
        table.add_column(column, justify="right")
    rows = [*results["groups"].items(), ("all", results["all"])]
    for name, row in rows:
        dipole = row["dipole"]
        table.add_row(
            name,
            str(row["configurations"]),
            f"{1000 * row['force_mae']:.1f}",
            f"{1000 * row['force_rmse']:.1f}",
            f"{1000 * row['energy_mae']:.2f}",
            "–" if dipole is None else f"{dipole['r']:.3f}",
            "–" if dipole is None else f"{dipole['slope']:.3f}",
        )
    neutral = results["dipole_neutral"]
    if neutral is not None:
        table.add_row(
            "neutral",
            str(neutral["configurations"]),
            "",
            "",
            "",
            f"{neutral['r']:.3f}",
            f"{neutral['slope']:.3f}",
        )
    return table


__all__ = ["error_table", "evaluate"]
