"""A model's force call as one CUDA graph: recorded once, replayed at every step.

A call is some eight hundred small kernels; to launch them one by one takes ten times as long as to run
them. Neighbours are searched as ever; the model then reads them from rows of a fixed length in fixed
memory. It is recorded anew where a row or the mesh grows.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable

import torch
from torch import Tensor

from openmm_les.graph import Graph
from openmm_les.units import ANGSTROM_PER_NM

logger = logging.getLogger(__name__)

SWITCH = "OPENMM_LES_CUDA_GRAPHS"
"""Environment variable; "0" turns graphs off."""
_ROOM = 1.25
"""Length of rows over the most neighbours that an atom had when they were laid out."""
_WARM_CALLS = 3


def can_replay(module: torch.jit.ScriptModule, device: torch.device) -> bool:
    """Whether a scripted `ForceBoundary` can be run by `ReplayedForce` on a device."""
    wanted = os.environ.get(SWITCH, "1") != "0"
    return wanted and device.type == "cuda" and bool(getattr(module, "replayable", False))


class NotRecordedError(RuntimeError):
    """A device refused to record a model."""


class Rows:
    """Pairs of a graph in rows of one length, in memory that stays where it is.

    Parameters
    ----------
    graph : the first to hold
    width : pairs in a row
    """

    def __init__(self, graph: Graph, width: int) -> None:
        n, device = graph.positions.shape[0], graph.positions.device
        self.width = width
        self.positions = graph.positions.detach().clone().requires_grad_(True)
        self.cells = graph.cells.clone()
        self._length = n * width
        self._own = torch.arange(n, device=device).repeat_interleave(width)
        self._first = torch.arange(n, device=device)
        # One place more, for what finds none.
        self._neighbors = torch.zeros(self._length + 1, dtype=torch.int64, device=device)
        self._shifts = torch.zeros((self._length + 1, 3), dtype=self.positions.dtype, device=device)
        self._real = torch.zeros(self._length + 1, dtype=torch.bool, device=device)
        self.neighbors, self.shifts = self._neighbors[:-1], self._shifts[:-1]
        self.real = self._real[:-1].view(n, width)

    def fill(self, graph: Graph) -> Tensor:
        """Take up another graph of the same atoms; returns how many pairs found no place, scalar."""
        with torch.no_grad():
            self.positions.copy_(graph.positions)
            self.cells.copy_(graph.cells)
            n_pairs = graph.centers.shape[0]
            order = torch.arange(n_pairs, device=graph.centers.device)
            place = order - torch.searchsorted(graph.centers, self._first)[graph.centers]
            fits = place < self.width
            slots = torch.where(fits, graph.centers * self.width + place, self._length)
            self.neighbors.copy_(self._own)
            self._real.zero_()
            self._neighbors[slots] = graph.neighbors
            self._shifts[slots] = graph.shifts
            self._real[slots] = True
        return (~fits).sum()


class ReplayedForce:
    """Energy and forces of a scripted `PeriodicForce` or `IsolatedForce`, its model replayed.

    Off a GPU the model is called instead of replayed; everything else is the same.

    Parameters
    ----------
    module : scripted, on its device
    """

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        self._module = module
        self._rows: Rows | None = None
        self._replay: Callable[[], None] | None = None
        self._box: Tensor | None = None
        self._found: tuple[Tensor, Tensor] | None = None
        self._latest: dict[str, Tensor] = {}

    def suits(self, box: Tensor | None) -> bool:
        """Whether the model takes the mesh in this box ([3, 3], nm, on the CPU), or there is none."""
        if box is None or (self._box is not None and torch.equal(box, self._box)):
            return True
        cell = (box * ANGSTROM_PER_NM).to(self._module.molecule_charges.dtype)
        return bool(self._module.model.electrostatics.takes_mesh(len(self._module.numbers), cell))

    def __call__(self, positions: Tensor, box: Tensor | None, strength: float) -> tuple[float, Tensor]:
        """Energy in kJ/mol and forces ([n_particles, 3], kJ/mol/nm, on the CPU).

        Parameters
        ----------
        positions : [n_particles, 3], nm, double, on the CPU
        box : [3, 3], nm, double, on the CPU, one that `suits`; None = isolated
        strength : factor of the model's energy and forces, not 0

        Raises
        ------
        RuntimeError
            Positions or the energy are not finite; with the module's own message.
        NotRecordedError
            The device refused to record the model.
        """
        if not bool(torch.isfinite(positions).all()):
            raise RuntimeError(self._module.bad_positions)
        device = self._module.atoms.device
        places = positions.to(device)
        cell = None if box is None else box.to(device)
        graph = self._module.graph_of(places, cell)
        self._hold(box)
        while True:
            if self._rows is None:
                self._lay_out(graph)
            assert self._rows is not None
            homeless = self._rows.fill(graph)
            if self._replay is None:
                self._record(box is not None)
            assert self._replay is not None
            self._replay()
            assert self._found is not None
            energy, gradient = self._found
            energy, forces = self._module.assembled(
                places, cell, strength * energy, strength * gradient.to(torch.float64)
            )
            # One copy, since each waits for the GPU.
            numbers = torch.cat([energy.view(1), homeless.view(1).to(energy.dtype), forces.view(-1)]).cpu()
            if float(numbers[1]) == 0.0:
                break
            self._rows = None
        value = float(numbers[0])
        if not math.isfinite(value):
            raise RuntimeError(self._module.bad_energy)
        for name, tensor in self._latest.items():
            setattr(self._module, name, tensor)
        return value, numbers[2:].view(-1, 3)

    def _lay_out(self, graph: Graph) -> None:
        """Rows long enough for a graph and some more; what is recorded of others is void."""
        counts = torch.bincount(graph.centers, minlength=1)
        width = math.ceil(_ROOM * int(counts.max())) + 2
        logger.info("rows of %d pairs for %d atoms", width, graph.positions.shape[0])
        self._rows = Rows(graph, width)
        self._replay = None

    def _hold(self, box: Tensor | None) -> None:
        """Let the mesh keep the tables of a box where what is recorded finds them."""
        if box is None or (self._box is not None and torch.equal(box, self._box)):
            return
        cell = (box * ANGSTROM_PER_NM).to(self._module.atoms.device, self._module.molecule_charges.dtype)
        if self._module.model.electrostatics.mesh.tables.hold(cell):
            self._replay = None
        self._box = box.clone()

    def _record(self, periodic: bool) -> None:
        """Run the model in its rows, and on a GPU record what it does there."""
        rows = self._rows
        assert rows is not None
        arguments = (rows.positions, rows.neighbors, rows.shifts, rows.real, rows.cells, periodic)
        tables = self._module.model.electrostatics.mesh.tables

        def run() -> None:
            tables.held = periodic
            try:
                self._found = self._module.of_rows(*arguments)
            finally:
                tables.held = False

        if not rows.positions.is_cuda:
            self._replay = run
            return
        try:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_CALLS):
                    run()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                run()
        except RuntimeError as error:
            raise NotRecordedError(str(error).strip().splitlines()[-1]) from error
        self._replay = graph.replay
        names = ("latest_charges", "latest_dipoles", "latest_terms")
        self._latest = {name: getattr(self._module, name) for name in names}


__all__ = ["SWITCH", "NotRecordedError", "ReplayedForce", "Rows", "can_replay"]
