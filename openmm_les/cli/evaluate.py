"""``openmm-les evaluate``: errors of a model on labelled configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from openmm_les.cli import label_options as labels
from openmm_les.units import GPA_PER_EV_PER_ANGSTROM3


def evaluate(
    model: Annotated[str, typer.Argument(help="Name of a shipped model, or a model file.")],
    data: Annotated[list[Path], typer.Argument(help="HDF5 (flat, SPICE), extended XYZ, ASE database.")],
    split: Annotated[str, typer.Option(help="train, valid, test, or all.")] = "test",
    groups: Annotated[str, typer.Option(help='Take these groups of the data only, "one,another".')] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the numbers as JSON.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="PNG of predictions against labels.", show_default=False)
    ] = None,
    max_force: Annotated[
        float, typer.Option(help="Leave out configurations with larger forces, eV/Å.")
    ] = 10.0,
    batch_atoms: Annotated[int, typer.Option(help="Atoms in a batch, about.")] = 400,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")] = 0,
    energy_key: labels.EnergyKey = "",
    forces_key: labels.ForcesKey = "",
    stress_key: labels.StressKey = "",
    dipole_key: labels.DipoleKey = "",
    born_charges_key: labels.BornChargesKey = "",
    polarizability_key: labels.PolarizabilityKey = "",
    charge_key: labels.ChargeKey = "",
    energy_unit: labels.EnergyUnit = "",
    length_unit: labels.LengthUnit = "",
    force_unit: labels.ForceUnit = "",
    stress_unit: labels.StressUnit = "",
    dipole_unit: labels.DipoleUnit = "",
    born_charges_order: labels.BornChargesOrder = "polarisation-displacement",
) -> None:
    """Errors by group: energies, forces, stress; dipoles and Born charges from the charges."""
    given = dict(locals())
    from rich.console import Console

    from openmm_les.training.evaluation import evaluate_model
    from openmm_les.training.labels import LabelFormat

    for path in (output, plot):
        if path is not None and path.exists():
            raise FileExistsError(f"{path} exists")
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"no folder {path.parent} for {path.name}")
    console = Console()
    results = evaluate_model(
        model,
        data,
        split=split,
        groups=groups,
        labels=LabelFormat(**{name: given[name] for name in LabelFormat.names()}),
        plot=plot,
        say=lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True),
        max_force=max_force,
        batch_atoms=batch_atoms,
        threads=threads,
    )
    if output is not None:
        output.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(error_table(results))
    spread = ", ".join(f"{key} {value:.3f}" for key, value in results["charge_spread_neutral"].items())
    console.print(f"std(q) of neutral configurations, e: {spread}", highlight=False, soft_wrap=True)
    if results["warnings"]:
        console.print(*results["warnings"], sep="\n", highlight=False, soft_wrap=True)


def error_table(results: dict[str, Any]) -> Any:
    """Rich table of errors, a row for each group; columns for labels that the data have."""
    from rich import box
    from rich.table import Table

    title = f"{results['model']} on {results['split']} data"
    # Narrow, for eleven columns on a terminal of eighty.
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("group", overflow="fold", min_width=8)
    everything = results["all"]
    kinds = ("dipole", "born_charges", "polarizability", "stress")
    agreements = [name for name in kinds if everything[name] is not None]
    columns = ["n", "F MAE\nmeV/Å", "F RMSE\nmeV/Å", "E MAE\nmeV/atom"]
    titles = {
        "dipole": ["dipole r", "slope"],
        "born_charges": ["Born r²", "slope", "MAE\ne"],
        "polarizability": ["α r²", "slope", "MAE\nÅ³"],
        "stress": ["stress r", "MAE\nGPa"],
    }
    for name in agreements:
        columns += titles[name]
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in [*results["groups"].items(), ("all", everything)]:
        cells = [
            str(row["configurations"]),
            f"{1000 * row['force_mae']:.1f}",
            f"{1000 * row['force_rmse']:.1f}",
            f"{1000 * row['energy_mae']:.2f}",
        ]
        for kind in agreements:
            cells += _agreement(kind, row[kind], len(titles[kind]))
        table.add_row(name, *cells)
    neutral = results["dipole_neutral"]
    if neutral is not None:
        cells = [str(neutral["n"]), "", "", "", f"{neutral['r']:.3f}", f"{neutral['slope']:.3f}"]
        table.add_row("neutral", *cells, *[""] * (len(columns) - len(cells)))
    return table


def _agreement(kind: str, found: dict[str, float] | None, width: int) -> list[str]:
    """Cells of one kind of label."""
    if found is None:
        return ["–"] * width
    if kind == "stress":
        return [f"{found['r']:.3f}", f"{found['mae'] * GPA_PER_EV_PER_ANGSTROM3:.3f}"]
    first = found["r"] if kind == "dipole" else found["r_squared"]
    return [f"{first:.3f}", f"{found['slope']:.3f}", f"{found['mae']:.3f}"][:width]


__all__ = ["error_table", "evaluate"]
