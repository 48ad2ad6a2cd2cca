"""OpenMM Systems in which every atom is an ML atom."""

from __future__ import annotations

from collections.abc import Sequence

import openmm
from openmm import app

from openmm_les.engine.boundary import LAMBDA_INTERPOLATE
from openmm_les.engine.connectivity import connectivity_force, pairs_of_molecules
from openmm_les.engine.field import field_parameters, refuse_derivatives
from openmm_les.engine.force import make_force
from openmm_les.engine.topology import atomic_numbers, molecules_and_charges, topology_bonds
from openmm_les.models.model import LESModel


def create_system(
    topology: app.Topology,
    model: LESModel,
    route: str = "auto",
    *,
    total_charge: float | Sequence[float] = 0,
    molecules: Sequence[int] | None = None,
    precision: str = "single",
    remove_cm_motion: bool = True,
    device: str = "auto",
    electric_field: Sequence[float] | None = None,
) -> openmm.System:
    """System of a topology with all its interactions from one model.

    Periodic where the topology has box vectors. There are no constraints: hydrogens move freely,
    so that time steps stay at 0.5 fs or so.

    Parameters
    ----------
    topology : with elements and bonds of all atoms
    model : `openmm_les.load_model`
    route : "torchforce", "python" or "auto"; see `openmm_les.engine.routes`
    total_charge : e, of all atoms, or one per molecule in the order of their first atoms. A total is
        shared among molecules by the rules of valence (`openmm_les.molecules`)
    molecules : [n_atoms], index of each atom's molecule; None = by the topology's bonds
    precision : "single" or "double" arithmetic of the model
    remove_cm_motion : adds a CMMotionRemover
    device : torch device of route "python"; TorchForce follows its platform
    electric_field : [3], V/nm, uniform and external: adds the energy ``-E · M`` of the total dipole and
        the global parameters ``electric_field_x``, ``…_y``, ``…_z``, which start at these values. In a
        box see `openmm_les.engine.field`. None = no field, no parameters

    Returns
    -------
    System with a Force named "LES" and its global parameter ``lambda_interpolate`` (1, scales it);
    periodic ones also with bonds of zero strength, which keep molecules whole under a barostat

    Raises
    ------
    RouteError
        The installed versions do not allow the route.
    UnknownElementError
        An atom without an element, or of one that the model does not know.
    ValueError
        No atoms, bonds missing, or charges that do not fit the molecules; a field for a model without
        charges.
    """
    if topology.getNumAtoms() == 0:
        raise ValueError("`topology` has no atoms")
    numbers = atomic_numbers(topology)
    model.check_elements(numbers)
    molecules, charges = molecules_and_charges(topology, numbers, total_charge, molecules)
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    box = topology.getPeriodicBoxVectors()
    if box is not None:
        system.setDefaultPeriodicBoxVectors(*box)
    force = make_force(
        model,
        numbers,
        molecules,
        charges,
        periodic=box is not None,
        route=route,
        precision=precision,
        device=device,
        electric_field=electric_field,
        bonds=topology_bonds(topology),
    )
    system.addForce(force)
    if electric_field is not None:
        # OpenMM lists all parameters as soon as a force has the derivative by one of them.
        system.addForce(refuse_derivatives({**field_parameters(electric_field), LAMBDA_INTERPOLATE: 1.0}))
    if box is not None:
        system.addForce(connectivity_force(pairs_of_molecules(molecules), periodic=True))
    if remove_cm_motion:
        system.addForce(openmm.CMMotionRemover())
    return system


__all__ = ["create_system"]
