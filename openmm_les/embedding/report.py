"""Where the energy of a mixed system lies: force field, model, and what acts between them."""

from __future__ import annotations

import csv
import math
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import openmm
from openmm import app, unit

from openmm_les.embedding.electrostatic import has_other_cores, nonbonded_force, nonbonded_parameters
from openmm_les.engine.boundary import LAMBDA_INTERPOLATE
from openmm_les.engine.embedded import LAMBDA_ELECTROSTATICS
from openmm_les.engine.field import FIELD_TERM
from openmm_les.engine.field_energy import FieldEnergy
from openmm_les.engine.force_reader import MLForceReader

COLUMNS = (
    "MM energy (kJ/mol)",
    "ML short-range energy (kJ/mol)",
    "ML latent-charge energy (kJ/mol)",
    "ML-MM electrostatics (kJ/mol)",
    "ML-MM Lennard-Jones (kJ/mol)",
    "closest bare MM charge (nm)",
)
"""What the fields of `MixedTerms` are called in tables."""


@dataclass(frozen=True)
class MixedTerms:
    """Terms of the potential energy of an electrostatically embedded region."""

    mm: float
    """kJ/mol, everything else: the force field among MM atoms, bonded terms, tail correction; not what an
    electric field adds. NaN where charges respond and ``lambda_electrostatics`` is not 1: the model's terms
    are those of its full strength"""
    short_range: float
    """kJ/mol, of the model, reference energies of the elements included"""
    latent: float
    """kJ/mol, of the latent charges among themselves and their images"""
    electrostatics: float
    """kJ/mol, between physical charges and MM charges"""
    lennard_jones: float
    """kJ/mol, between ML and MM atoms, without tail correction; NaN, and in ``mm``, where the force field has
    a CustomNonbondedForce (CHARMM36), which may hold such terms"""
    closest: float
    """nm, least distance from an ML atom to an MM charge without Lennard-Jones; inf beyond 0.5 nm; NaN as
    before, where it is not known which charges those are"""
    electric_field: float = 0.0
    """kJ/mol, of the model's and the MM charges in an external field, where there is one"""


class MixedEnergies:
    """Splits the potential energy of a system of `create_mixed_system` (electrostatic) into terms.

    Model terms are at full strength, whatever the Context's parameters are; ``mm`` is what they and
    Lennard-Jones leave of the energy as it is.

    Parameters
    ----------
    system : of `create_mixed_system` with electrostatic embedding

    Raises
    ------
    ValueError
        A system without such a force.
    """

    def __init__(self, system: openmm.System) -> None:
        self._reader = MLForceReader(system)
        if "ml_mm_electrostatics" not in self._reader.term_names:
            raise ValueError("the system is not embedded electrostatically: it has no such terms")
        self._field = FieldEnergy(system, self._reader)
        self.columns = (*COLUMNS, self._field.column) if self._field.exists else COLUMNS
        """What the values of `row` are called in tables"""
        self._other_cores = has_other_cores(system)
        self._border = openmm.Context(
            border_system(system, self._reader.atoms.tolist()),
            openmm.VerletIntegrator(0.001),
            openmm.Platform.getPlatformByName("CPU"),
        )

    def terms(self, context: openmm.Context) -> MixedTerms:
        """Terms at the context's positions, box and parameters."""
        state = context.getState(getPositions=True, getEnergy=True)
        positions = state.getPositions(asNumpy=True)
        vectors = state.getPeriodicBoxVectors(asNumpy=True)
        self._border.setPeriodicBoxVectors(*vectors)
        self._border.setPositions(positions)
        lennard_jones = _energy(self._border.getState(getEnergy=True))
        arguments = (positions.value_in_unit(unit.nanometer), vectors.value_in_unit(unit.nanometer))
        parameters = dict(context.getParameters())
        found = self._reader.energy_terms(*arguments, parameters)
        short, latent = found["short_range"], found["long_range"]
        coupling = found["ml_mm_electrostatics"]
        whole = parameters.get(LAMBDA_INTERPOLATE, 1.0)
        of_model = whole * (short + latent + parameters.get(LAMBDA_ELECTROSTATICS, 1.0) * coupling)
        in_field = of_field = 0.0
        if self._field.exists:
            of_model_in_field, of_others = found[FIELD_TERM], self._field.of_fixed_charges(context)
            in_field = of_model_in_field + of_others
            # Where the model fades, so does what the field does to its charges.
            of_field = whole * of_model_in_field + of_others
        rest = _energy(state) - of_model - of_field
        closest = self._reader.closest_bare(*arguments)
        if self._other_cores:
            lennard_jones = closest = math.nan
        else:
            rest -= lennard_jones
        if self._reader.module.model.responds and parameters.get(LAMBDA_ELECTROSTATICS, 1.0) != 1.0:
            rest = math.nan
        return MixedTerms(rest, short, latent, coupling, lennard_jones, closest, in_field)

    def row(self, context: openmm.Context) -> list[float]:
        """The same as values for `columns`."""
        return list(astuple(self.terms(context)))[: len(self.columns)]


class MixedEnergyReporter:
    """Reporter of `openmm.app.Simulation`: a CSV row of `MixedTerms` every ``interval`` steps.

    Parameters
    ----------
    file : CSV to write, anew
    interval : steps between rows
    """

    def __init__(self, file: str | Path, interval: int) -> None:
        if interval < 1:
            raise ValueError(f"`interval` must be at least 1, got {interval}")
        self._interval = interval
        self._energies: MixedEnergies | None = None
        self._file = open(file, "w", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """When OpenMM is to call `report`, and with what."""
        steps = self._interval - simulation.currentStep % self._interval
        return {"steps": steps, "periodic": False, "include": []}

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Write one row; it is on disk when this returns."""
        if self._energies is None:
            self._energies = MixedEnergies(simulation.system)
            self._writer.writerow(["step", "time (ps)", *self._energies.columns])
        row = self._energies.row(simulation.context)
        time = state.getTime().value_in_unit(unit.picosecond)
        self._writer.writerow([simulation.currentStep, f"{time:.6f}", *(f"{x:.6f}" for x in row)])
        self._file.flush()

    def close(self) -> None:
        """Close the file; nothing can be written afterwards."""
        self._file.close()


def border_system(system: openmm.System, ml_atoms: list[int]) -> openmm.System:
    """System of the Lennard-Jones terms between ML and MM atoms alone, by a force field's rules.

    Parameters
    ----------
    system : with one NonbondedForce
    ml_atoms : particle indices
    """
    original = nonbonded_force(system)
    _, sigmas, epsilons = nonbonded_parameters(original)
    chosen = set(ml_atoms)
    others = [i for i in range(system.getNumParticles()) if i not in chosen and epsilons[i] != 0.0]
    border = openmm.System()
    border.setDefaultPeriodicBoxVectors(*system.getDefaultPeriodicBoxVectors())
    for _ in range(system.getNumParticles()):
        border.addParticle(1.0)
    lj = "4*epsilon*((sigma/r)^12-(sigma/r)^6)"
    pairs = openmm.CustomNonbondedForce(f"{lj}; sigma=0.5*(sigma1+sigma2); epsilon=sqrt(epsilon1*epsilon2)")
    pairs.addPerParticleParameter("sigma")
    pairs.addPerParticleParameter("epsilon")
    for row in zip(sigmas, epsilons):
        pairs.addParticle(row)
    pairs.addInteractionGroup(ml_atoms, others)
    exceptions = openmm.CustomBondForce(lj)
    exceptions.addPerBondParameter("sigma")
    exceptions.addPerBondParameter("epsilon")
    for k in range(original.getNumExceptions()):
        i, j, _, sigma, epsilon = original.getExceptionParameters(k)
        pairs.addExclusion(i, j)
        if (i in chosen) != (j in chosen):
            exceptions.addBond(i, j, [sigma, epsilon])
    if original.usesPeriodicBoundaryConditions():
        pairs.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffPeriodic)
        pairs.setCutoffDistance(original.getCutoffDistance())
        pairs.setUseSwitchingFunction(original.getUseSwitchingFunction())
        pairs.setSwitchingDistance(original.getSwitchingDistance())
        exceptions.setUsesPeriodicBoundaryConditions(True)
    border.addForce(pairs)
    border.addForce(exceptions)
    return border


def _energy(state: openmm.State) -> float:
    return float(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))


__all__ = ["COLUMNS", "MixedEnergies", "MixedEnergyReporter", "MixedTerms", "border_system"]
