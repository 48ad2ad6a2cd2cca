"""``openmm-les analyze``: what the charges do along a trajectory, as data and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from openmm_les.analysis.charges import ChargeModel
    from openmm_les.analysis.dipoles import DipoleSeries
    from openmm_les.analysis.trajectories import TrajectorySource

app = typer.Typer(no_args_is_help=True, help="Charges, dipoles, spectra and more along a trajectory.")

Trajectory = Annotated[
    Path, typer.Argument(help="DCD, XTC, mdtraj HDF5 …; for ir and dielectric also a file of dipoles.")
]
Top = Annotated[
    Path | None, typer.Option(help="Topology (PDB, prmtop …), for formats without one.", show_default=False)
]
Model = Annotated[
    str | None, typer.Option(help="Name of a shipped model, or a model file. [default: the shipped one]")
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
Temperature = Annotated[float, typer.Option(help="K, of the trajectory.")]


class Correction(str, Enum):
    """Quantum corrections of infrared spectra."""

    harmonic = "harmonic"
    standard = "standard"
    schofield = "schofield"
    none = "none"


class Reference(str, Enum):
    """Bands to mark in a spectrum."""

    water = "water"
    peptide = "peptide"


@app.command()
def charges(
    trajectory: Trajectory,
    top: Top = None,
    model: Model = None,
    output: Output = None,
    select: Select = "all",
    stride: Stride = 1,
    skip: Skip = 0,
    stop: Stop = None,
    charge: Charge = 0.0,
    epsilon_infinity: Epsilon = 1.0,
    energies: Annotated[
        bool, typer.Option("--energies", help="Write the short- and long-range energy too.")
    ] = False,
) -> None:
    """Charges of every frame; means by atom, residue and element; the molecule coloured by them."""
    import numpy as np

    from openmm_les.analysis.plots import plot_charges
    from openmm_les.analysis.rendering import draw_charges, write_view
    from openmm_les.analysis.statistics import charge_statistics

    source = _source(trajectory, top, select, stride, skip, stop)
    bound = _bound(model, source, charge, epsilon_infinity)
    folder = _folder(output, "charges")
    samples: list[Any] = []
    first: list[Any] = []

    def keep(frames: Any, found: Any) -> None:
        if not first:
            first.append(frames.positions[0])
        step = max(1, len(source) // 200)
        samples.append(found[(-frames.first) % step :: step])

    result = charge_statistics(source, bound, output=folder / "charges.h5", energies=energies, each=keep)
    result.save(folder)
    plot_charges(result, np.concatenate(samples), folder / "charges.png", f"charges, {trajectory.name}")
    chosen = [a.index for a in source.topology.atoms if not a.residue.is_water]
    chosen = chosen or [a.index for a in source.topology.residue(0).atoms]
    if len(chosen) <= 2000:
        part = source.topology.subset(chosen)
        arguments = (part, first[0][chosen], result.atom_mean[chosen])
        draw_charges(*arguments, folder / "molecule.png", "mean charges")
        try:
            write_view(*arguments, folder / "molecule.html")
        except ImportError as error:
            _note(f"no molecule.html: {error}")
    rows = [(e, f"{m:+.3f}", f"{result.element_deviation[e]:.3f}") for e, m in result.element_mean.items()]
    _table(f"charges of {len(source)} frames, e", ("element", "mean", "std"), rows)
    _say_written(folder)


@app.command()
def dipole(
    trajectory: Trajectory,
    top: Top = None,
    model: Model = None,
    output: Output = None,
    select: Select = "all",
    stride: Stride = 1,
    skip: Skip = 0,
    stop: Stop = None,
    frame_spacing: Spacing = None,
    charge: Charge = 0.0,
    epsilon_infinity: Epsilon = 1.0,
) -> None:
    """Dipoles of all atoms and of each molecule in every frame."""
    import csv

    import numpy as np

    from openmm_les.analysis.dipoles import compute_dipoles, residue_of_molecule
    from openmm_les.analysis.plots import plot_dipoles
    from openmm_les.records import read_record
    from openmm_les.units import E_ANGSTROM_PER_DEBYE

    source = _source(trajectory, top, select, stride, skip, stop, frame_spacing)
    bound = _bound(model, source, charge, epsilon_infinity)
    folder = _folder(output, "dipole")
    series = compute_dipoles(source, bound, molecules_to=folder / "molecule_dipoles.h5")
    series.save(folder / "dipole.h5")
    record = read_record(folder / "molecule_dipoles.h5", "observables/molecule_dipole")
    lengths = np.linalg.norm(record.value, axis=2)
    kinds = np.array(residue_of_molecule(source, bound.molecules))
    by_kind = {str(k): lengths[:, kinds == k].ravel() for k in np.unique(kinds)}
    plot_dipoles(series, by_kind, folder / "dipole.png", f"dipoles, {trajectory.name}")
    rows = []
    for kind, values in by_kind.items():
        debye = values / E_ANGSTROM_PER_DEBYE
        rows.append((kind, str(int((kinds == kind).sum())), f"{debye.mean():.3f}", f"{debye.std():.3f}"))
    header = ("molecule", "number", "mean dipole (D)", "standard deviation (D)")
    with open(folder / "dipole_by_molecule.csv", "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    _table(f"dipoles of molecules, {len(source)} frames", header, rows)
    _say_written(folder)


@app.command()
def ir(
    trajectory: Trajectory,
    top: Top = None,
    model: Model = None,
    output: Output = None,
    select: Select = "all",
    stride: Stride = 1,
    skip: Skip = 0,
    stop: Stop = None,
    frame_spacing: Spacing = None,
    charge: Charge = 0.0,
    epsilon_infinity: Epsilon = 1.0,
    temperature: Temperature = 300.0,
    resolution: Annotated[
        float | None,
        typer.Option(
            help="cm^-1. [default: 10, or what a tenth of the trajectory allows]", show_default=False
        ),
    ] = None,
    max_wavenumber: Annotated[float, typer.Option(help="cm^-1")] = 4000.0,
    quantum_correction: Annotated[Correction, typer.Option(help="See the documentation.")] = (
        Correction.harmonic
    ),
    current: Annotated[
        bool,
        typer.Option("--current", help="From Born charges and velocities (mdtraj HDF5 with velocities)."),
    ] = False,
    density: Annotated[
        bool, typer.Option(help="Vibrational density of states beside it, where there are positions.")
    ] = True,
    harmonic: Annotated[
        bool, typer.Option("--harmonic", help="Normal modes of the first frame, relaxed; without a cell.")
    ] = False,
    reference: Annotated[Reference | None, typer.Option(help="Mark these bands.")] = None,
) -> None:
    """Infrared spectrum from the dipole's fluctuations; density of states and normal modes beside it."""
    from openmm_les.analysis.plots import plot_spectrum
    from openmm_les.analysis.spectra import density_of_states, infrared_spectrum

    options: dict[str, Any] = {"max_wavenumber": max_wavenumber}
    states = modes = None
    if _holds_dipoles(trajectory):
        if harmonic or current:
            raise ValueError(f"{trajectory} holds dipoles only: --harmonic and --current need a trajectory")
        series = _read_dipoles(trajectory, stride, skip, stop)
        folder = _folder(output, "ir")
    else:
        source = _source(trajectory, top, select, stride, skip, stop, frame_spacing, velocities=current)
        bound = _bound(model, source, charge, epsilon_infinity)
        from openmm_les.analysis.spectra import check_spacing
        from openmm_les.units import FS_PER_PS

        check_spacing(source.uniform_spacing() * FS_PER_PS, max_wavenumber)
        folder = _folder(output, "ir")
        if harmonic:
            modes = _normal_modes(source, model, charge, epsilon_infinity)
            _write_modes(modes, folder / "harmonic.csv")
        from openmm_les.analysis.dipoles import compute_dipoles

        series = compute_dipoles(source, bound, currents=current)
        series.save(folder / "dipole.h5")
    spectrum = infrared_spectrum(
        series,
        temperature,
        resolution=resolution,
        quantum_correction=quantum_correction.value,
        **options,
    )
    spectrum.save(folder / "ir.csv")
    if density and not _holds_dipoles(trajectory):
        states = density_of_states(
            source, bound.masses, bound.numbers, resolution=spectrum.resolution, **options
        )
        for name, each in states.items():
            each.save(folder / f"density_of_states_{name}.csv")
    plot_spectrum(
        spectrum,
        folder / "ir.png",
        f"infrared spectrum, {trajectory.name}, {temperature:g} K",
        states=None if states is None else states["all"],
        harmonic=modes,
        reference=None if reference is None else reference.value,
    )
    peaks = ", ".join(f"{p:.0f}" for p in spectrum.peaks())
    _say(f"bands at {peaks} cm^-1 (resolution {spectrum.resolution:.1f} cm^-1)")
    _say_written(folder)


@app.command()
def dielectric(
    trajectory: Trajectory,
    top: Top = None,
    model: Model = None,
    output: Output = None,
    select: Select = "all",
    stride: Stride = 1,
    skip: Skip = 0,
    stop: Stop = None,
    frame_spacing: Spacing = None,
    epsilon_infinity: Epsilon = 1.0,
    temperature: Temperature = 300.0,
    discard: Annotated[float, typer.Option(help="ps to leave out at the beginning.")] = 0.0,
    blocks: Annotated[int, typer.Option(help="For the error.")] = 5,
) -> None:
    """Static dielectric constant of a neutral fluid from the fluctuations of its dipole."""
    import csv

    from openmm_les.analysis.dielectric import dielectric_constant
    from openmm_les.analysis.plots import plot_dielectric

    if _holds_dipoles(trajectory):
        series = _read_dipoles(trajectory, stride, skip, stop)
        folder = _folder(output, "dielectric")
    else:
        from openmm_les.analysis.dipoles import compute_dipoles

        source = _source(trajectory, top, select, stride, skip, stop, frame_spacing, periodic=True)
        bound = _bound(model, source, 0.0, epsilon_infinity)
        folder = _folder(output, "dielectric")
        series = compute_dipoles(source, bound)
        series.save(folder / "dipole.h5")
    result = dielectric_constant(series, temperature, discard=discard, n_blocks=blocks)
    with open(folder / "dielectric.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time (ps)", "dielectric constant so far"])
        writer.writerows(zip(result.running_times, result.running_values))
    plot_dielectric(result, folder / "dielectric.png", f"dielectric constant, {trajectory.name}")
    _say(
        f"dielectric constant {result.value:.2f} ± {result.error:.2f} at {temperature:g} K "
        f"(epsilon_infinity {result.epsilon_infinity:g}, {len(series)} frames, {blocks} blocks)"
    )
    _say_written(folder)


@app.command()
def born(
    trajectory: Trajectory,
    top: Top = None,
    model: Model = None,
    output: Output = None,
    select: Select = "all",
    stride: Stride = 1,
    skip: Skip = 0,
    stop: Stop = None,
    charge: Charge = 0.0,
    epsilon_infinity: Epsilon = 1.0,
) -> None:
    """Born effective charges of every frame, the charges' response included."""
    import csv

    from openmm_les.analysis.born import compute_born_charges
    from openmm_les.analysis.plots import plot_born

    source = _source(trajectory, top, select, stride, skip, stop)
    bound = _bound(model, source, charge, epsilon_infinity)
    folder = _folder(output, "born")
    result = compute_born_charges(source, bound, output=folder / "born.h5")
    with open(folder / "born_by_atom.csv", "w", newline="") as file:
        writer = csv.writer(file)
        names = [f"Z_{a}{b} (e)" for a in "xyz" for b in "xyz"]
        writer.writerow(["index", "residue", "name", "element", "mean tr Z/3 (e)", *names])
        for atom, tensor in zip(source.topology.atoms, result.mean):
            row = [f"{x:.5f}" for x in (tensor.trace() / 3.0, *tensor.ravel())]
            writer.writerow([atom.index, str(atom.residue), atom.name, atom.element.symbol, *row])
    plot_born(
        result.isotropic, result.sum_rule_violation, folder / "born.png", f"Born charges, {trajectory.name}"
    )
    rows = [(e, f"{v.mean():+.3f}", f"{v.std():.3f}") for e, v in result.isotropic.items()]
    _table(f"tr Z/3 of {len(source)} frames, e", ("element", "mean", "std"), rows)
    _say(f"acoustic sum rule: |sum of Z - Q| is at most {result.sum_rule_violation:.1e} e")
    _say_written(folder)


@app.command()
def rdf(
    trajectory: Trajectory,
    top: Top = None,
    output: Output = None,
    first: Annotated[str, typer.Option(help="mdtraj selection.")] = "element O",
    second: Annotated[str, typer.Option(help="mdtraj selection.")] = "element O",
    stride: Stride = 1,
    skip: Skip = 0,
    stop: Stop = None,
    max_distance: Annotated[
        float | None, typer.Option(help="Å. [default: half the cell]", show_default=False)
    ] = None,
    bin_width: Annotated[float, typer.Option(help="Å")] = 0.05,
) -> None:
    """Radial distribution function between two selections, pairs within a molecule left out."""
    from openmm_les.analysis.plots import plot_radial
    from openmm_les.analysis.radial import radial_distribution

    source = _source(trajectory, top, "all", stride, skip, stop, periodic=True)
    folder = _folder(output, "rdf")
    result = radial_distribution(source, first, second, max_distance=max_distance, bin_width=bin_width)
    result.save(folder / "rdf.csv")
    plot_radial(result, folder / "rdf.png", f"g(r), {trajectory.name}, {len(source)} frames")
    peak = int(result.values.argmax())
    _say(f"highest g(r) {result.values[peak]:.2f} at {result.distances[peak]:.2f} Å")
    _say_written(folder)


def _source(
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


def _bound(
    model: str | None,
    source: TrajectorySource,
    charge: float,
    epsilon_infinity: float,
    precision: str = "single",
) -> ChargeModel:
    from openmm_les.analysis.charges import ChargeModel
    from openmm_les.models.checkpoint import list_models, load_model

    shipped = list_models()
    if model is None and not shipped:
        raise ValueError("no model is shipped with this installation: name one with --model")
    return ChargeModel.from_topology(
        load_model(model or shipped[0]),
        source.topology,
        total_charge=charge,
        epsilon_infinity=epsilon_infinity,
        precision=precision,
    )


def _normal_modes(source: TrajectorySource, model: str | None, charge: float, epsilon_infinity: float) -> Any:
    from openmm_les.analysis.harmonic import harmonic_spectrum, relax

    bound = _bound(model, source, charge, epsilon_infinity, "double")
    frames = next(iter(source))
    if frames.cells is not None:
        raise ValueError("--harmonic is for a molecule without a cell")
    return harmonic_spectrum(bound, relax(bound, frames.positions[0]))


def _write_modes(modes: Any, path: Path) -> None:
    import csv

    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["wavenumber (cm^-1)", "intensity (km/mol)"])
        writer.writerows(zip(modes.wavenumbers, modes.intensities))


def _holds_dipoles(path: Path) -> bool:
    """Whether a file is one of dipoles, of a reporter or of ``analyze dipole``."""
    from openmm_les.analysis.dipoles import DIPOLE
    from openmm_les.records import record_names

    return path.suffix in (".h5", ".hdf5") and path.is_file() and DIPOLE.name in record_names(path)


def _read_dipoles(path: Path, stride: int, skip: int, stop: int | None) -> DipoleSeries:
    from openmm_les.analysis.dipoles import DipoleSeries

    return DipoleSeries.load(path)[skip:stop:stride]


def _folder(output: Path | None, kind: str) -> Path:
    """The folder to write to, made; refused where it holds files."""
    folder = Path(f"analysis-{kind}") if output is None else output
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} exists and is not a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: choose another --output")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from openmm_les.cli.console import stdout

    table = Table(title=escape(title), title_justify="left")
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k == 0 else "right")
    for row in rows:
        table.add_row(*row)
    stdout.print(table)


def _say(text: str) -> None:
    from openmm_les.cli.console import say

    say(text)


def _note(text: str) -> None:
    from openmm_les.cli.console import note

    note(text)


def _say_written(folder: Path) -> None:
    _say(f"written: {', '.join(sorted(p.name for p in folder.iterdir()))} in {folder}")


__all__ = ["app"]
