"""``openmm-les export``: a model as TorchScript for other engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[str, typer.Argument(help="Name of a shipped model, or a model file.")],
    output: Annotated[Path, typer.Argument(help="TorchScript file to write, .pt.")],
    precision: Annotated[str, typer.Option(help="single or double arithmetic.")] = "double",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Write a model as a TorchScript file, which torch loads in Python or C++ without this package."""
    from openmm_les.cli.console import say
    from openmm_les.models.checkpoint import load_model
    from openmm_les.models.export import export_model, signature_lines

    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; --overwrite replaces it")
    description = export_model(load_model(model), output, precision=precision)
    for line in signature_lines(description):
        say(line)
    say(f"wrote {output}")


__all__ = ["export"]
