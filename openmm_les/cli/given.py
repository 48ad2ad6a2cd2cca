"""What a person said on the command line, told from defaults."""

from __future__ import annotations

import typer


def given_options(ctx: typer.Context) -> set[str]:
    """Names of the parameters that stand on the command line."""
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


__all__ = ["given_options"]
