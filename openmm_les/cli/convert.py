"""``openmm-les convert``: a checkpoint of mace as a model file of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="MACE or MACE-LES checkpoint (.model).")],
    output: Annotated[Path, typer.Argument(help="Model file to write, .safetensors.")],
    head: Annotated[
        str | None, typer.Option(help="Head of a model with several.", show_default=False)
    ] = None,
    electrostatics: Annotated[
        str,
        typer.Option(help="sharp: the periodic sum as the original cuts it; converged: the whole sum."),
    ] = "sharp",
    charge_sign: Annotated[
        int | None,
        typer.Option(help="1 or -1, of the latent charges, where you know better.", show_default=False),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(help="Terms of the weights, where you know better than us.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Rebuild a published model. Nothing that stands in the file is run."""
    from openmm_les.cli.console import say
    from openmm_les.models.adapters.convert import convert_mace, make_converged
    from openmm_les.models.checkpoint import is_restricted, model_card, save_model

    if electrostatics not in ("sharp", "converged"):
        raise ValueError(f"--electrostatics must be sharp or converged, got {electrostatics!r}")
    if charge_sign not in (None, 1, -1):
        raise ValueError(f"--charge-sign must be 1 or -1, got {charge_sign}")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; --overwrite replaces it")
    if not checkpoint.is_file():
        raise FileNotFoundError(f"no file {checkpoint}")
    model = convert_mace(checkpoint, head=head, license=license)
    if charge_sign is not None:
        if "charge_sign" not in model.metadata:
            raise ValueError(f"--charge-sign is of latent charges, which {checkpoint.name} has not")
        model.charge_scale = float(charge_sign)
        model.metadata["charge_sign"] = {"given": charge_sign, "ambiguous": False}
    if electrostatics == "converged":
        make_converged(model)
    save_model(model, output)
    say(model_card(str(output)).rstrip())
    if model.metadata.get("charge_sign", {}).get("ambiguous"):
        say(
            "NOTE: the sign of the latent charges is ambiguous. Inside the model it does not matter; before "
            "they meet a force field, compare the dipole of a molecule you know; --charge-sign sets it."
        )
    if is_restricted(model):
        say(f"NOTE: licence of the weights: {model.metadata['license']}")
    say(f"wrote {output}")


__all__ = ["convert"]
