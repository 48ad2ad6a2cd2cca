"""``openmm-les simulate``: the options, and the command that turns them into a run."""

from __future__ import annotations

import random
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from openmm_les.cli.given import given_options
from openmm_les.cli.settings import ALL, DEFAULT_FORCE_FIELD, NONE, Settings, steps_of


class Ensemble(str, Enum):
    """What is held constant."""

    nve = "nve"
    nvt = "nvt"
    npt = "npt"


class TrajectoryFormat(str, Enum):
    """Formats of trajectories."""

    dcd = "dcd"
    xtc = "xtc"


class Precision(str, Enum):
    """Precision of the force field and the integrator on a GPU."""

    single = "single"
    mixed = "mixed"
    double = "double"


class Route(str, Enum):
    """Ways into OpenMM."""

    auto = "auto"
    torchforce = "torchforce"
    python = "python"


class Embedding(str, Enum):
    """How the ML region feels its surroundings."""

    mechanical = "mechanical"
    electrostatic = "electrostatic"


_RESUMABLE = {"resume", "steps", "ps"}


def _check_heeded(given: set[str], settings: Settings) -> None:
    """Refuse options that the run would pass over.

    Raises
    ------
    ValueError
        naming the option and what it needs
    """
    solvate = (settings.solvate, "goes with --solvate")
    without = "is of a force field, which --ml all does without"
    some_ml = (settings.ml != NONE, "is of an ML region, which --ml none does without")
    needs = {
        "padding": solvate,
        "ionic_strength": solvate,
        "pressure": (settings.ensemble == "npt", "goes with --ensemble npt"),
        "friction": (settings.ensemble != "nve", "is of a bath, which --ensemble nve does without"),
        "minimize_iterations": (settings.minimize, "does not go with --no-minimize"),
        "force_field": (settings.ml != ALL or settings.solvate, without),
        "cutoff": (settings.ml != ALL, without),
        "embedding": some_ml,
        "route": some_ml,
    }
    for name in sorted(given & needs.keys()):
        heeded, reason = needs[name]
        if not heeded:
            raise ValueError(f"--{name.replace('_', '-')} {reason}")


def simulate(
    ctx: typer.Context,
    structure: Annotated[
        list[Path] | None,
        typer.Argument(help="A PDB or mmCIF file, or a prmtop and an inpcrd/rst7 file.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run; must be empty or new.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Continue the run in this folder; --steps or --ps set its new total length."),
    ] = None,
    ml: Annotated[
        str | None,
        typer.Option(
            help="ML region: an mdtraj selection such as 'resname LIG', 'all', or 'none' (force field only)."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Name of a shipped model, or a model file. [default: peptide-gfn2-small]"),
    ] = None,
    force_field: Annotated[
        list[str], typer.Option("--force-field", "--ff", help="OpenMM force-field XML; repeat for several.")
    ] = list(DEFAULT_FORCE_FIELD),  # noqa: B006  # typer reads the default and never changes it
    embedding: Annotated[Embedding, typer.Option(help="Coupling of region and surroundings.")] = (
        Embedding.mechanical
    ),
    charge: Annotated[
        float | None,
        typer.Option(
            help="Total charge of the ML atoms, e. [default: 0, or by the force field for a region]"
        ),
    ] = None,
    ensemble: Annotated[Ensemble, typer.Option(help="Constant energy, temperature, or pressure too.")] = (
        Ensemble.nvt
    ),
    temperature: Annotated[float, typer.Option(help="K; of the first velocities, and of the bath.")] = 300.0,
    pressure: Annotated[float, typer.Option(help="bar, for NPT.")] = 1.0,
    friction: Annotated[float, typer.Option(help="1/ps, of the Langevin bath.")] = 1.0,
    timestep: Annotated[float, typer.Option(help="fs; bonds to hydrogen move freely in an ML region.")] = 0.5,
    steps: Annotated[int | None, typer.Option(help="Length of the run in steps.")] = None,
    ps: Annotated[float | None, typer.Option(help="Length of the run in picoseconds.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of velocities, bath and ions. [default: drawn, and written down]")
    ] = None,
    electric_field: Annotated[
        tuple[float, float, float] | None,
        typer.Option(metavar="X Y Z", help="V/nm, uniform and external. [default: none]", show_default=False),
    ] = None,
    cutoff: Annotated[float, typer.Option(help="nm, of the force field's nonbonded terms.")] = 1.0,
    solvate: Annotated[bool, typer.Option("--solvate", help="Add water and neutralising ions.")] = False,
    padding: Annotated[float, typer.Option(help="nm of water around the solute, with --solvate.")] = 1.0,
    ionic_strength: Annotated[float, typer.Option(help="mol/L of NaCl, with --solvate.")] = 0.0,
    minimize: Annotated[bool, typer.Option(help="Minimise the energy before the run.")] = True,
    minimize_iterations: Annotated[int, typer.Option(help="At most this many iterations.")] = 200,
    platform: Annotated[str | None, typer.Option(help="OpenMM platform. [default: the fastest]")] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Of a GPU platform; double of the model, too.")
    ] = None,
    route: Annotated[Route, typer.Option(help="Way of the model into OpenMM.")] = Route.auto,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: all]")] = None,
    trajectory_format: Annotated[TrajectoryFormat, typer.Option("--format", help="Of the trajectory.")] = (
        TrajectoryFormat.dcd
    ),
    report_interval: Annotated[int, typer.Option(help="Steps between rows of energies.csv.")] = 100,
    frame_interval: Annotated[int, typer.Option(help="Steps between frames of the trajectory.")] = 1000,
    checkpoint_seconds: Annotated[
        float, typer.Option(help="Seconds of wall time between checkpoints.")
    ] = 60.0,
) -> None:
    """Run molecular dynamics with a latent-charge model for all atoms or for a region.

    The first Ctrl-C ends the run after the current step with a checkpoint; --resume goes on from it.
    """
    if resume is not None:
        others = sorted(given_options(ctx) - _RESUMABLE)
        if others:
            raise ValueError(
                f"a run resumes with the settings it has: --resume goes with --steps or --ps, not {others[0]}"
            )
        from openmm_les.cli.runner import resume_run

        raise typer.Exit(resume_run(resume, steps, ps))
    if not structure:
        raise ValueError("give the structure to simulate, or a run with --resume")
    if output is None:
        raise ValueError("give the folder of the run with --output")
    if ml is None:
        raise ValueError("give the ML region with --ml: an mdtraj selection, 'all' or 'none'")
    settings = Settings(
        structure=tuple(str(path.absolute()) for path in structure),
        ml=ml,
        model=str(Path(model).absolute()) if model is not None and Path(model).is_file() else model,
        steps=steps_of(steps, ps, timestep),
        seed=random.SystemRandom().randrange(1, 2**31) if seed is None else seed,
        force_field=tuple(force_field),
        embedding=embedding.value,
        charge=charge,
        ensemble=ensemble.value,
        temperature=temperature,
        pressure=pressure,
        friction=friction,
        timestep=timestep,
        electric_field=electric_field,
        cutoff=cutoff,
        solvate=solvate,
        padding=padding,
        ionic_strength=ionic_strength,
        minimize=minimize,
        minimize_iterations=minimize_iterations,
        platform=platform,
        precision=None if precision is None else precision.value,
        route=route.value,
        threads=threads,
        format=trajectory_format.value,
        report_interval=report_interval,
        frame_interval=frame_interval,
        checkpoint_seconds=checkpoint_seconds,
    )
    _check_heeded(given_options(ctx), settings)
    from openmm_les.cli.runner import start_run

    raise typer.Exit(start_run(settings, output))
