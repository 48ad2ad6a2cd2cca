"""A model bound to the atoms of a topology: charges, energies and Born charges of many frames."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mdtraj
import numpy as np
import torch
from torch import Tensor

from openmm_les.analysis.trajectories import topology_bonds
from openmm_les.exceptions import UnknownElementError
from openmm_les.graph import Graph
from openmm_les.models.model import LESModel
from openmm_les.models.response import born_charges_of_moments, polarizability
from openmm_les.models.uniform_field import check_flow
from openmm_les.molecules import check_bonds_complete, connected_molecules, molecule_charges
from openmm_les.pairs import make_pairs

PRECISIONS = {"single": torch.float32, "double": torch.float64}


@dataclass(frozen=True)
class FrameEnergies:
    """The model's energy of frames, in its two parts."""

    short_range: np.ndarray
    """[n_frames], eV, reference energies of the elements included"""
    long_range: np.ndarray
    """[n_frames], eV"""


class ChargeModel:
    """Physical charges, and what follows from them, of the same atoms in many frames.

    Charges are `LESModel.physical_charges`: signed, scaled and conserved per molecule as the model's
    checkpoint says. A factor beyond that must be asked for by ``epsilon_infinity``.

    Parameters
    ----------
    model : trained or loaded model; copied
    numbers : [n_atoms], atomic numbers
    bonds : [n_bonds, 2], they make the molecules
    total_charge : e, of all atoms (shared by rules of valence) or one per molecule
    masses : [n_atoms], Da; None = standard ones
    epsilon_infinity : multiplies all charges by its square root. Charges that were learned from
        energies in a medium of electronic permittivity ε∞ are those of bare dipoles over √ε∞ (Zhong,
        Kim and Cheng, 2025); 1 leaves them as they are
    precision : "single" or "double"
    batch_atoms : atoms that go through the model together, about

    Raises
    ------
    UnknownElementError
        An element that the model was not trained on.
    ValueError
        Bonds are missing, or charges do not fit the molecules.
    """

    def __init__(
        self,
        model: LESModel,
        numbers: Sequence[int] | np.ndarray,
        bonds: np.ndarray,
        *,
        total_charge: float | Sequence[float] = 0.0,
        masses: np.ndarray | None = None,
        epsilon_infinity: float = 1.0,
        precision: str = "single",
        batch_atoms: int = 1000,
    ) -> None:
        from ase.data import atomic_masses

        if precision not in PRECISIONS:
            raise ValueError(f"`precision` must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        if not epsilon_infinity >= 1.0:
            raise ValueError(f"`epsilon_infinity` must be at least 1, got {epsilon_infinity}")
        self.dtype = PRECISIONS[precision]
        self.numbers = np.asarray(numbers, dtype=np.int64)
        model.check_elements(self.numbers)
        self.model = copy.deepcopy(model).to(self.dtype).requires_grad_(False).eval()
        self.bonds = np.asarray(bonds, dtype=np.int64).reshape(-1, 2)
        self.n_atoms = len(self.numbers)
        self.molecules = connected_molecules(self.bonds, self.n_atoms)
        """[n_atoms], index of each atom's molecule"""
        self.molecule_charges = molecule_charges(self.numbers, self.molecules, total_charge, self.bonds)
        """[n_molecules], e"""
        self.masses = atomic_masses[self.numbers] if masses is None else np.asarray(masses, dtype=np.float64)
        """[n_atoms], Da"""
        self.epsilon_infinity = float(epsilon_infinity)
        self.factor = float(np.sqrt(epsilon_infinity))
        self.batch_frames = max(1, batch_atoms // self.n_atoms)
        self.pairs = make_pairs(model.cutoff, self.n_atoms)

    @classmethod
    def from_topology(cls, model: LESModel, topology: mdtraj.Topology, **settings: object) -> ChargeModel:
        """A model bound to all atoms of an mdtraj topology; ``settings`` as of the class.

        Raises
        ------
        UnknownElementError
            An atom without an element: a virtual site, or a name that a reader did not understand.
        ValueError
            An atom that never stands alone has no bond.
        """
        numbers = []
        for atom in topology.atoms:
            if atom.element is None or atom.element.atomic_number < 1:
                raise UnknownElementError(
                    f"atom {atom} (index {atom.index}) has no element: leave virtual sites out by "
                    "a selection (`select`, --select)"
                )
            numbers.append(atom.element.atomic_number)
        bonds = topology_bonds(topology)
        labels = [f"{atom} (index {atom.index})" for atom in topology.atoms]
        check_bonds_complete(labels, numbers, connected_molecules(bonds, len(numbers)))
        return cls(model, numbers, bonds, **settings)  # type: ignore[arg-type]

    @property
    def total_charge(self) -> float:
        """Charge of all atoms, e, without √ε∞."""
        return float(self.molecule_charges.sum())

    @property
    def ions(self) -> int:
        """Molecules with a charge of their own."""
        return int((np.abs(self.molecule_charges) > 1e-6).sum())

    def check_dipole(self) -> None:
        """Raise ValueError where atoms in a cell have no dipole: charge flows between molecules."""
        check_flow(self.model, len(self.molecule_charges))

    def charges(self, positions: np.ndarray, cells: np.ndarray | None = None) -> np.ndarray:
        """Physical charges, [n_frames, n_atoms] in e.

        Parameters
        ----------
        positions : [n_frames, n_atoms, 3], Å
        cells : [n_frames, 3, 3], Å, or None = isolated
        """
        return self.moments(positions, cells)[0]

    def moments(
        self, positions: np.ndarray, cells: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Physical charges, as `charges`, and dipoles of single atoms, [n_frames, n_atoms, 3] in e·Å."""
        charges, dipoles = [], []
        with torch.no_grad():
            for graph in self.graphs(positions, cells):
                q, u = self._moments(graph)
                charges.append(q.double().numpy().reshape(-1, self.n_atoms))
                dipoles.append(u.double().numpy().reshape(-1, self.n_atoms, 3))
        return np.concatenate(charges), np.concatenate(dipoles)

    def energies(self, positions: np.ndarray, cells: np.ndarray | None = None) -> FrameEnergies:
        """Energies of frames in their two parts; arguments as in `charges`."""
        short, long = [], []
        with torch.no_grad():
            for graph in self.graphs(positions, cells):
                prediction = self.model(graph, differentiable=False)
                short.append(prediction.energy_short_range.double().numpy())
                long.append(prediction.energy_long_range.double().numpy())
        return FrameEnergies(np.concatenate(short), np.concatenate(long))

    def born_charges(self, positions: np.ndarray, cells: np.ndarray | None = None) -> np.ndarray:
        r"""Born effective charges, [n_frames, n_atoms, 3, 3] in e.

        ``Z[a, i, α, β]`` = ∂M_α/∂r_iβ = q_i δ_αβ + Σ_j (r_jα − c_α) ∂q_j/∂r_iβ, with the charges'
        response. Every molecule keeps its charge, so that its own reference c drops out, and with
        molecules in one piece the dipole has one branch only: the same formula serves isolated and
        periodic systems. Σ_i Z_i = Q·1 (acoustic sum rule).

        Parameters
        ----------
        positions : [n_frames, n_atoms, 3], Å, every molecule in one piece
        cells : [n_frames, 3, 3], Å, or None = isolated

        Notes
        -----
        Force of a uniform field E on atom i: F_iβ = Σ_α E_α Z_iαβ.

        Raises
        ------
        ValueError
            In a cell, a model that lets charge flow between molecules.
        """
        if cells is not None:
            self.check_dipole()
        found = []
        for graph in self.graphs(positions, cells):
            with torch.enable_grad():
                graph = graph._replace(positions=graph.positions.requires_grad_(True))
                charges, dipoles = self._moments(graph)
                # Molecules are whole already: without cells nobody looks for their images.
                whole = graph._replace(cells=torch.zeros_like(graph.cells))
                born = born_charges_of_moments(charges, dipoles, whole).double().numpy()  # [b·n, 3, 3]
            found.append(born.reshape(-1, self.n_atoms, 3, 3))
        return np.concatenate(found)

    def polarizabilities(self, positions: np.ndarray) -> np.ndarray:
        """Polarizabilities of isolated frames, [n_frames, 3, 3] in Å³; `models.response.polarizability`.

        ``positions`` [n_frames, n_atoms, 3] in Å. Without the factor √ε∞: it is of the model itself.
        Raises ValueError where the model does not respond to a field.
        """
        with torch.no_grad():
            found = [polarizability(self.model, graph) for graph in self.graphs(positions, None)]
        return torch.cat(found).double().numpy()

    def _moments(self, graph: Graph) -> tuple[Tensor, Tensor]:
        charges, dipoles = self.model.moments(graph)
        return self.factor * charges, self.factor * dipoles

    def graphs(self, positions: np.ndarray, cells: np.ndarray | None) -> Iterator[Graph]:
        """Graphs of successive frames, ``batch_frames`` at a time."""
        if positions.ndim != 3 or positions.shape[1:] != (self.n_atoms, 3):
            raise ValueError(
                f"`positions` must have shape [n_frames, {self.n_atoms}, 3], got {list(positions.shape)}"
            )
        if cells is not None and cells.shape != (len(positions), 3, 3):
            raise ValueError(f"`cells` must have shape [{len(positions)}, 3, 3], got {list(cells.shape)}")
        for first in range(0, len(positions), self.batch_frames):
            frames = slice(first, first + self.batch_frames)
            yield self._graph(positions[frames], None if cells is None else cells[frames])

    def _graph(self, positions: np.ndarray, cells: np.ndarray | None) -> Graph:
        n_frames, n = len(positions), self.n_atoms
        # About their centre in double before they become single: molecules drift far out.
        places = torch.from_numpy(positions - positions.mean(1, keepdims=True))
        boxes = torch.zeros((n_frames, 3, 3), dtype=torch.float64)
        if cells is not None:
            boxes = torch.from_numpy(np.ascontiguousarray(cells))
        parts = []
        for frame in range(n_frames):
            centers, neighbors, shifts = self.pairs(places[frame], None if cells is None else boxes[frame])
            parts.append((centers + frame * n, neighbors + frame * n, shifts))
        n_molecules = len(self.molecule_charges)
        steps = torch.arange(n_frames).repeat_interleave(n) * n_molecules
        return Graph(
            positions=places.reshape(-1, 3).to(self.dtype),
            numbers=torch.from_numpy(self.numbers).repeat(n_frames),
            centers=torch.cat([part[0] for part in parts]),
            neighbors=torch.cat([part[1] for part in parts]),
            shifts=torch.cat([part[2] for part in parts]).to(self.dtype),
            cells=boxes.to(self.dtype),
            offsets=torch.arange(n_frames + 1) * n,
            molecules=torch.from_numpy(self.molecules).repeat(n_frames) + steps,
            molecule_charges=torch.from_numpy(self.molecule_charges).repeat(n_frames).to(self.dtype),
        )


def sum_rule_violation(born: np.ndarray, total_charge: float) -> np.ndarray:
    """Largest component of Σ_i Z_i − Q·1 of each frame, [n_frames] in e.

    ``born`` [n_frames, n_atoms, 3, 3] in e, ``total_charge`` in e.
    """
    return np.abs(born.sum(1) - total_charge * np.eye(3)).max((1, 2))


__all__ = ["ChargeModel", "FrameEnergies", "sum_rule_violation"]
