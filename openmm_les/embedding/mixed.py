"""OpenMM Systems of an ML region within a force field."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import openmm
from openmm import app

from openmm_les.embedding.mechanical import image_charges, remove_internal_terms
from openmm_les.embedding.regions import find_region
from openmm_les.engine.force import make_force
from openmm_les.models.model import LESModel

EMBEDDINGS = ("mechanical",)


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
) -> openmm.System:
    """System with a model inside the ML region and a force field around it.

    "mechanical": across the border the force field's charges and Lennard-Jones terms act, with its
    own PME. The model does not feel its surroundings: latent charges interact with each other and
    their images only. Lennard-Jones tail corrections of the force field are left as they are.

    Parameters
    ----------
    topology : of all particles, with elements; its bonds make the molecules
    mm_system : the whole system by a force field; not changed
    ml_atoms : particle indices of the region, whole molecules
    model : `openmm_les.load_model`
    embedding : "mechanical"
    total_charge : e, of the region, or one per molecule of it; None = by the force field's charges
    route : "torchforce", "python" or "auto"; see `openmm_les.engine.routes`
    precision : "single" or "double" arithmetic of the model
    scalable : adds the global parameter ``lambda_interpolate`` (1), which scales the energy of the
        model; the force field's terms within the region are gone at any value of it
    device : torch device of route "python"; TorchForce follows its platform
    force_group : of the ML force

    Returns
    -------
    System with the force field's Forces, one named "LES", and bonds of zero strength within the
    region, which keep its molecules whole under a barostat

    Raises
    ------
    EmbeddingError
        The region cannot be embedded in this system; the message says why.
    RouteError
        The installed versions do not allow the route.
    UnknownElementError
        An element of the region that the model does not know.
    """
    if embedding not in EMBEDDINGS:
        raise ValueError(f"`embedding` must be one of {', '.join(EMBEDDINGS)}, got {embedding!r}")
    region = find_region(topology, mm_system, ml_atoms, model, total_charge)
    system = remove_internal_terms(mm_system, region)
    force = make_force(
        model,
        region.numbers,
        region.molecules,
        region.molecule_charges,
        atoms=region.atoms,
        periodic=mm_system.usesPeriodicBoundaryConditions(),
        route=route,
        precision=precision,
        scalable=scalable,
        device=device,
        force_group=force_group,
        image_charges=image_charges(mm_system, region.atoms),
    )
    system.addForce(force)
    return system


__all__ = ["EMBEDDINGS", "create_mixed_system"]
