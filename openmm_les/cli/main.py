"""The command ``openmm-les``: its subcommands and what becomes of their errors."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

# These modules import torch, openmm and the like inside their commands only, so that help is quick.
from openmm_les.cli import analyze, convert, doctor, evaluate, export, models, simulate, train
from openmm_les.exceptions import CheckpointError

# Errors that say that the user's input cannot be used; every other error is ours, or the machine's.
BAD_INPUT = (
    ValueError,
    TypeError,
    CheckpointError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    PermissionError,
)
EXIT_BAD_INPUT = 2
EXIT_FAILURE = 1

# Typer shows these itself: exits, aborts, and arguments that it cannot parse.
_TYPER_ERRORS: tuple[type[BaseException], ...] = (typer.Exit, typer.Abort, *typer.BadParameter.__bases__)


class Commands(TyperGroup):
    """Ends each failed command with one line on stderr instead of a traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept ``--debug`` after a subcommand as well as before it."""
        if "--debug" in args:
            args = ["--debug", *(argument for argument in args if argument != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand."""
        try:
            return super().invoke(ctx)
        except _TYPER_ERRORS:
            raise
        except Exception as error:
            if ctx.params["debug"]:
                raise
            fail(error)


def fail(error: Exception) -> NoReturn:
    """Say what went wrong in one line on stderr, and exit."""
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, (LookupError, AttributeError, AssertionError)):
        # Their texts ("'x'") say nothing without the traceback.
        message = f"unexpected {type(error).__name__}: {message}; --debug shows where"
    typer.echo(f"openmm-les: error: {message}", err=True)
    raise typer.Exit(EXIT_BAD_INPUT if isinstance(error, BAD_INPUT) else EXIT_FAILURE)


app = typer.Typer(
    name="openmm-les",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Machine-learning potentials with latent Ewald electrostatics, in OpenMM.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"openmm-les {version('openmm-les')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Machine-learning potentials with latent Ewald electrostatics, in OpenMM."""


app.command("simulate")(simulate.simulate)
app.command("train")(train.train)
app.command("convert")(convert.convert)
app.add_typer(analyze.app, name="analyze")
app.command("evaluate")(evaluate.evaluate)
app.command("export")(export.export)
app.command("models")(models.models)
app.command("doctor")(doctor.doctor)
