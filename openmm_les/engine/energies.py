"""The table of energies of a run, one CSV row for each report."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import openmm
from openmm import unit

_MOLAR_GAS_CONSTANT = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)

_FORMATS = {
    "step": "d",
    "time (ps)": ".6f",
    "potential energy (kJ/mol)": ".6f",
    "kinetic energy (kJ/mol)": ".6f",
    "total energy (kJ/mol)": ".6f",
    "temperature (K)": ".3f",
    "volume (nm^3)": ".6f",
    "density (g/mL)": ".6f",
    "speed (ns/day)": ".4g",
}
COLUMNS = tuple(_FORMATS)


@dataclass(frozen=True)
class EnergyRow:
    """One report; volume and density are None without a box, speed before the first step."""

    step: int
    time: float
    """ps"""
    potential_energy: float
    """kJ/mol"""
    kinetic_energy: float
    """kJ/mol"""
    total_energy: float
    """kJ/mol"""
    temperature: float
    """K"""
    volume: float | None
    """nm³"""
    density: float | None
    """g/mL"""
    speed: float | None
    """ns/day, since the previous report"""


def degrees_of_freedom(system: openmm.System) -> int:
    """Degrees of freedom that carry kinetic energy: massive particles less constraints and drift."""
    massive = [system.getParticleMass(i) > 0 * unit.dalton for i in range(system.getNumParticles())]
    degrees = 3 * sum(massive)
    for i in range(system.getNumConstraints()):
        first, second, _ = system.getConstraintParameters(i)
        degrees -= 1 if massive[first] or massive[second] else 0
    if any(isinstance(force, openmm.CMMotionRemover) for force in system.getForces()):
        degrees -= 3
    return degrees


class EnergyMeter:
    """Turns OpenMM states into rows of the table."""

    def __init__(self, system: openmm.System) -> None:
        self._degrees = degrees_of_freedom(system)
        masses = [
            system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(system.getNumParticles())
        ]
        self._mass = sum(masses) * unit.dalton
        self._periodic = system.usesPeriodicBoundaryConditions()

    def row(self, step: int, state: openmm.State, speed: float | None) -> EnergyRow:
        """Row of a state that was asked for its energies."""
        potential = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        kinetic = state.getKineticEnergy().value_in_unit(unit.kilojoule_per_mole)
        volume = density = None
        if self._periodic:
            box = state.getPeriodicBoxVolume()
            volume = box.value_in_unit(unit.nanometer**3)
            density = (self._mass / box).value_in_unit(unit.gram / unit.item / unit.milliliter)
        return EnergyRow(
            step=step,
            time=state.getTime().value_in_unit(unit.picosecond),
            potential_energy=potential,
            kinetic_energy=kinetic,
            total_energy=potential + kinetic,
            temperature=2 * kinetic / (self._degrees * _MOLAR_GAS_CONSTANT) if self._degrees else math.nan,
            volume=volume,
            density=density,
            speed=speed,
        )


class EnergyTable:
    """Appends rows to a CSV file, each of them on disk when `write` returns.

    Parameters
    ----------
    keep_until : keep the rows of an existing file up to this step and append; None starts anew
    further : names of further columns
    """

    def __init__(self, path: Path, *, keep_until: int | None = None, further: Sequence[str] = ()) -> None:
        if keep_until is not None:
            truncate_rows(path, keep_until, further)
        self._file = open(path, "w" if keep_until is None else "a", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        if keep_until is None:
            self._writer.writerow([*COLUMNS, *further])
            self._file.flush()

    def write(self, row: EnergyRow, further: Sequence[float] = ()) -> None:
        """Append one row, with the values of the further columns."""
        pairs = zip(astuple(row), _FORMATS.values(), strict=True)
        cells = ["" if value is None else format(value, spec) for value, spec in pairs]
        self._writer.writerow([*cells, *(f"{value:.6f}" for value in further)])
        self._file.flush()

    def close(self) -> None:
        """Close the file; nothing can be written afterwards."""
        self._file.close()


def truncate_rows(path: Path, last_step: int, further: Sequence[str] = ()) -> None:
    """Cut the table, with these further columns, after the last report at or before ``last_step``.

    Raises
    ------
    ValueError
        for a file without the table's header
    """
    with open(path, "rb") as file:
        end = len(file.readline())
        file.seek(0)
        if file.readline().decode().strip() != ",".join([*COLUMNS, *further]):
            raise ValueError(f"{path} is not a table of energies of this version")
        for line in file:
            step = line.split(b",", 1)[0]
            if not line.endswith(b"\n") or not step.isdigit() or int(step) > last_step:
                break
            end += len(line)
    os.truncate(path, end)
