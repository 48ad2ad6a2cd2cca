"""A uniform external electric field in OpenMM: its Context parameters, and the force on fixed charges.

The energy is ``-E · M`` with the total dipole of all charges at the positions of the Context, which
OpenMM does not wrap. In a box it is defined up to ``E · L`` times the charge of whatever was moved by
the box vector L: for neutral molecules it does not depend on images at all, for ions it is continuous
while they drift through the wall. Forces never jump.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import openmm

from openmm_les.engine.references import check_bonded
from openmm_les.models.heads import NoCharges
from openmm_les.models.model import LESModel
from openmm_les.models.uniform_field import check_flow
from openmm_les.units import KJ_PER_MOL_PER_EV

FIELD_PARAMETERS = ("electric_field_x", "electric_field_y", "electric_field_z")
"""Names of the global parameters, V/nm."""
FIELD_TERM = "electric_field"
"""Name of the energy of ML atoms in the field among the terms of a force."""
FIELD_FORCE_NAME = "Electric field on MM charges"
REFUSAL_NAME = "No derivatives"
_ENERGY = f"-{KJ_PER_MOL_PER_EV!r}*charge*({'+'.join(f'{n}*{n[-1]}' for n in FIELD_PARAMETERS)})"


def field_parameters(electric_field: Sequence[float] | None) -> dict[str, float]:
    """Global parameters and their starting values (V/nm); none without a field.

    Raises
    ------
    ValueError
        Not three finite numbers.
    """
    if electric_field is None:
        return {}
    values = np.asarray(electric_field, dtype=np.float64)
    if values.shape != (3,) or not np.isfinite(values).all():
        raise ValueError(f"`electric_field` must be three numbers in V/nm, got {electric_field!r}")
    return dict(zip(FIELD_PARAMETERS, values.tolist()))


def check_feels_field(
    model: LESModel, molecules: Sequence[int], bonds: Sequence[tuple[int, int]], periodic: bool
) -> None:
    """Raise ValueError where a model has nothing for a field to act on, or no dipole in a box.

    Parameters
    ----------
    model : of the atoms
    molecules : [n_ml], index of each atom's molecule
    bonds : pairs of atoms, which in a box must hold each molecule together
    periodic : whether there is a box
    """
    if isinstance(model.charge_module(), NoCharges):
        raise ValueError(
            "the model has no latent charges for an electric field to act on; give it some "
            "(openmm_les.models.add_latent_charges) or leave `electric_field` out"
        )
    warn_of_sign(model)
    if periodic:
        check_flow(model, len(set(molecules)))
        check_bonded(molecules, bonds)


def warn_of_sign(model: LESModel) -> None:
    """Warn where charges are to meet others or a field, and nobody knows their sign."""
    if model.metadata.get("charge_sign", {}).get("ambiguous"):
        warnings.warn(
            "the sign of the model's latent charges could not be told when it was converted: compare the "
            "dipole of a molecule you know, and convert it again with the sign (openmm-les convert "
            "--charge-sign)",
            stacklevel=3,
        )


def fixed_charge_force(
    n_particles: int,
    charges: Mapping[int, float],
    electric_field: Sequence[float],
    fading: Mapping[int, float] | None = None,
    parameter: str = "",
) -> openmm.CustomExternalForce:
    """Force of the field on charges that do not change.

    Parameters
    ----------
    n_particles : of the system
    charges : e, by particle
    electric_field : V/nm
    fading : e, by particle, of charges that the global ``parameter`` takes away as it goes from 0 to 1
    """
    fading = {} if fading is None else fading
    expression = _ENERGY if not fading else f"(1-fades*{parameter})*({_ENERGY})"
    force = openmm.CustomExternalForce(expression)
    for name, value in field_parameters(electric_field).items():
        force.addGlobalParameter(name, value)
    force.addPerParticleParameter("charge")
    if fading:
        force.addGlobalParameter(parameter, 1.0)
        force.addPerParticleParameter("fades")
    for particle in range(n_particles):
        if charges.get(particle, 0.0) != 0.0:
            force.addParticle(particle, [charges[particle], 0.0][: 2 if fading else 1])
        if fading.get(particle, 0.0) != 0.0:
            force.addParticle(particle, [fading[particle], 1.0])
    force.setName(FIELD_FORCE_NAME)
    return force


def refuse_derivatives(parameters: Mapping[str, float]) -> openmm.Force:
    """Force without energy that makes State's derivatives by these parameters NaN.

    OpenMM would return 0, or the part that one force knows of: NonbondedForce has none for its
    offsets, the ML force has none. Nobody can mistake NaN for a free-energy derivative; see
    `openmm_les.embedding.states.energies_at`. ``parameters`` by name with their defaults.
    """
    roots = "+".join(f"sqrt(zero*{name})" for name in parameters)
    force = openmm.CustomCompoundBondForce(1, roots)  # its derivative is 0/0
    force.addPerBondParameter("zero")
    for name, value in parameters.items():
        force.addGlobalParameter(name, value)
        force.addEnergyParameterDerivative(name)
    force.addBond([0], [0.0])
    force.setName(REFUSAL_NAME)
    return force


def check_parameter_names(system: openmm.System) -> None:
    """Raise ValueError where a force of a system has a global parameter of a field's name."""
    for force in system.getForces():
        count = force.getNumGlobalParameters() if hasattr(force, "getNumGlobalParameters") else 0
        taken = {force.getGlobalParameterName(k) for k in range(count)} & set(FIELD_PARAMETERS)
        if taken:
            raise ValueError(
                f"{force.getName()} has a global parameter {min(taken)!r} of its own: rename it, or leave "
                "`electric_field` out"
            )


__all__ = [
    "FIELD_FORCE_NAME",
    "FIELD_PARAMETERS",
    "FIELD_TERM",
    "REFUSAL_NAME",
    "check_feels_field",
    "check_parameter_names",
    "field_parameters",
    "fixed_charge_force",
    "refuse_derivatives",
    "warn_of_sign",
]
