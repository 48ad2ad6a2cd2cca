"""Reporters for `openmm.app.Simulation`: charges, dipoles and energy terms of the ML atoms, in HDF5.

Files are H5MD (`openmm_les.records`): every report is on disk when it is made, and a continued
simulation continues the file. Between reports nothing is computed. At a report the charges cost a
pass through the model without forces; where a `PythonForce` was evaluated at the same positions
(another reporter asked for energies), its result is taken up instead.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import openmm
import torch
from openmm import app, unit
from torch import Tensor

from openmm_les.engine.field import FIELD_PARAMETERS, FIELD_TERM
from openmm_les.engine.force import RUNNING, PythonForceFunction
from openmm_les.engine.routes import import_torchforce
from openmm_les.exceptions import RouteError
from openmm_les.molecules import spanning_bonds
from openmm_les.records import Quantity, RecordWriter
from openmm_les.units import ANGSTROM_PER_NM, KJ_PER_MOL_PER_EV

_PICOSECONDS = unit.picosecond


class MLForceReader:
    """What the LES force of a system knows at some positions, by either route.

    Parameters
    ----------
    system : with one force made by this package

    Raises
    ------
    ValueError
        No such force, or several.
    """

    def __init__(self, system: openmm.System) -> None:
        found = [f for f in (_opened(force) for force in system.getForces()) if f is not None]
        if len(found) != 1:
            raise ValueError(
                f"a reporter needs a system with one LES force, this one has {len(found)} "
                "(made by create_system, create_mixed_system or openmm-ml; none inside a CustomCVForce)"
            )
        self.module, self.function, self._particles, self.periodic = found[0]
        self._device = next(self.module.buffers()).device
        of_module = self.module.atoms.cpu().numpy()
        self.atoms = of_module if self._particles is None else self._particles[of_module]
        """[n_ml], particle indices of the ML atoms"""
        self.numbers = self.module.numbers.cpu().numpy()
        """[n_ml], atomic numbers"""
        self.term_names = list(self.module.term_names)
        self.knows_domain = getattr(self.module.model, "domain", None) is not None
        """whether `novelty` says anything"""
        self.total_charge = float(self.module.molecule_charges.sum())
        """e"""

    def charges(
        self,
        positions: np.ndarray,
        box: np.ndarray | None,
        parameters: Mapping[str, float] | None = None,
    ) -> np.ndarray:
        """Physical charges, [n_ml] in e; arguments as in `moments`."""
        return self.moments(positions, box, parameters)[0]

    def moments(
        self,
        positions: np.ndarray,
        box: np.ndarray | None,
        parameters: Mapping[str, float] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Physical charges, [n_ml] in e, and dipoles of atoms, [n_ml, 3] in e·Å.

        Parameters
        ----------
        positions : [n_particles, 3], nm
        box : [3, 3], nm
        parameters : of the Context; needed where the force takes an electric field
        """
        arguments = self._arguments(positions, box, parameters)
        known = self._known(arguments)
        if known is not None:
            charges, dipoles = known.latest_charges, known.latest_dipoles
        else:
            with torch.jit.optimized_execution(False):
                charges, dipoles = self.module.moments(*arguments)
        return charges.double().cpu().numpy(), dipoles.double().cpu().numpy()

    def novelty(self, positions: np.ndarray, box: np.ndarray | None) -> np.ndarray:
        """Distance of the ML atoms from the training data, [n_ml]; see `LESModel.novelty`."""
        with torch.jit.optimized_execution(False):
            novelty = self.module.novelty(*self._places(positions, box))
        return novelty.double().cpu().numpy()

    def energy_terms(
        self,
        positions: np.ndarray,
        box: np.ndarray | None,
        parameters: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """Terms of the ML energy at full strength by name, kJ/mol; arguments as in `charges`."""
        arguments = self._arguments(positions, box, parameters)
        known = self._known(arguments)
        if known is not None:
            terms = known.latest_terms * KJ_PER_MOL_PER_EV
        else:
            with torch.jit.optimized_execution(False):
                terms = self.module.energy_terms(*arguments)
        return dict(zip(self.term_names, terms.double().cpu().tolist()))

    def closest_bare(self, positions: np.ndarray, box: np.ndarray | None) -> float:
        """Least distance (nm) of an MM charge without Lennard-Jones; for electrostatic embedding only."""
        return float(self.module.closest_bare(*self._places(positions, box)))

    def _arguments(
        self, positions: np.ndarray, box: np.ndarray | None, parameters: Mapping[str, float] | None
    ) -> list[Tensor | None]:
        arguments = self._places(positions, box)
        if FIELD_TERM in self.term_names:
            if parameters is None:
                raise ValueError("the force takes an electric field: give `parameters`, those of the Context")
            values = [parameters[name] for name in FIELD_PARAMETERS]
            arguments.append(torch.tensor(values, dtype=torch.float64, device=self._device))
        return arguments

    def _places(self, positions: np.ndarray, box: np.ndarray | None) -> list[Tensor | None]:
        seen = positions if self._particles is None else positions[self._particles]
        cell = None
        if self.periodic and box is not None:
            cell = torch.tensor(box, dtype=torch.float64, device=self._device)
        return [torch.tensor(seen, dtype=torch.float64, device=self._device), cell]

    def _known(self, arguments: list[Tensor | None]) -> Any:
        """The running module, if it was last evaluated at these very positions."""
        if self.function is None:
            return None
        running = RUNNING.get(self.function.key)
        if running is None or running.evaluated is None:
            return None
        same = all(
            given is seen or (given is not None and seen is not None and torch.equal(given, seen.to(given)))
            for given, seen in zip(arguments, running.evaluated)
        )
        module = running.module()
        return module if same and module.latest_charges.numel() == len(self.atoms) else None


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
                {"indices": self._reader.atoms, "atomic_numbers": self._reader.numbers},
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
    their centre of mass where they carry a net charge. OpenMM's positions are not wrapped, so that
    the dipole stays on the branch on which it starts, ions included; molecules are made whole by the
    topology's bonds. `openmm_les.analysis.dipoles.DipoleSeries` reads the file.

    Parameters
    ----------
    file, interval, append : as `LatentChargeReporter`; infrared spectra to 4000 cm⁻¹ want an interval
        of 4 fs or less
    """

    _images: np.ndarray | None = None
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
            if self._images is None:
                self._images = _images(reader, simulation, places, cell)
            places = places + self._images @ cell
        if self._weights is None:
            masses = np.array([_mass(simulation.system, int(i)) for i in reader.atoms])
            self._weights = masses / masses.sum()
        row = {"observables/dipole": charges @ (places - self._weights @ places) + dipoles.sum(0)}
        if reader.periodic:
            row["observables/volume"] = abs(np.linalg.det(cell))
        return row


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


def _opened(force: openmm.Force) -> tuple[Any, PythonForceFunction | None, np.ndarray | None, bool] | None:
    """Module, function (route "python"), particles that the module sees (None = all), periodic."""
    if isinstance(force, openmm.PythonForce):
        function = _unpickled(force)
        if not isinstance(function, PythonForceFunction):
            return None
        chosen = list(force.getParticles()) if hasattr(force, "getParticles") else []
        return function.module(), function, np.array(chosen) if chosen else None, function.periodic
    try:
        openmmtorch = import_torchforce()
    except RouteError:
        return None
    if not openmmtorch.TorchForce.isinstance(force):
        return None
    torch_force = openmmtorch.TorchForce.cast(force)
    module = torch_force.getModule()
    if not hasattr(module, "term_names"):
        return None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return module.to(device), None, None, torch_force.usesPeriodicBoundaryConditions()


def _unpickled(force: openmm.Force) -> Any:
    """A copy of the function of a PythonForce, which OpenMM hands to Python in its XML only."""
    text = ElementTree.fromstring(openmm.XmlSerializer.serialize(force)).attrib["function"]
    return pickle.loads(bytes.fromhex(text))


def _images(
    reader: MLForceReader, simulation: app.Simulation, places: np.ndarray, cell: np.ndarray
) -> np.ndarray:
    """Whole cell vectors that make molecules whole, [n_ml, 3]; constant while nothing is wrapped."""
    place = {int(atom): k for k, atom in enumerate(reader.atoms)}
    bonds = [(place.get(b[0].index), place.get(b[1].index)) for b in simulation.topology.bonds()]
    inside = np.array([b for b in bonds if None not in b], dtype=np.int64).reshape(-1, 2)
    images = np.zeros((len(places), 3))
    inverse = np.linalg.inv(cell)
    for known, new in spanning_bonds(inside, len(places)):
        steps = (places[new] - places[known]) @ inverse
        images[new] = images[known] - np.round(steps)
    return images


def _parameters(simulation: app.Simulation) -> dict[str, float]:
    return dict(simulation.context.getParameters())


def _mass(system: openmm.System, particle: int) -> float:
    return system.getParticleMass(particle).value_in_unit(unit.dalton)


__all__ = [
    "DipoleReporter",
    "EnergyTermReporter",
    "LatentChargeReporter",
    "MLForceReader",
    "NoveltyReporter",
]
