"""What an electric field does in a running system: its energy, and where it has none to speak of."""

from __future__ import annotations

import numpy as np
import openmm
from openmm import unit

from openmm_les.engine.field import FIELD_FORCE_NAME, FIELD_PARAMETERS, FIELD_TERM
from openmm_les.engine.force_reader import MLForceReader
from openmm_les.units import KJ_PER_MOL_PER_EV

# Force fields round charges to a few digits.
_NEUTRAL = 0.05


class FieldEnergy:
    """Energy ``-E · M`` of a system's charges in the field that its Context's parameters say.

    Parameters
    ----------
    system : made with an ``electric_field``
    reader : of its ML force; None where there is none
    """

    column = "electric-field energy (kJ/mol)"
    """What the energy is called in tables"""

    def __init__(self, system: openmm.System, reader: MLForceReader | None) -> None:
        self._reader = reader
        found = [force for force in system.getForces() if force.getName() == FIELD_FORCE_NAME]
        self._particles = np.zeros(0, dtype=np.int64)
        self._charges = self._fades = np.zeros(0)
        self._fading = ""
        if found:
            force = found[0]
            rows = [force.getParticleParameters(k) for k in range(force.getNumParticles())]
            self._particles = np.array([particle for particle, _ in rows], dtype=np.int64)
            self._charges = np.array([values[0] for _, values in rows])
            self._fades = np.zeros_like(self._charges)
            if force.getNumPerParticleParameters() == 2:
                self._fades = np.array([values[1] for _, values in rows])
                self._fading = force.getGlobalParameterName(len(FIELD_PARAMETERS))
        self.exists = bool(found) or (reader is not None and FIELD_TERM in reader.term_names)
        """Whether the system takes a field"""

    def energy(self, context: openmm.Context) -> float:
        """kJ/mol, of MM charges and of the model's at full strength, at a context's positions."""
        total = self.of_fixed_charges(context)
        if self._reader is not None:
            state = context.getState(positions=True)
            positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
            box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
            total += self._reader.energy_terms(positions, box, context.getParameters())[FIELD_TERM]
        return total

    def of_fixed_charges(self, context: openmm.Context) -> float:
        """kJ/mol, of MM charges, at a context's positions and parameters."""
        state = context.getState(positions=True)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)[self._particles]
        parameters = context.getParameters()
        charges = self._charges
        if self._fading:
            charges = charges * (1.0 - self._fades * parameters[self._fading])
        field = np.array([parameters[name] for name in FIELD_PARAMETERS])
        return -KJ_PER_MOL_PER_EV * float(charges @ positions @ field)

    def has_ions(self, context: openmm.Context) -> bool:
        """Whether any molecule has a net charge, so that the energy depends on its image."""
        if self._reader is not None and bool((self._reader.module.molecule_charges.abs() > _NEUTRAL).any()):
            return True
        charges = np.zeros(context.getSystem().getNumParticles())
        charges[self._particles] = self._charges
        return any(abs(charges[list(molecule)].sum()) > _NEUTRAL for molecule in context.getMolecules())


__all__ = ["FieldEnergy"]
