"""OpenMM Systems of an ML region within a force field."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence

import openmm
from openmm import app

from openmm_les.embedding.electrostatic import (
    coupling_settings,
    embedded_system,
    find_surroundings,
    interpolated_system,
)
from openmm_les.embedding.field import add_field_on_charges
from openmm_les.embedding.mechanical import images_of_region, is_periodic, remove_internal_terms
from openmm_les.embedding.regions import find_region
from openmm_les.engine.boundary import LAMBDA_INTERPOLATE
from openmm_les.engine.embedded_force import EMBEDDED_PARAMETERS, make_embedded_force
from openmm_les.engine.field import field_parameters, refuse_derivatives, warn_of_sign
from openmm_les.engine.force import make_force
from openmm_les.engine.surroundings import CouplingSettings
from openmm_les.engine.topology import bonds_among
from openmm_les.exceptions import EmbeddingError
from openmm_les.models.heads import NoCharges
from openmm_les.models.model import LESModel

EMBEDDINGS = ("mechanical", "electrostatic")


def create_mixed_system(
    topology: app.Topology,
    mm_system: openmm.System,
    ml_atoms: Iterable[int],
    model: LESModel,
    embedding: str = "mechanical",
    total_charge: float | Sequence[float] | None = None,
    route: str = "auto",
    *,
    precision: str = "single",
    scalable: bool = True,
    device: str = "auto",
    force_group: int = 0,
    interpolate: bool = False,
    coupling: CouplingSettings | None = None,
    electric_field: Sequence[float] | None = None,
) -> openmm.System:
    """System with a model inside the ML region and a force field around it.

    "mechanical": across the border the force field's charges and Lennard-Jones terms act, with its
    own PME. The model does not feel its surroundings: latent charges interact with each other and
    their images only. Lennard-Jones tail corrections of the force field are left as they are.

    "electrostatic": the force field's charges of the region are gone. The model's physical charges
    meet the MM charges in one periodic Coulomb sum and the forces hold the charges' response to the
    region's geometry; across the border the force field keeps its Lennard-Jones terms.

    Parameters
    ----------
    topology : of all particles, with elements; its bonds make the molecules
    mm_system : the whole system by a force field; not changed
    ml_atoms : particle indices of the region, whole molecules; without any the force field's system
        comes back, with a warning
    model : `openmm_les.load_model`
    embedding : "mechanical" or "electrostatic"
    total_charge : e, of the region, or one per molecule of it; None = by the force field's charges
    route : "torchforce", "python" or "auto"; see `openmm_les.engine.routes`
    precision : "single" or "double" arithmetic of the model
    scalable : adds a global parameter. "mechanical": ``lambda_interpolate`` (1), which scales the energy
        of the model; the force field's terms within the region are gone at any value of it.
        "electrostatic": ``lambda_electrostatics`` (1), which scales what latent and MM charges do to
        each other
    device : torch device of route "python"; TorchForce follows its platform
    force_group : of the ML force
    interpolate : "electrostatic" only: adds ``lambda_interpolate`` (1) too, at 0 the force field exactly
        as given, at 1 the hybrid. Constraints within the region then stay, at any value
    coupling : cutoff, tolerance, smearing and guard of "electrostatic"; None = the defaults
    electric_field : [3], V/nm, uniform and external, as `create_system`: the region feels it through the
        model's charges, MM atoms through the force field's. With ``interpolate`` the region's force-field
        charges feel it as the model's fade; ``lambda_electrostatics`` leaves it alone

    Returns
    -------
    System with the force field's Forces, one named "LES", and bonds of zero strength within the
    region, which keep its molecules whole under a barostat; with a field, one for it on MM charges.
    State's derivatives by the parameters of electrostatic embedding and of the field are NaN, because
    OpenMM knows only some of their parts: see `energies_at`

    Raises
    ------
    EmbeddingError
        The region cannot be embedded in this system; the message says why.
    RouteError
        The installed versions do not allow the route.
    UnknownElementError
        An element of the region that the model does not know.

    Warns
    -----
    UserWarning
        The region is empty; terms with parameters of their own, such as biases, are removed from it; the
        model's charges meet MM charges or a field, and nobody knows their sign.
    """
    if embedding not in EMBEDDINGS:
        raise ValueError(f"`embedding` must be one of {', '.join(EMBEDDINGS)}, got {embedding!r}")
    if isinstance(ml_atoms, Iterable) and not isinstance(ml_atoms, str):
        ml_atoms = list(ml_atoms)  # a generator would be empty the second time
    if isinstance(ml_atoms, list) and not ml_atoms:
        warnings.warn("`ml_atoms` is empty: all of the system stays with its force field", stacklevel=2)
        system = copy.deepcopy(mm_system)
        if electric_field is not None:
            add_field_on_charges(system, mm_system, None, electric_field)
        return system
    region = find_region(topology, mm_system, ml_atoms, model, total_charge)
    bonds = bonds_among(region.bonds, region.atoms)
    if embedding == "electrostatic" and isinstance(model.charge_module(), NoCharges):
        raise EmbeddingError(
            "the model has no latent charges to meet the MM charges with; use embedding='mechanical', or "
            "give it charges (openmm_les.models.add_latent_charges)"
        )
    if embedding == "electrostatic" and electric_field is None:  # which warns of it, too
        warn_of_sign(model)
    if embedding == "electrostatic":
        system = interpolated_system(mm_system, region) if interpolate else embedded_system(mm_system, region)
        periodic, settings = coupling_settings(mm_system, coupling)
        parameters = EMBEDDED_PARAMETERS[: 2 if interpolate else int(scalable)]
        refused = {**dict.fromkeys(parameters, 1.0), **field_parameters(electric_field)}
        if refused:
            system.addForce(refuse_derivatives(refused))
        force = make_embedded_force(
            model,
            region.numbers,
            region.molecules,
            region.molecule_charges,
            region.atoms,
            find_surroundings(mm_system, region),
            settings,
            periodic=periodic,
            route=route,
            precision=precision,
            parameters=parameters,
            device=device,
            force_group=force_group,
            electric_field=electric_field,
            bonds=bonds,
        )
        system.addForce(force)
        if electric_field is not None:
            add_field_on_charges(system, mm_system, region, electric_field, interpolate)
        return system
    if interpolate or coupling is not None:
        raise ValueError(
            "`interpolate` and `coupling` belong to embedding='electrostatic'; openmm-ml interpolates "
            "mechanical embedding"
        )
    system = remove_internal_terms(mm_system, region)
    force = make_force(
        model,
        region.numbers,
        region.molecules,
        region.molecule_charges,
        atoms=region.atoms,
        periodic=is_periodic(mm_system),
        route=route,
        precision=precision,
        scalable=scalable,
        device=device,
        force_group=force_group,
        image_charges=images_of_region(mm_system, region.atoms, model),
        electric_field=electric_field,
        bonds=bonds,
    )
    system.addForce(force)
    if electric_field is not None:
        scaled = {LAMBDA_INTERPOLATE: 1.0} if scalable else {}
        system.addForce(refuse_derivatives({**field_parameters(electric_field), **scaled}))
        add_field_on_charges(system, mm_system, region, electric_field)
    return system


__all__ = ["EMBEDDINGS", "create_mixed_system"]
