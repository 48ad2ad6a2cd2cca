"""``openmm-les analyze ir``: infrared spectra."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

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
    read_dipoles,
    results_folder,
)

if TYPE_CHECKING:
    from openmm_les.analysis.trajectories import TrajectorySource


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


def ir(
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
    from openmm_les.analysis.tables import write_csv
    from openmm_les.cli.console import say

    with results_folder(output, "ir") as folder:
        options: dict[str, Any] = {"max_wavenumber": max_wavenumber}
        states = modes = None
        if holds_dipoles(trajectory):
            series = read_dipoles(ctx, trajectory, stride, skip, stop)
        else:
            source = open_trajectory(
                trajectory, top, select, stride, skip, stop, frame_spacing, velocities=current
            )
            bound = bind_model(model, source, charge, epsilon_infinity)
            from openmm_les.analysis.spectra import check_spectrum
            from openmm_les.units import FS_PER_PS

            n_rates = len(source) - (0 if current else 1)
            spacing = source.uniform_spacing() * FS_PER_PS
            check_spectrum(n_rates, spacing, temperature, resolution, max_wavenumber)
            if harmonic:
                modes = _normal_modes(source, model, charge, epsilon_infinity)
                lines = zip(modes.wavenumbers, modes.intensities)
                write_csv(folder / "harmonic.csv", ["wavenumber (cm^-1)", "intensity (km/mol)"], lines)
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
        if density and not holds_dipoles(trajectory):
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
        say(f"bands at {peaks} cm^-1 (resolution {spectrum.resolution:.1f} cm^-1)")


def _normal_modes(source: TrajectorySource, model: str | None, charge: float, epsilon_infinity: float) -> Any:
    from openmm_les.analysis.harmonic import harmonic_spectrum, relax

    bound = bind_model(model, source, charge, epsilon_infinity, "double")
    frames = next(iter(source))
    if frames.cells is not None:
        raise ValueError("--harmonic is for a molecule without a cell")
    return harmonic_spectrum(bound, relax(bound, frames.positions[0]))


__all__ = ["Correction", "Reference", "ir"]
