"""What an electric field does in a running system: its energy, and where it has none to speak of."""

from __future__ import annotations

import numpy as np
import openmm
from openmm import unit

from openmm_les.engine.field import FIELD_FORCE_NAME, FIELD_TERM, fixed_charge_energy
from openmm_les.engine.reporters import MLForceReader

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
        self._fixed = found[0] if found else None

    @property
    def exists(self) -> bool:
        """Whether the system takes a field."""
        return self._fixed is not None or (self._reader is not None and FIELD_TERM in self._reader.term_names)

    def energy(self, context: openmm.Context) -> float:
        """kJ/mol, of MM charges and of the model's at full strength, at a context's positions."""
        total = 0.0 if self._fixed is None else fixed_charge_energy(self._fixed, context)
        if self._reader is not None:
            state = context.getState(positions=True)
            positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
            box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
            total += self._reader.energy_terms(positions, box, context.getParameters())[FIELD_TERM]
        return total

    def has_ions(self, context: openmm.Context) -> bool:
        """Whether any molecule has a net charge, so that the energy depends on its image."""
        if self._reader is not None and bool((self._reader.module.molecule_charges.abs() > _NEUTRAL).any()):
            return True
        charges = np.zeros(context.getSystem().getNumParticles())
        if self._fixed is not None:
            for k in range(self._fixed.getNumParticles()):
                particle, values = self._fixed.getParticleParameters(k)
                charges[particle] = values[0]
        return any(abs(charges[list(molecule)].sum()) > _NEUTRAL for molecule in context.getMolecules())


__all__ = ["FieldEnergy"]
