"""The OpenMM Force of an ML region that meets MM charges."""

from __future__ import annotations

from collections.abc import Sequence

import openmm
import torch

from openmm_les.engine.boundary import LAMBDA_INTERPOLATE, PRECISIONS
from openmm_les.engine.compile import compile_force, trial_positions
from openmm_les.engine.embedded import (
    LAMBDA_ELECTROSTATICS,
    EmbeddedBoundary,
    IsolatedEmbedded,
    PeriodicEmbedded,
)
from openmm_les.engine.field import check_feels_field, field_parameters
from openmm_les.engine.field_forces import IsolatedFieldEmbedded, PeriodicFieldEmbedded
from openmm_les.engine.force import CHECKED_ATOMS, warn_of_sharp_cut, wrap_script
from openmm_les.engine.routes import choose_route
from openmm_les.engine.surroundings import CouplingSettings, Surroundings
from openmm_les.models.model import LESModel

EMBEDDED_PARAMETERS = (LAMBDA_ELECTROSTATICS, LAMBDA_INTERPOLATE)
"""Global parameters in the order in which the modules take them; the first, or both."""


def make_embedded_force(
    model: LESModel,
    numbers: Sequence[int],
    molecules: Sequence[int],
    molecule_charges: Sequence[float],
    atoms: Sequence[int],
    surroundings: Surroundings,
    settings: CouplingSettings,
    *,
    periodic: bool,
    route: str = "auto",
    precision: str = "single",
    parameters: Sequence[str] = (),
    device: str = "auto",
    force_group: int = 0,
    electric_field: Sequence[float] | None = None,
    bonds: Sequence[tuple[int, int]] = (),
) -> openmm.Force:
    """OpenMM Force of a region's model and of its charges among those of the surroundings.

    Parameters
    ----------
    model, numbers, molecules, molecule_charges : of the region, as `make_force`
    atoms : [n_ml], particle indices
    surroundings, settings : of the coupling
    periodic : whether there are images
    route, precision, device, force_group : as `make_force`
    parameters : of `EMBEDDED_PARAMETERS`, the global parameters that scale the force
    electric_field, bonds : as `make_force`; the field on MM charges is not this force's

    Raises
    ------
    RouteError
        The route cannot be used, or the compiled module differs from the eager one.
    ValueError
        An unknown route or precision.

    Warns
    -----
    UserWarning
        A periodic model with a sharp cut of its Coulomb sum: no barostat must move its box.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if periodic:
        warn_of_sharp_cut(model)
    route = choose_route(route)
    dtype = PRECISIONS[precision]
    kind: type[EmbeddedBoundary] = PeriodicEmbedded if periodic else IsolatedEmbedded
    taken = field_parameters(electric_field)
    if taken:
        kind = PeriodicFieldEmbedded if periodic else IsolatedFieldEmbedded
        check_feels_field(model, molecules, bonds, periodic)
    taken.update(dict.fromkeys(parameters, 1.0))
    described = (model, numbers, molecules, molecule_charges)
    _check_compiled(kind, described, dtype, surroundings, settings, route == "torchforce")
    script = compile_force(kind(*described, atoms, dtype, surroundings, settings, bonds))
    return wrap_script(
        script, periodic=periodic, route=route, parameters=taken, device=device, force_group=force_group
    )


def _check_compiled(
    kind: type[EmbeddedBoundary],
    described: tuple[LESModel, Sequence[int], Sequence[int], Sequence[float]],
    dtype: torch.dtype,
    surroundings: Surroundings,
    settings: CouplingSettings,
    optimized: bool,
) -> None:
    """`check_forms` on the first atoms of each side, on a lattice."""
    model, numbers, molecules, charges = described
    n_ml = min(len(numbers), CHECKED_ATOMS)
    n_mm = min(len(surroundings.atoms), CHECKED_ATOMS)
    few = surroundings.first(n_ml, n_mm)
    few = Surroundings(list(range(n_ml, n_ml + n_mm)), few.charges, [], few.excluded, few.excluded_shares)
    module = kind(model, numbers[:n_ml], molecules[:n_ml], charges, list(range(n_ml)), dtype, few, settings)
    # A box wide enough for the cutoff; the lattice has to be as dense as a molecule all the same.
    box = 0.3 * settings.cutoff * torch.eye(3, dtype=torch.float64) if kind.periodic else None
    compile_force(module, trial_positions(n_ml + n_mm), box, optimized)


__all__ = ["EMBEDDED_PARAMETERS", "make_embedded_force"]
