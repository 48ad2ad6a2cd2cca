"""Reporters for `openmm.app.Simulation`: charges, dipoles and energy terms of the ML atoms, in HDF5.

Files are H5MD (`openmm_les.records`): every report is on disk when it is made, and a continued
simulation continues the file. Between reports nothing is computed. At a report the charges cost a
pass through the model without forces; where a `PythonForce` was evaluated at the same positions
(another reporter asked for energies), its result is taken up instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from openmm_les.engine.force_reader import MLForceReader
from openmm_les.molecules import connected_molecules, spanning_bonds, whole_images
from openmm_les.records import Quantity, RecordWriter
from openmm_les.units import ANGSTROM_PER_NM

_PICOSECONDS = unit.picosecond
_BAROSTATS = (
    openmm.MonteCarloBarostat,
    openmm.MonteCarloAnisotropicBarostat,
    openmm.MonteCarloFlexibleBarostat,
    openmm.MonteCarloMembraneBarostat,
)


class _Reporter:
    """Writes quantities of the ML atoms every ``interval`` steps; see the subclasses."""

    _include: tuple[str, ...] = ("positions",)

    def __init__(self, file: str | Path, interval: int, *, append: bool = False) -> None:
        if interval < 1:
            raise ValueError(f"`interval` must be at least 1, got {interval}")
        self.path = Path(file)
        if append and not self.path.is_file():
            raise FileNotFoundError(f"no such file to continue: {self.path}")
        self.interval = interval
        self._append = append
        self._writer: RecordWriter | None = None
        self._reader: MLForceReader | None = None

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """When OpenMM is to call `report`, and with what."""
        steps = self.interval - simulation.currentStep % self.interval
        return {"steps": steps, "periodic": False, "include": list(self._include)}

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Write one row."""
        if self._reader is None:
            self._reader = MLForceReader(simulation.system)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
        values = self._row(self._reader, simulation, state, positions, box)
        step = int(simulation.currentStep)
        if self._writer is None:
            self._writer = RecordWriter(
                self.path,
                self._quantities(self._reader),
                {
                    "indices": self._reader.atoms,
                    "atomic_numbers": self._reader.numbers,
                    "ions": self._reader.ions,
                },
                # What an earlier run wrote at this step or later is written anew.
                keep_until=step - 1 if self._append else None,
            )
        time = state.getTime().value_in_unit(_PICOSECONDS)
        rows = {name: np.asarray(value)[None] for name, value in values.items()}
        self._writer.append(np.array([step]), np.array([time]), rows)

    def close(self) -> None:
        """Close the file; the next report would start it anew."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _quantities(self, reader: MLForceReader) -> list[Quantity]:
        raise NotImplementedError

    def _row(
        self,
        reader: MLForceReader,
        simulation: app.Simulation,
        state: openmm.State,
        positions: np.ndarray,
        box: np.ndarray,
    ) -> Mapping[str, Any]:
        raise NotImplementedError


class LatentChargeReporter(_Reporter):
    """Physical charges of the ML atoms: ``particles/ml/charge``, e.

    Parameters
    ----------
    file : H5MD file to write
    interval : steps between reports
    append : continue an existing file at the simulation's step
    positions : write ``particles/ml/position`` (nm) beside them, for readers of H5MD

    Raises
    ------
    ValueError
        An interval below 1; at the first report, a system without an LES force.
    FileNotFoundError
        ``append`` without a file.
    """

    def __init__(
        self, file: str | Path, interval: int, *, append: bool = False, positions: bool = False
    ) -> None:
        super().__init__(file, interval, append=append)
        self._with_positions = positions

    def _quantities(self, reader: MLForceReader) -> list[Quantity]:
        n = len(reader.atoms)
        quantities = [Quantity("particles/ml/charge", (n,), "e", "f4")]
        if self._with_positions:
            quantities.append(Quantity("particles/ml/position", (n, 3), "nm", "f4"))
            if reader.periodic:
                quantities.append(Quantity("particles/ml/box/edges", (3, 3), "nm", "f4"))
        return quantities

    def _row(self, reader, simulation, state, positions, box):
        row = {"particles/ml/charge": reader.charges(positions, box, _parameters(simulation))}
        if self._with_positions:
            row["particles/ml/position"] = positions[reader.atoms]
            if reader.periodic:
                row["particles/ml/box/edges"] = box
        return row


class NoveltyReporter(_Reporter):
    """How far the ML atoms lie from the training data of their model: ``particles/ml/novelty``.

    1 where one in ten thousand training atoms went, `openmm_les.models.domain.NOVEL` and more where the
    model is on its own; NaN for a model that does not know its training data.

    Parameters
    ----------
    file, interval, append : as `LatentChargeReporter`
    """

    def _quantities(self, reader: MLForceReader) -> list[Quantity]:
        return [Quantity("particles/ml/novelty", (len(reader.atoms),), "", "f4")]

    def _row(self, reader, simulation, state, positions, box):
        return {"particles/ml/novelty": reader.novelty(positions, box)}


class DipoleReporter(_Reporter):
    """Dipole of the ML atoms: ``observables/dipole``, e·Å, and ``observables/volume``, Å³.

    Of their charges and, where the model has them, latent dipoles, induced ones included. About
    their centre of mass where they carry a net charge. Molecules are made whole by the topology's bonds, and
    the dipole stays on the branch on which it starts, ions included: OpenMM's positions are not wrapped.
    Barostats do put molecules back into the box: under one molecules are followed from report to report,
    between which none may move half a box. `openmm_les.analysis.dipoles.DipoleSeries` reads the file.

    Parameters
    ----------
    file, interval, append : as `LatentChargeReporter`; infrared spectra to 4000 cm⁻¹ want an interval
        of 4 fs or less
    """

    _images: np.ndarray | None = None
    _molecules: np.ndarray | None = None
    _fractions: np.ndarray | None = None
    _weights: np.ndarray | None = None

    def _quantities(self, reader: MLForceReader) -> list[Quantity]:
        quantities = [Quantity("observables/dipole", (3,), "e angstrom")]
        if reader.periodic:
            quantities.append(Quantity("observables/volume", (), "angstrom+3"))
        return quantities

    def _row(self, reader, simulation, state, positions, box):
        charges, dipoles = reader.moments(positions, box, _parameters(simulation))
        places = positions[reader.atoms] * ANGSTROM_PER_NM
        cell = box * ANGSTROM_PER_NM
        if reader.periodic:
            places = self._followed(places, cell, reader, simulation)
        if self._weights is None:
            masses = np.array([_mass(simulation.system, int(i)) for i in reader.atoms])
            self._weights = masses / masses.sum()
        row = {"observables/dipole": charges @ (places - self._weights @ places) + dipoles.sum(0)}
        if reader.periodic:
            row["observables/volume"] = abs(np.linalg.det(cell))
        return row

    def _followed(
        self, places: np.ndarray, cell: np.ndarray, reader: MLForceReader, simulation: app.Simulation
    ) -> np.ndarray:
        """Molecules whole, and where they have moved to from the report before, [n_ml, 3]."""
        fractions = places @ np.linalg.inv(cell)
        if self._images is None:
            place = {int(atom): k for k, atom in enumerate(reader.atoms)}
            bonds = [(place.get(b[0].index), place.get(b[1].index)) for b in simulation.topology.bonds()]
            inside = np.array([b for b in bonds if None not in b], dtype=np.int64).reshape(-1, 2)
            self._images = whole_images(spanning_bonds(inside, len(places)), places, cell)
            if any(isinstance(force, _BAROSTATS) for force in simulation.system.getForces()):
                self._molecules = connected_molecules(inside, len(places))
        elif self._molecules is not None:
            firsts = np.unique(self._molecules, return_index=True)[1]
            moved = (fractions + self._images - self._fractions)[firsts]
            self._images = self._images - np.round(moved)[self._molecules]
        self._fractions = fractions + self._images
        return places + self._images @ cell


class EnergyTermReporter(_Reporter):
    """Terms of the ML energy beside the total, kJ/mol.

    ``observables/energy_short_range`` and ``…_long_range`` of the model, what further terms the force
    has (those between ML and MM charges), ``observables/potential_energy`` of the whole system.
    Terms are at full strength, whatever ``lambda_interpolate`` is; in an electric field as it is.

    Parameters
    ----------
    file, interval, append : as `LatentChargeReporter`
    """

    _include = ("positions", "energy")

    def _quantities(self, reader: MLForceReader) -> list[Quantity]:
        names = [f"observables/energy_{name}" for name in reader.term_names]
        return [Quantity(name, (), "kJ mol-1") for name in (*names, "observables/potential_energy")]

    def _row(self, reader, simulation, state, positions, box):
        terms = reader.energy_terms(positions, box, _parameters(simulation))
        row = {f"observables/energy_{name}": value for name, value in terms.items()}
        total = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        return {**row, "observables/potential_energy": total}


def _parameters(simulation: app.Simulation) -> dict[str, float]:
    return dict(simulation.context.getParameters())


def _mass(system: openmm.System, particle: int) -> float:
    return system.getParticleMass(particle).value_in_unit(unit.dalton)


__all__ = [
    "DipoleReporter",
    "EnergyTermReporter",
    "LatentChargeReporter",
    "NoveltyReporter",
]
