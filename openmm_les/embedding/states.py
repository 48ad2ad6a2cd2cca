"""Energies of one frame at several values of Context parameters, for BAR, MBAR and finite differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import openmm
from openmm import unit


def energies_at(context: openmm.Context, states: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Potential energies of the current positions in several alchemical states.

    OpenMM's derivatives of the energy by a parameter know nothing of NonbondedForce, whose offsets
    carry half of what ``lambda_interpolate`` does; energies at several states know all of it.

    Parameters
    ----------
    context : of a mixed system; its parameters are as before when this returns, or raises
    states : values of some or all Context parameters in each state, such as
        ``[{"lambda_electrostatics": 0.5}, {"lambda_electrostatics": 1.0}]``

    Returns
    -------
    [n_states], kJ/mol

    Raises
    ------
    ValueError
        A parameter that the context does not have.
    """
    before = dict(context.getParameters())
    for state in states:
        unknown = sorted(set(state) - set(before))
        if unknown:
            raise ValueError(
                f"the context has no parameter {unknown[0]!r}; it has {', '.join(sorted(before)) or 'none'}"
            )
    energies = []
    try:
        for state in states:
            for name, value in {**before, **state}.items():
                context.setParameter(name, value)
            energy = context.getState(getEnergy=True).getPotentialEnergy()
            energies.append(energy.value_in_unit(unit.kilojoule_per_mole))
    finally:
        for name, value in before.items():
            context.setParameter(name, value)
    return np.array(energies)


__all__ = ["energies_at"]
