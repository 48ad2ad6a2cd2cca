"""A uniform electric field on the charges of a force field."""

from __future__ import annotations

from collections.abc import Sequence

import openmm

from openmm_les.embedding.electrostatic import nonbonded_force, nonbonded_parameters
from openmm_les.embedding.regions import Region
from openmm_les.engine.boundary import LAMBDA_INTERPOLATE
from openmm_les.engine.field import check_parameter_names, fixed_charge_force
from openmm_les.exceptions import EmbeddingError


def add_field_on_charges(
    system: openmm.System,
    mm_system: openmm.System,
    region: Region | None,
    electric_field: Sequence[float],
    interpolate: bool = False,
) -> None:
    """Add the force of a field on MM charges, with the parameters that the ML force has for it.

    Parameters
    ----------
    system : to add it to
    mm_system : of the force field, as given; its charges count
    region : atoms that feel the field through their model; None = there are none
    electric_field : V/nm
    interpolate : the force field's charges of the region feel it, too, as ``lambda_interpolate`` goes to 0

    Raises
    ------
    EmbeddingError
        No NonbondedForce or several; charges that depend on parameters.
    ValueError
        Not three finite numbers; another force has parameters of these names.
    """
    check_parameter_names(mm_system)
    force = nonbonded_force(mm_system)
    for k in range(force.getNumParticleParameterOffsets()):
        name, atom, charge = force.getParticleParameterOffset(k)[:3]
        if charge != 0.0:
            raise EmbeddingError(
                f"the force field's charge of particle {atom} depends on the global parameter {name!r}; an "
                "electric field needs constant charges"
            )
    every = dict(enumerate(nonbonded_parameters(force)[0].tolist()))
    inside = set() if region is None else set(region.atoms)
    outer = {atom: charge for atom, charge in every.items() if atom not in inside}
    inner = {atom: every[atom] for atom in inside} if interpolate else {}
    system.addForce(
        fixed_charge_force(system.getNumParticles(), outer, electric_field, inner, LAMBDA_INTERPOLATE)
    )


__all__ = ["add_field_on_charges"]
