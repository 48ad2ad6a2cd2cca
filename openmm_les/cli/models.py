"""``openmm-les models``: the models that are shipped, and their cards."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    name: Annotated[
        str | None,
        typer.Argument(help="Show the card of this model, or of a model file.", show_default=False),
    ] = None,
) -> None:
    """List the shipped models, or show the card of one: data, level of theory, errors, licence."""
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.table import Table

    from openmm_les.elements import symbol
    from openmm_les.models import checkpoint

    console = Console()
    if name is not None:
        console.print(Markdown(checkpoint.model_card(name)))
        return
    table = Table(title="shipped models (openmm-les models NAME shows a card)", title_justify="left")
    for column in ("name", "elements", "level of theory", "licence"):
        table.add_column(column)
    for each in checkpoint.list_models():
        description = checkpoint.read_description(checkpoint.PRETRAINED / each / checkpoint.WEIGHTS)
        metadata = description["metadata"]
        table.add_row(
            each,
            " ".join(symbol(z) for z in description["elements"]),
            str(metadata.get("level_of_theory", "–")),
            str(metadata.get("license", "–")),
        )
    console.print(table)


__all__ = ["models"]
