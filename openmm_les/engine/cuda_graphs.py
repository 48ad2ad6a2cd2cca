"""A model's force call as one CUDA graph: recorded once, replayed at every step.

A call is some eight hundred small kernels; to launch them one by one takes ten times as long as to run
them. The model reads its neighbours from rows of a fixed length in fixed memory; the search for them is
recorded too, where atoms are few, else it is as ever. All is recorded anew where a row or the mesh grows.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from openmm_les.engine.boundary import LAMBDA_INTERPOLATE
from openmm_les.engine.embedded import LAMBDA_ELECTROSTATICS
from openmm_les.engine.rows import SEARCHED, Rows
from openmm_les.graph import Graph
from openmm_les.neighbors import perpendicular_widths
from openmm_les.units import ANGSTROM_PER_NM

logger = logging.getLogger(__name__)

SWITCH = "OPENMM_LES_CUDA_GRAPHS"
"""Environment variable; "0" turns graphs off."""
_ROOM = 1.25
"""Length of rows over the most neighbours that an atom had when they were laid out."""
_WARM_CALLS = 3
_LATEST = ("latest_charges", "latest_dipoles", "latest_terms")
"""What a module leaves for reporters"""


class NotRecordedError(RuntimeError):
    """A device refused to record a model."""


class ReplayedForce:
    """Energy and forces of a scripted `PeriodicForce` or `IsolatedForce`, its model replayed.

    Off a GPU the model is called instead of replayed; everything else is the same.

    Parameters
    ----------
    module : scripted, on its device
    host : the same on the CPU, which sees to image charges meanwhile; None = ``module`` has none
    """

    def __init__(self, module: torch.jit.ScriptModule, host: torch.jit.ScriptModule | None = None) -> None:
        self._module = module
        self._host = host
        self._device = module.atoms.device
        self._rows: Rows | None = None
        self._search: Callable[[], Tensor] | None = None
        self._recorded = False
        self._box: Tensor | None = None
        # What recorded searches read, nm and Å
        self._places: Tensor | None = None
        self._cells = torch.zeros((2, 3, 3), dtype=torch.float64, device=self._device)
        self._narrowest = math.inf

    def __call__(
        self, positions: Tensor, box: Tensor | None, values: Mapping[str, float]
    ) -> tuple[float, Tensor]:
        """Energy in kJ/mol and forces ([n_particles, 3], kJ/mol/nm, on the CPU).

        Parameters
        ----------
        positions : [n_particles, 3], nm, double, on the CPU
        box : [3, 3], nm, double, on the CPU; None = isolated
        values : global parameters of the force by name; ``lambda_interpolate`` is not 0

        Raises
        ------
        RuntimeError
            Positions or the energy are not finite; with the module's own message.
        NotRecordedError
            The device refused to record the model.
        """
        if not bool(torch.isfinite(positions).all()):
            raise RuntimeError(self._module.bad_positions)
        if self._places is None or self._places.shape != positions.shape:
            self._places = torch.empty_like(positions, device=self._device)
            self._rows = None
        places = self._places.copy_(positions)
        cell = None if box is None else box.to(self._device)
        self._hold(box)
        while True:
            homeless = self._find(places, cell)
            assert self._rows is not None
            if not self._recorded:
                self._record(self._rows.graph)
                self._recorded = True
            energy, forces, closest = self._evaluate(places, cell, values)
            lone = [energy.view(1), homeless.view(1), closest.view(1)]
            found = torch.cat([*(each.to(torch.float64) for each in lone), forces.view(-1)])
            of_images = self._images(positions, box)
            # One copy, since each waits for the GPU.
            found = found.cpu()
            if float(found[1]) == 0.0:
                break
            self._rows = None
        value, forces = float(found[0]), found[3:].view(-1, 3)
        if of_images is not None:
            value += of_images[0]
            forces.index_add_(0, of_images[1], of_images[2])
        if not math.isfinite(value):
            raise RuntimeError(self._module.bad_energy)
        self._watch(float(found[2]))
        return value, forces

    def _find(self, places: Tensor, cell: Tensor | None) -> Tensor:
        """Bring atoms and their neighbours into the rows; how many pairs found no place, scalar."""
        cutoff = float(self._module.model.cutoff)
        searched = self._module.atoms.shape[0] <= SEARCHED and self._narrowest > 2.0 * cutoff
        if self._rows is not None and searched:
            if self._search is None:
                self._search = self._recording(partial(self._searched, self._rows, places, cutoff))
            return self._search()
        graph = self._module.graph_of(places, cell)
        if self._rows is None:
            self._lay_out(graph)
        assert self._rows is not None
        return self._rows.fill(graph)

    def _searched(self, rows: Rows, places: Tensor, cutoff: float) -> Tensor:
        """Of places in nm, what `Rows.search` does."""
        r = self._module.places(places)
        if self._box is None:
            return rows.search(self._module.centred(r, None, None)[0], None, None, cutoff)
        cell, inverse = self._cells[0], self._cells[1]
        return rows.search(self._module.centred(r, cell, inverse)[0], cell, inverse, cutoff)

    def _lay_out(self, graph: Graph) -> None:
        """Rows long enough for a graph and some more; what is recorded of others is void."""
        counts = torch.bincount(graph.centers, minlength=1)
        width = math.ceil(_ROOM * int(counts.max())) + 2
        logger.info("rows of %d pairs for %d atoms", width, graph.positions.shape[0])
        self._rows = Rows(graph, width)
        self._search = None
        self._recorded = False

    def _hold(self, box: Tensor | None) -> None:
        """Keep a box, and let the mesh keep its tables, where what is recorded finds them."""
        if box is None or (self._box is not None and torch.equal(box, self._box)):
            return
        cell = box * ANGSTROM_PER_NM
        self._cells.copy_(torch.stack((cell, torch.linalg.inv(cell))))
        self._narrowest = float(perpendicular_widths(cell).min())
        cell = cell.to(self._device, self._module.molecule_charges.dtype)
        if self._module.model.electrostatics.mesh.tables.hold(cell):
            self._recorded = False
        self._box = box.clone()

    def _record(self, graph: Graph) -> None:
        """Record the model on the graph of its rows."""
        self._replay = self._recording(lambda: self._module.energy_and_gradient(graph, None, None))
        self._latest = {name: getattr(self._module, name) for name in _LATEST}

    def _evaluate(
        self, places: Tensor, cell: Tensor | None, values: Mapping[str, float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Energy and forces of what is in the rows, and what `_watch` watches."""
        strength = values.get(LAMBDA_INTERPOLATE, 1.0)
        energy, gradient = self._replay()
        self._give_latest()
        energy, forces = self._module.assembled(places, strength * energy, strength * gradient.double())
        return energy, forces, energy

    def _images(self, positions: Tensor, box: Tensor | None) -> tuple[float, Tensor, Tensor] | None:
        """What image charges take off: energy, and forces on some atoms; while the GPU works."""
        if self._host is None or box is None:
            return None
        energy, gradient = self._host.images(positions, box)
        factor = self._host.energy_factor
        return -factor * float(energy), self._host.atoms, factor * self._host.length_factor * gradient

    def _watch(self, closest: float) -> None:
        """Warn of what an evaluation found; there is nothing."""

    def _give_latest(self) -> None:
        """Let the module show reporters what a replay left, which no call of its own did."""
        if self._device.type == "cuda":
            for name, tensor in self._latest.items():
                setattr(self._module, name, tensor)

    def _recording(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """What does again what a call does, and returns what it returned, in the same place."""
        tables = self._module.model.electrostatics.mesh.tables

        def run() -> Any:
            tables.held = True
            try:
                return call()
            finally:
                tables.held = False

        if self._device.type != "cuda":
            return run
        try:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_CALLS):
                    run()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                found = run()
        except RuntimeError as error:
            raise NotRecordedError(str(error).strip().splitlines()[-1]) from error

        def replay() -> Any:
            graph.replay()
            return found

        return replay


class ReplayedEmbedding(ReplayedForce):
    """The same of a `PeriodicEmbedded` or `IsolatedEmbedded`: charges, their coupling, the rest.

    What charges meet among the surroundings is worked out between two replays, because it is known only
    when they are.
    """

    def __call__(
        self, positions: Tensor, box: Tensor | None, values: Mapping[str, float]
    ) -> tuple[float, Tensor]:
        """As of `ReplayedForce`; also raises RuntimeError where the box is too narrow for the coupling."""
        if box is not None:
            narrowest = ANGSTROM_PER_NM * float(perpendicular_widths(box).min())
            if narrowest < 2.0 * self._module.coupling.cutoff:
                raise RuntimeError(self._module.narrow_box)
        return super().__call__(positions, box, values)

    def _record(self, graph: Graph) -> None:
        self._potential = torch.zeros_like(graph.positions[:, 0])
        self._charges = self._recording(lambda: self._module.charges_of(graph))
        self._replay = self._recording(lambda: self._module.energy_and_gradient(graph, None, self._potential))
        self._latest = {name: getattr(self._module, name) for name in _LATEST}

    def _evaluate(
        self, places: Tensor, cell: Tensor | None, values: Mapping[str, float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        scale = values.get(LAMBDA_INTERPOLATE, 1.0)
        strength = values.get(LAMBDA_ELECTROSTATICS, 1.0)
        met = self._module.meet(places, cell, self._charges())
        coupling, potential, gradient, mm_gradient, closest = met
        self._potential.copy_(strength * potential)
        energy, response = self._replay()
        self._give_latest()
        self._module.latest_terms = torch.cat([self._module.latest_terms, coupling.view(1)])
        energy, forces = self._module.joined(
            places,
            scale,
            energy + strength * coupling,
            response.double() + strength * gradient,
            strength * mm_gradient,
        )
        return energy, forces, closest

    def _watch(self, closest: float) -> None:
        self._module.guard(closest)


def can_replay(module: torch.jit.ScriptModule, device: torch.device) -> bool:
    """Whether a scripted `ForceBoundary` can be run by `ReplayedForce` on a device."""
    wanted = os.environ.get(SWITCH, "1") != "0"
    return wanted and device.type == "cuda" and bool(getattr(module, "replayable", False))


def replayed_force(
    module: torch.jit.ScriptModule, on_host: Callable[[], torch.jit.ScriptModule]
) -> ReplayedForce | None:
    """What replays a module, or None where that cannot be; ``on_host`` loads it on the CPU."""
    if not can_replay(module, module.atoms.device):
        return None
    if hasattr(module, "mm_atoms"):
        return ReplayedEmbedding(module)
    return ReplayedForce(module, on_host() if module.has_images else None)


__all__ = [
    "SWITCH",
    "NotRecordedError",
    "ReplayedEmbedding",
    "ReplayedForce",
    "can_replay",
    "replayed_force",
]
