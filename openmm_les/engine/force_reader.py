"""What the LES force of a system knows: its charges, dipoles, energy terms and novelty, by either route.

To ask costs a pass through the model without forces; where a `PythonForce` was evaluated at the same
positions (for energies, say), its result is taken up instead.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import numpy as np
import openmm
import torch
from torch import Tensor

from openmm_les.engine.field import FIELD_PARAMETERS, FIELD_TERM
from openmm_les.engine.force import RUNNING, PythonForceFunction
from openmm_les.engine.routes import import_torchforce
from openmm_les.exceptions import RouteError
from openmm_les.units import KJ_PER_MOL_PER_EV


class MLForceReader:
    """What the LES force of a system knows at some positions, by either route.

    Parameters
    ----------
    system : with one force made by this package

    Raises
    ------
    ValueError
        No such force, or several.
    """

    def __init__(self, system: openmm.System) -> None:
        found = [f for f in (_opened(force) for force in system.getForces()) if f is not None]
        if len(found) != 1:
            raise ValueError(
                f"a reporter needs a system with one LES force, this one has {len(found)} "
                "(made by create_system, create_mixed_system or openmm-ml; none inside a CustomCVForce)"
            )
        self.module, self.function, self._particles, self.periodic = found[0]
        self._device = next(self.module.buffers()).device
        of_module = self.module.atoms.cpu().numpy()
        self.atoms = of_module if self._particles is None else self._particles[of_module]
        """[n_ml], particle indices of the ML atoms"""
        self.numbers = self.module.numbers.cpu().numpy()
        """[n_ml], atomic numbers"""
        self.term_names = list(self.module.term_names)
        self.knows_domain = getattr(self.module.model, "domain", None) is not None
        """whether `novelty` says anything"""
        self.total_charge = float(self.module.molecule_charges.sum())
        """e"""
        self.ions = int((self.module.molecule_charges.abs() > 1e-6).sum())
        """molecules with a charge of their own"""

    def charges(
        self,
        positions: np.ndarray,
        box: np.ndarray | None,
        parameters: Mapping[str, float] | None = None,
    ) -> np.ndarray:
        """Physical charges, [n_ml] in e; arguments as in `moments`."""
        return self.moments(positions, box, parameters)[0]

    def moments(
        self,
        positions: np.ndarray,
        box: np.ndarray | None,
        parameters: Mapping[str, float] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Physical charges, [n_ml] in e, and dipoles of atoms, [n_ml, 3] in e·Å.

        Parameters
        ----------
        positions : [n_particles, 3], nm
        box : [3, 3], nm
        parameters : of the Context; needed where the force takes an electric field
        """
        arguments = self._arguments(positions, box, parameters)
        known = self._known(arguments)
        if known is not None:
            charges, dipoles = known.latest_charges, known.latest_dipoles
        else:
            with torch.jit.optimized_execution(False):
                charges, dipoles = self.module.moments(*arguments)
        return charges.double().cpu().numpy(), dipoles.double().cpu().numpy()

    def novelty(self, positions: np.ndarray, box: np.ndarray | None) -> np.ndarray:
        """Distance of the ML atoms from the training data, [n_ml]; see `LESModel.novelty`."""
        with torch.jit.optimized_execution(False):
            novelty = self.module.novelty(*self._places(positions, box))
        return novelty.double().cpu().numpy()

    def energy_terms(
        self,
        positions: np.ndarray,
        box: np.ndarray | None,
        parameters: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """Terms of the ML energy at full strength by name, kJ/mol; arguments as in `charges`."""
        arguments = self._arguments(positions, box, parameters)
        known = self._known(arguments)
        if known is not None:
            terms = known.latest_terms * KJ_PER_MOL_PER_EV
        else:
            with torch.jit.optimized_execution(False):
                terms = self.module.energy_terms(*arguments)
        return dict(zip(self.term_names, terms.double().cpu().tolist()))

    def closest_bare(self, positions: np.ndarray, box: np.ndarray | None) -> float:
        """Least distance (nm) of an MM charge without Lennard-Jones; for electrostatic embedding only."""
        return float(self.module.closest_bare(*self._places(positions, box)))

    def _arguments(
        self, positions: np.ndarray, box: np.ndarray | None, parameters: Mapping[str, float] | None
    ) -> list[Tensor | None]:
        arguments = self._places(positions, box)
        if FIELD_TERM in self.term_names:
            if parameters is None:
                raise ValueError("the force takes an electric field: give `parameters`, those of the Context")
            values = [parameters[name] for name in FIELD_PARAMETERS]
            arguments.append(torch.tensor(values, dtype=torch.float64, device=self._device))
        return arguments

    def _places(self, positions: np.ndarray, box: np.ndarray | None) -> list[Tensor | None]:
        seen = positions if self._particles is None else positions[self._particles]
        cell = None
        if self.periodic and box is not None:
            cell = torch.tensor(box, dtype=torch.float64, device=self._device)
        return [torch.tensor(seen, dtype=torch.float64, device=self._device), cell]

    def _known(self, arguments: list[Tensor | None]) -> Any:
        """The running module, if it was last evaluated at these very positions."""
        if self.function is None:
            return None
        running = RUNNING.get(self.function.key)
        if running is None or running.evaluated is None:
            return None
        same = all(
            given is seen or (given is not None and seen is not None and torch.equal(given, seen.to(given)))
            for given, seen in zip(arguments, running.evaluated)
        )
        module = running.module()
        return module if same and module.latest_charges.numel() == len(self.atoms) else None


def _opened(force: openmm.Force) -> tuple[Any, PythonForceFunction | None, np.ndarray | None, bool] | None:
    """Module, function (route "python"), particles that the module sees (None = all), periodic."""
    if isinstance(force, openmm.PythonForce):
        function = _unpickled(force)
        if not isinstance(function, PythonForceFunction):
            return None
        chosen = list(force.getParticles()) if hasattr(force, "getParticles") else []
        return function.module(), function, np.array(chosen) if chosen else None, function.periodic
    try:
        openmmtorch = import_torchforce()
    except RouteError:
        return None
    if not openmmtorch.TorchForce.isinstance(force):
        return None
    torch_force = openmmtorch.TorchForce.cast(force)
    module = torch_force.getModule()
    if not hasattr(module, "term_names"):
        return None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return module.to(device), None, None, torch_force.usesPeriodicBoundaryConditions()


def _unpickled(force: openmm.Force) -> Any:
    """A copy of the function of a PythonForce, which OpenMM hands to Python in its XML only."""
    text = ElementTree.fromstring(openmm.XmlSerializer.serialize(force)).attrib["function"]
    return pickle.loads(bytes.fromhex(text))


__all__ = ["MLForceReader"]
