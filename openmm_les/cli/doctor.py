"""``openmm-les doctor``: what is installed, what works, and what to do about the rest."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Report versions, routes into OpenMM, platforms, and problems; exits with 1 if there are any."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from openmm_les.engine.doctor import diagnose

    diagnosis = diagnose()
    table = Table(show_header=False, title="openmm-les doctor", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("Python", diagnosis.python)
    for package, found in diagnosis.versions.items():
        table.add_row(package, found or "not installed")
    for route in diagnosis.routes.values():
        state = "works" if route.available else "not available"
        table.add_row(f"route {route.name}", escape(f"{state}: {route.reason}"))
    table.add_row("OpenMM platforms", ", ".join(diagnosis.platforms))
    table.add_row("GPU", diagnosis.cuda_device or "none that torch sees")
    Console().print(table)
    for problem in diagnosis.problems:
        typer.echo(f"problem: {' '.join(problem.split())}")
    if diagnosis.problems:
        raise typer.Exit(1)


__all__ = ["doctor"]
