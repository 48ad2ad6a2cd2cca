"""One OpenMM Force for a set of ML atoms, by either route, running the same module."""

from __future__ import annotations

import logging
import uuid
import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import openmm
import torch
from openmm import unit
from torch import Tensor

from openmm_les.engine.boundary import LAMBDA_INTERPOLATE, PRECISIONS, IsolatedForce, PeriodicForce
from openmm_les.engine.compile import archive_of, compile_force, from_archive, reloaded, trial_positions
from openmm_les.engine.cuda_graphs import NotRecordedError, ReplayedForce, replayed_force
from openmm_les.engine.field import FIELD_PARAMETERS, check_feels_field, field_parameters
from openmm_les.engine.field_forces import IsolatedFieldForce, PeriodicFieldForce
from openmm_les.engine.routes import choose_route, import_torchforce
from openmm_les.memory import keep_freed_memory
from openmm_les.models.model import LESModel

logger = logging.getLogger(__name__)

FORCE_NAME = "LES"
RUNNING: weakref.WeakValueDictionary[str, PythonForceFunction] = weakref.WeakValueDictionary()
"""Functions that a Context has called, by their keys; OpenMM itself hands out pickled copies only."""
CHECKED_ATOMS = 64
"""Atoms on which compiled modules are compared: enough for every path through the code, and quick."""


class PythonForceFunction:
    """What a PythonForce calls: the scripted module on the arrays of a State.

    Pickles as the scripted module's own archive, so that a System in XML carries its model.

    Parameters
    ----------
    archive : `torch.jit.save` of a scripted `PeriodicForce`, `IsolatedForce` or their like
    periodic : whether it takes a box
    device : torch device; "auto" = CUDA where torch sees one, else CPU
    parameters : global parameters that it takes, in their order
    """

    def __init__(
        self,
        archive: bytes,
        periodic: bool,
        device: str = "auto",
        parameters: Sequence[str] = (LAMBDA_INTERPOLATE,),
    ) -> None:
        self.archive = archive
        self.periodic = periodic
        self.device = device
        self.key = uuid.uuid4().hex
        """The same for all copies of the function"""
        self.evaluated: list[Tensor | None] | None = None
        """Positions, box and electric field of the last evaluation, whose results the module keeps"""
        self.parameters = tuple(parameters)
        self._module: torch.jit.ScriptModule | None = None
        self._replayed: ReplayedForce | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "evaluated": None, "_module": None, "_replayed": None}

    def module(self) -> torch.jit.ScriptModule:
        """The scripted module on its device, made at the first call."""
        if self._module is None:
            keep_freed_memory()
            self._module = from_archive(self.archive, self.torch_device())
            self._replayed = replayed_force(
                self._module, lambda: from_archive(self.archive, torch.device("cpu"))
            )
        return self._module

    def torch_device(self) -> torch.device:
        """The device to run on."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def __call__(self, state: openmm.State) -> tuple[float, Any]:
        """Energy in kJ/mol and forces [n, 3] in kJ/mol/nm (numpy, double)."""
        positions = _tensor(state.getPositions(asNumpy=True))
        box = _tensor(state.getPeriodicBoxVectors(asNumpy=True)) if self.periodic else None
        parameters = state.getParameters()
        values = {name: float(parameters[name]) for name in self.parameters}
        try:
            # The optimiser would take seconds at the second and third step and gain nothing.
            with torch.jit.optimized_execution(False):
                energy, forces = self._run(positions, box, values)
        except torch.jit.Error as error:
            # The last line is our own message, above it stands a TorchScript stack.
            raise RuntimeError(str(error).strip().splitlines()[-1]) from error
        field = None
        if FIELD_PARAMETERS[0] in values:
            field = torch.tensor([values[name] for name in FIELD_PARAMETERS], dtype=torch.float64)
        # At strength 0 the module has not looked at the positions.
        off = values.get(LAMBDA_INTERPOLATE) == 0.0
        self.evaluated = None if off else [positions, box, field]
        RUNNING[self.key] = self
        return energy, forces.numpy()

    def _run(self, positions: Tensor, box: Tensor | None, values: dict[str, float]) -> tuple[float, Tensor]:
        """Energy and forces of the module, by a CUDA graph where that can be; all on the CPU."""
        module, replayed = self.module(), self._replayed
        if replayed is not None and values.get(LAMBDA_INTERPOLATE) != 0.0:
            try:
                return replayed(positions, box, values)
            except NotRecordedError as error:
                logger.warning("no CUDA graph, steps take longer: %s", error)
                self._replayed = None
        device = self.torch_device()
        arguments = [positions.to(device)] if box is None else [positions.to(device), box.to(device)]
        # Parameters stay on the CPU, where they are read.
        arguments += [torch.tensor(value, dtype=torch.float64) for value in values.values()]
        energy, forces = module(*arguments)
        return float(energy.detach()), forces.detach().cpu()


def make_force(
    model: LESModel,
    numbers: Sequence[int],
    molecules: Sequence[int],
    molecule_charges: Sequence[float],
    *,
    atoms: Sequence[int] | None = None,
    periodic: bool = False,
    route: str = "auto",
    precision: str = "single",
    scalable: bool = True,
    device: str = "auto",
    force_group: int = 0,
    image_charges: Sequence[float] | None = None,
    electric_field: Sequence[float] | None = None,
    bonds: Sequence[tuple[int, int]] = (),
) -> openmm.Force:
    """OpenMM Force that runs a model on all particles of a system or on some of them.

    Parameters
    ----------
    model : trained or loaded model
    numbers : [n_ml], atomic numbers
    molecules : [n_ml], index of each ML atom's molecule
    molecule_charges : [n_molecules], e
    atoms : [n_ml], particle indices of the ML atoms; None = every particle of the system
    periodic : latent charges interact with their periodic images
    route : "torchforce", "python" or "auto"
    precision : "single" or "double" arithmetic of the model; energies are summed in double
    scalable : adds the global parameter ``lambda_interpolate`` (1), which scales energy and forces
    device : torch device of route "python"; TorchForce follows its platform
    force_group : of the force
    image_charges : [n_ml], e, charges whose energy with their periodic images is subtracted, at any
        ``lambda_interpolate``; see `ForceBoundary`
    electric_field : [3], V/nm, uniform; adds the global parameters of `FIELD_PARAMETERS` with these
        values. None = none
    bonds : pairs of indices into ``numbers``; needed with a field where ``periodic``

    Raises
    ------
    RouteError
        The route cannot be used, or the compiled model differs from the eager one.
    UnknownElementError
        An element that the model was not trained on.
    ValueError
        An unknown route or precision; a field for a model without charges, or in a box without the bonds
        that hold each molecule together.

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
    parameters = field_parameters(electric_field)
    kind: type[PeriodicForce] | type[IsolatedForce] = PeriodicForce if periodic else IsolatedForce
    if parameters:
        check_feels_field(model, molecules, bonds, periodic)
        kind = PeriodicFieldForce if periodic else IsolatedFieldForce
    dtype = PRECISIONS[precision]
    # Since 8.6 OpenMM hands over the ML atoms only; elsewhere the module picks them.
    narrowed = route == "python" and atoms is not None and hasattr(openmm.PythonForce, "setParticles")
    chosen = None if narrowed else atoms
    module = kind(model, numbers, molecules, molecule_charges, chosen, dtype, image_charges, bonds)
    _check_compiled(kind, model, numbers, molecules, molecule_charges, dtype, route == "torchforce")
    return wrap_script(
        compile_force(module),
        periodic=periodic,
        route=route,
        parameters={**parameters, LAMBDA_INTERPOLATE: 1.0} if scalable else parameters,
        device=device,
        force_group=force_group,
        particles=atoms if narrowed else None,
    )


def warn_of_sharp_cut(model: LESModel) -> None:
    """Warn that the energy of a model jumps where its box changes, if its Coulomb sum is cut."""
    if getattr(model.electrostatics, "k_cutoff", None) is not None:
        warnings.warn(
            "this model cuts its Coulomb sum sharply at a wave number (`k_cutoff`): its energy jumps when "
            "the box changes. Run it at constant volume, with a barostat densities would be wrong; or "
            "load it with electrostatics='converged'",
            stacklevel=4,
        )


def wrap_script(
    script: torch.jit.ScriptModule,
    *,
    periodic: bool,
    route: str,
    parameters: Mapping[str, float],
    device: str,
    force_group: int,
    particles: Sequence[int] | None = None,
) -> openmm.Force:
    """OpenMM Force that runs a compiled module (positions, box if periodic, parameters) -> energy, forces.

    Parameters
    ----------
    script : from `compile_force`
    periodic : whether it takes a box
    route : "torchforce" or "python"
    parameters : global parameters that it takes, in their order, with their first values
    device : torch device of route "python"
    force_group : of the force
    particles : [n], those whose positions the module takes (route "python" only); None = all
    """
    if route == "torchforce":
        keep_freed_memory()
        force = import_torchforce().TorchForce(reloaded(script))
        force.setOutputsForces(True)
        for name, value in parameters.items():
            force.addGlobalParameter(name, value)
    else:
        function = PythonForceFunction(archive_of(script), periodic, device, tuple(parameters))
        force = openmm.PythonForce(function, dict(parameters))
        if particles is not None:
            force.setParticles([int(i) for i in particles])
    force.setUsesPeriodicBoundaryConditions(periodic)
    force.setForceGroup(force_group)
    force.setName(FORCE_NAME)
    return force


def _check_compiled(
    kind: type[PeriodicForce] | type[IsolatedForce],
    model: LESModel,
    numbers: Sequence[int],
    molecules: Sequence[int],
    molecule_charges: Sequence[float],
    dtype: torch.dtype,
    optimized: bool,
) -> None:
    """`check_forms` on the first atoms of the system, on a lattice."""
    n = min(len(numbers), CHECKED_ATOMS)
    charges = [0.1 * (-1) ** k for k in range(n)] if kind.periodic else None
    module = kind(model, numbers[:n], molecules[:n], molecule_charges, None, dtype, charges)
    box = torch.eye(3, dtype=torch.float64) * 3.0 if kind.periodic else None
    compile_force(module, trial_positions(n, box), box, optimized)


def _tensor(quantity: unit.Quantity) -> Tensor:
    return torch.tensor(quantity.value_in_unit(unit.nanometer), dtype=torch.float64)


__all__ = [
    "CHECKED_ATOMS",
    "FORCE_NAME",
    "RUNNING",
    "PythonForceFunction",
    "make_force",
    "warn_of_sharp_cut",
    "wrap_script",
]
