"""``openmm-les analyze``: what the charges do along a trajectory, as data and pictures."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from openmm_les.cli.analyze_inputs import (
    Charge,
    Epsilon,
    Model,
    Output,
    Select,
    Skip,
    Spacing,
    Stop,
    Stride,
    Temperature,
    Top,
    Trajectory,
    bind_model,
    holds_dipoles,
    open_trajectory,
    print_table,
    read_dipoles,
    results_folder,
)
from openmm_les.cli.analyze_ir import ir

app = typer.Typer(no_args_is_help=True, help="Charges, dipoles, spectra and more along a trajectory.")


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
    frame_spacing: Spacing = None,
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
    from openmm_les.cli.console import note

    source = open_trajectory(trajectory, top, select, stride, skip, stop, frame_spacing)
    bound = bind_model(model, source, charge, epsilon_infinity)
    with results_folder(output, "charges") as folder:
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
                note(f"no molecule.html: {error}")
        rows = [
            (e, f"{m:+.3f}", f"{result.element_deviation[e]:.3f}") for e, m in result.element_mean.items()
        ]
        print_table(f"charges of {len(source)} frames, e", ("element", "mean", "std"), rows)


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
    import numpy as np

    from openmm_les.analysis.dipoles import compute_dipoles, residue_of_molecule
    from openmm_les.analysis.plots import plot_dipoles
    from openmm_les.analysis.statistics import RunningMoments
    from openmm_les.analysis.tables import write_csv
    from openmm_les.units import E_ANGSTROM_PER_DEBYE

    source = open_trajectory(trajectory, top, select, stride, skip, stop, frame_spacing)
    bound = bind_model(model, source, charge, epsilon_infinity)
    with results_folder(output, "dipole") as folder:
        kinds = np.array(residue_of_molecule(source, bound.molecules))
        moments = {str(k): RunningMoments() for k in np.unique(kinds)}
        samples: dict[str, list[Any]] = {kind: [] for kind in moments}

        def keep(frames: Any, found: Any) -> None:
            lengths = np.linalg.norm(found, axis=2)
            step = max(1, len(source) // 200)
            for kind in moments:
                of_kind = lengths[:, kinds == kind]
                moments[kind].add(of_kind.reshape(-1, 1))
                samples[kind].append(of_kind[(-frames.first) % step :: step].ravel())

        series = compute_dipoles(source, bound, molecules_to=folder / "molecule_dipoles.h5", each=keep)
        series.save(folder / "dipole.h5")
        by_kind = {kind: np.concatenate(parts) for kind, parts in samples.items()}
        plot_dipoles(series, by_kind, folder / "dipole.png", f"dipoles, {trajectory.name}")
        rows = []
        for kind, found in moments.items():
            mean, deviation = (x[0] / E_ANGSTROM_PER_DEBYE for x in (found.mean, found.deviation))
            rows.append((kind, str(int((kinds == kind).sum())), f"{mean:.3f}", f"{deviation:.3f}"))
        header = ("molecule", "number", "mean dipole (D)", "standard deviation (D)")
        write_csv(folder / "dipole_by_molecule.csv", header, rows)
        print_table(f"dipoles of molecules, {len(source)} frames", header, rows)


app.command()(ir)


@app.command()
def dielectric(
    ctx: typer.Context,
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
    from openmm_les.analysis.dielectric import check_fluctuations, dielectric_constant
    from openmm_les.analysis.plots import plot_dielectric
    from openmm_les.analysis.tables import write_csv
    from openmm_les.cli.console import say

    with results_folder(output, "dielectric") as folder:
        if holds_dipoles(trajectory):
            series = read_dipoles(ctx, trajectory, stride, skip, stop)
        else:
            from openmm_les.analysis.dipoles import compute_dipoles

            source = open_trajectory(
                trajectory, top, select, stride, skip, stop, frame_spacing, periodic=True
            )
            bound = bind_model(model, source, 0.0, epsilon_infinity)
            check_fluctuations(
                len(source), temperature, blocks, ions=bound.ions, times_known=not source.timeless
            )
            series = compute_dipoles(source, bound)
            series.save(folder / "dipole.h5")
        result = dielectric_constant(series, temperature, discard=discard, n_blocks=blocks)
        running = zip(result.running_times, result.running_values)
        write_csv(folder / "dielectric.csv", ["time (ps)", "dielectric constant so far"], running)
        plot_dielectric(result, folder / "dielectric.png", f"dielectric constant, {trajectory.name}")
        say(
            f"dielectric constant {result.value:.2f} ± {result.error:.2f} at {temperature:g} K "
            f"(epsilon_infinity {result.epsilon_infinity:g}, {len(series)} frames, {blocks} blocks)"
        )


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
    frame_spacing: Spacing = None,
    charge: Charge = 0.0,
    epsilon_infinity: Epsilon = 1.0,
) -> None:
    """Born effective charges of every frame, the charges' response included."""
    from openmm_les.analysis.born import compute_born_charges
    from openmm_les.analysis.plots import plot_born
    from openmm_les.analysis.tables import write_csv
    from openmm_les.cli.console import say

    source = open_trajectory(trajectory, top, select, stride, skip, stop, frame_spacing)
    bound = bind_model(model, source, charge, epsilon_infinity)
    with results_folder(output, "born") as folder:
        result = compute_born_charges(source, bound, output=folder / "born.h5")
        names = [f"Z_{a}{b} (e)" for a in "xyz" for b in "xyz"]
        header = ["index", "residue", "name", "element", "mean tr Z/3 (e)", *names]
        lines = []
        for atom, tensor in zip(source.topology.atoms, result.mean):
            numbers = [f"{x:.5f}" for x in (tensor.trace() / 3.0, *tensor.ravel())]
            lines.append([atom.index, str(atom.residue), atom.name, atom.element.symbol, *numbers])
        write_csv(folder / "born_by_atom.csv", header, lines)
        plot_born(
            result.isotropic,
            result.sum_rule_violation,
            folder / "born.png",
            f"Born charges, {trajectory.name}",
        )
        rows = [(e, f"{v.mean():+.3f}", f"{v.std():.3f}") for e, v in result.isotropic.items()]
        print_table(f"tr Z/3 of {len(source)} frames, e", ("element", "mean", "std"), rows)
        say(f"acoustic sum rule: |sum of Z - Q| is at most {result.sum_rule_violation:.1e} e")


@app.command()
def polarizability(
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
) -> None:
    """Polarizability of all atoms together in every frame, without their periodic images."""
    from openmm_les.analysis.plots import plot_polarizability
    from openmm_les.analysis.polarizability import compute_polarizabilities
    from openmm_les.analysis.tables import write_csv

    source = open_trajectory(trajectory, top, select, stride, skip, stop, frame_spacing)
    bound = bind_model(model, source, charge, 1.0)
    with results_folder(output, "polarizability") as folder:
        series = compute_polarizabilities(source, bound)
        series.save(folder / "polarizability.h5")
        names = [f"alpha_{a}{b} (Å³)" for a in "xyz" for b in "xyz"]
        header = ["time (ps)", "isotropic (Å³)", "anisotropy (Å³)", *names]
        lines = []
        for time, *values, tensor in zip(series.times, series.isotropic, series.anisotropy, series.tensors):
            lines.append([f"{time:g}", *(f"{x:.5f}" for x in (*values, *tensor.ravel()))])
        write_csv(folder / "polarizability.csv", header, lines)
        plot_polarizability(series, folder / "polarizability.png", f"polarizability, {trajectory.name}")
        parts = (("isotropic", series.isotropic), ("anisotropy", series.anisotropy))
        rows = [(name, f"{v.mean():.3f}", f"{v.std():.3f}") for name, v in parts]
        print_table(f"polarizability of {len(source)} frames, Å³", ("part", "mean", "std"), rows)


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
    from openmm_les.cli.console import say

    source = open_trajectory(trajectory, top, "all", stride, skip, stop, periodic=True)
    with results_folder(output, "rdf") as folder:
        result = radial_distribution(source, first, second, max_distance=max_distance, bin_width=bin_width)
        result.save(folder / "rdf.csv")
        plot_radial(result, folder / "rdf.png", f"g(r), {trajectory.name}, {len(source)} frames")
        peak = int(result.values.argmax())
        say(f"highest g(r) {result.values[peak]:.2f} at {result.distances[peak]:.2f} Å")


__all__ = ["app"]
