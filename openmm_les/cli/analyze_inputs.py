"""What the commands of ``openmm-les analyze`` share: their options, their inputs and where they write."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openmm_les.cli.given import given_options

if TYPE_CHECKING:
    from openmm_les.analysis.charges import ChargeModel
    from openmm_les.analysis.dipoles import DipoleSeries
    from openmm_les.analysis.trajectories import TrajectorySource

Trajectory = Annotated[
    Path, typer.Argument(help="DCD, XTC, mdtraj HDF5 …; for ir and dielectric also a file of dipoles.")
]
Top = Annotated[
    Path | None, typer.Option(help="Topology (PDB, prmtop …), for formats without one.", show_default=False)
]
Model = Annotated[
    str | None, typer.Option(help="Name of a shipped model, or a model file. [default: peptide-gfn2-small]")
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder to write to; empty or new. [default: analysis-KIND]"),
]
Select = Annotated[str, typer.Option(help="mdtraj selection of whole molecules that the model sees.")]
Stride = Annotated[int, typer.Option(help="Take every so many frames.")]
Skip = Annotated[int, typer.Option(help="Frames to leave out at the beginning.")]
Stop = Annotated[int | None, typer.Option(help="Read no frame from this one on.", show_default=False)]
Spacing = Annotated[
    float | None,
    typer.Option(help="ps between frames of the file, where it does not tell.", show_default=False),
]
Charge = Annotated[float, typer.Option(help="Total charge of the selected atoms, e.")]
Epsilon = Annotated[
    float,
    typer.Option(help="Electronic permittivity: charges are multiplied by its square root. 1: left alone."),
]
_OF_TRAJECTORIES = {
    "top", "model", "select", "frame_spacing", "charge", "epsilon_infinity", "harmonic", "current",
}  # fmt: skip
Temperature = Annotated[float, typer.Option(help="K, of the trajectory.")]


def open_trajectory(
    trajectory: Path,
    top: Path | None,
    select: str,
    stride: int,
    skip: int,
    stop: int | None,
    frame_spacing: float | None = None,
    *,
    periodic: bool | None = None,
    velocities: bool = False,
) -> TrajectorySource:
    """The selected atoms of the frames asked for, with a progress bar on a terminal."""
    from openmm_les.analysis.trajectories import TrajectorySource
    from openmm_les.cli.console import stderr

    return TrajectorySource(
        trajectory,
        top,
        select=select,
        stride=stride,
        skip=skip,
        stop=stop,
        frame_spacing=frame_spacing,
        periodic=periodic,
        velocities=velocities,
        progress=stderr.is_terminal,
    )


def bind_model(
    model: str | None,
    source: TrajectorySource,
    charge: float,
    epsilon_infinity: float,
    precision: str = "single",
) -> ChargeModel:
    """The model, the default one where none is named, for the atoms of a trajectory."""
    from openmm_les.analysis.charges import ChargeModel
    from openmm_les.models.checkpoint import DEFAULT_MODEL, load_model

    return ChargeModel.from_topology(
        load_model(model or DEFAULT_MODEL),
        source.topology,
        total_charge=charge,
        epsilon_infinity=epsilon_infinity,
        precision=precision,
    )


def holds_dipoles(path: Path) -> bool:
    """Whether a file is one of dipoles, of a reporter or of ``analyze dipole``."""
    from openmm_les.analysis.dipoles import DIPOLE
    from openmm_les.records import record_names

    return path.suffix in (".h5", ".hdf5") and path.is_file() and DIPOLE.name in record_names(path)


def read_dipoles(ctx: typer.Context, path: Path, stride: int, skip: int, stop: int | None) -> DipoleSeries:
    """Dipoles of a file, the frames asked for.

    Raises ValueError where there are none, or where an option is given that is for trajectories.
    """
    from openmm_les.analysis.dipoles import DipoleSeries

    others = sorted(given_options(ctx) & _OF_TRAJECTORIES)
    if others:
        raise ValueError(
            f"{path} holds dipoles, made already: --{others[0].replace('_', '-')} is for trajectories"
        )
    if stride < 1 or skip < 0:
        raise ValueError(f"`stride` must be at least 1 and `skip` at least 0, got {stride} and {skip}")
    series = DipoleSeries.load(path)
    kept = series[skip:stop:stride]
    if not len(kept):
        raise ValueError(f"{path} has {len(series)} frames: none is left from frame {skip} on")
    return kept


@contextlib.contextmanager
def results_folder(output: Path | None, kind: str) -> Iterator[Path]:
    """A folder to write to, which becomes ``output`` once the block has succeeded.

    Raises FileExistsError where that holds files already; a block that fails leaves nothing behind.
    """
    folder = Path(f"analysis-{kind}") if output is None else output
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} exists and is not a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: choose another --output")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        unfinished = Path(temporary) / folder.name
        unfinished.mkdir()
        yield unfinished
        if folder.is_dir():
            folder.rmdir()
        unfinished.replace(folder)
    from openmm_les.cli.console import say

    written = ", ".join(sorted(path.name for path in folder.iterdir()))
    say(f"written: {written} in {folder}")


def print_table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table on stdout, its numbers right-aligned."""
    from rich.markup import escape
    from rich.table import Table

    from openmm_les.cli.console import stdout

    table = Table(title=escape(title), title_justify="left")
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k == 0 else "right")
    for row in rows:
        table.add_row(*row)
    stdout.print(table)
