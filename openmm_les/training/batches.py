"""From configurations to batches of graphs: neighbours found once, batches of equal cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from openmm_les.exceptions import DataError
from openmm_les.graph import Graph
from openmm_les.molecules import BOND_REACH, connected_molecules, molecule_charges
from openmm_les.neighbors import all_pairs
from openmm_les.training.data import Configurations


class Batch(NamedTuple):
    """A graph of several configurations and their labels."""

    graph: Graph
    energy: Tensor
    """[n_configurations], eV, float64"""
    forces: Tensor
    """[n_atoms, 3], eV/Å"""
    stress: Tensor
    """[n_configurations, 3, 3], eV/Å³, NaN where there is no label"""
    dipole: Tensor
    """[n_configurations, 3], e·Å, NaN where there is no label"""
    born_charges: Tensor
    """[n_atoms, 3, 3], e, [atom, polarisation, displacement], NaN where there is no label"""
    polarizability: Tensor
    """[n_configurations, 3, 3], Å³, NaN where there is no label"""
    indices: Tensor
    """[n_configurations], int64, in the data set"""


class GraphData:
    """Configurations with neighbour pairs and molecules, ready to be put together.

    Parameters
    ----------
    configurations : checked data
    cutoff : Å
    dtype : of what the model sees; energies stay in float64
    progress : called with the number of configurations done so far

    Attributes
    ----------
    n_unresolved : configurations whose total charge could not be shared among their molecules;
        each is conserved as a whole
    widths : [n], most neighbours of an atom of each configuration
    """

    def __init__(
        self,
        configurations: Configurations,
        cutoff: float,
        *,
        dtype: torch.dtype = torch.float32,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.configurations = configurations
        self.dtype = dtype
        self.n_unresolved = 0
        self._known_molecules: dict[tuple[bytes, bytes, float], tuple[Tensor, Tensor, bool]] = {}
        self._reach = torch.from_numpy(BOND_REACH).to(dtype)
        c = configurations
        self.offsets = torch.from_numpy(c.offsets)
        self.numbers = torch.from_numpy(c.numbers)
        self.positions = torch.from_numpy(c.positions).to(dtype)
        self.forces = torch.from_numpy(c.forces).to(dtype)
        self.energy = torch.from_numpy(c.energy)
        self.stress = torch.from_numpy(c.stress).to(dtype)
        # Dipoles of periodic systems are defined up to a lattice of values, and their polarizabilities
        # are no property of a molecule: no labels.
        in_cell = torch.from_numpy((c.cell != 0.0).any((1, 2)))
        self.dipole = torch.from_numpy(c.dipole).to(dtype).masked_fill(in_cell.unsqueeze(1), torch.nan)
        polarizability = torch.from_numpy(c.polarizability).to(dtype)
        self.polarizability = polarizability.masked_fill(in_cell.view(-1, 1, 1), torch.nan)
        self.born_charges = torch.from_numpy(c.born_charges).to(dtype)
        self.cells = torch.from_numpy(c.cell).to(dtype)
        centers, neighbors, shifts, counts = [], [], [], []
        molecules, charges, n_molecules = [], [], []
        self.widths = np.zeros(len(c), dtype=np.int64)
        for i in range(len(c)):
            atoms = c.atoms_of(i)
            periodic = bool((c.cell[i] != 0.0).any())
            first, second, shift = all_pairs(
                self.positions[atoms], self.cells[i] if periodic else None, cutoff
            )
            # Atoms of one configuration count in thousands, cells apart in a few.
            centers.append(first.to(torch.int16))
            neighbors.append(second.to(torch.int16))
            shifts.append(shift.to(torch.int8))
            counts.append(first.numel())
            if first.numel():
                self.widths[i] = int(torch.bincount(first).max())
            of_molecule, charge = self._molecules(i, first, second, shift)
            molecules.append(of_molecule)
            charges.append(charge)
            n_molecules.append(len(charge))
            if progress is not None:
                progress(i + 1)
        self.centers, self.neighbors = torch.cat(centers), torch.cat(neighbors)
        self.shifts = torch.cat(shifts)
        self.pair_offsets = np.concatenate([[0], np.cumsum(counts)])
        self.molecules = torch.cat(molecules)
        self.molecule_charges = torch.cat(charges).to(dtype)
        self.molecule_offsets = np.concatenate([[0], np.cumsum(n_molecules)])

    def __len__(self) -> int:
        return len(self.configurations)

    def _molecules(self, index: int, first: Tensor, second: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Molecule of each atom and charge of each molecule of a configuration, as given or by its bonds."""
        c = self.configurations
        atoms = c.atoms_of(index)
        given = c.molecules[atoms]
        if not np.isnan(given).any():
            _, firsts, molecules = np.unique(given, return_index=True, return_inverse=True)
            return torch.from_numpy(molecules), torch.from_numpy(c.molecule_charges[atoms][firsts])
        numbers = c.numbers[atoms]
        positions = self.positions[atoms]
        vectors = positions[second] + shift @ self.cells[index] - positions[first]
        reach = self._reach[self.numbers[atoms]]
        bonded = torch.linalg.norm(vectors, dim=1) < reach[first] + reach[second]
        bonds = torch.stack([first, second], 1)[bonded & (first < second)].numpy()
        # Frames of one molecule mostly share their bonds.
        key = (numbers.tobytes(), bonds.tobytes(), float(c.total_charge[index]))
        if key not in self._known_molecules:
            molecules = connected_molecules(bonds, len(numbers))
            charges = np.array([c.total_charge[index]])
            resolved = True
            if molecules.max() > 0:
                try:
                    charges = molecule_charges(numbers, molecules, float(c.total_charge[index]), bonds)
                except ValueError:
                    molecules, resolved = np.zeros_like(molecules), False
            self._known_molecules[key] = torch.from_numpy(molecules), torch.from_numpy(charges), resolved
        of_atom, charges_of, resolved = self._known_molecules[key]
        self.n_unresolved += not resolved
        return of_atom, charges_of

    def batch(self, indices: np.ndarray) -> Batch:
        """The chosen configurations, concatenated."""
        begins, ends = self.offsets[indices], self.offsets[indices + 1]
        sizes = ends - begins
        atoms = _ranges(begins.numpy(), ends.numpy())
        pair_begins, pair_ends = self.pair_offsets[indices], self.pair_offsets[indices + 1]
        pairs = _ranges(pair_begins, pair_ends)
        first = torch.cumsum(sizes, 0) - sizes  # of each configuration in the batch
        pair_first = torch.repeat_interleave(first, torch.from_numpy(pair_ends - pair_begins))
        molecule_begins, molecule_ends = self.molecule_offsets[indices], self.molecule_offsets[indices + 1]
        n_molecules = torch.from_numpy(molecule_ends - molecule_begins)
        molecule_first = torch.cumsum(n_molecules, 0) - n_molecules
        chosen = torch.from_numpy(indices)
        graph = Graph(
            positions=self.positions[atoms],
            numbers=self.numbers[atoms],
            centers=self.centers[pairs].long() + pair_first,
            neighbors=self.neighbors[pairs].long() + pair_first,
            shifts=self.shifts[pairs].to(self.dtype),
            cells=self.cells[chosen],
            offsets=torch.cat([torch.zeros(1, dtype=torch.int64), torch.cumsum(sizes, 0)]),
            molecules=self.molecules[atoms] + torch.repeat_interleave(molecule_first, sizes),
            molecule_charges=self.molecule_charges[_ranges(molecule_begins, molecule_ends)],
        )
        return Batch(
            graph,
            self.energy[chosen],
            self.forces[atoms],
            self.stress[chosen],
            self.dipole[chosen],
            self.born_charges[atoms],
            self.polarizability[chosen],
            chosen,
        )


def _ranges(begins: np.ndarray, ends: np.ndarray) -> Tensor:
    """Whole numbers of several ranges, one after the other, int64."""
    return torch.from_numpy(np.concatenate([np.arange(b, e) for b, e in zip(begins, ends)]))


def _cut(order: np.ndarray, sizes: np.ndarray, n_atoms: int) -> list[np.ndarray]:
    """``order`` cut into runs of about ``n_atoms`` atoms each."""
    ends = np.cumsum(sizes[order])
    n_batches = max(1, round(float(ends[-1]) / n_atoms))
    # The middle of a configuration decides where it goes.
    batch = ((ends - 0.5 * sizes[order]) / ends[-1] * n_batches).astype(np.int64)
    return [order[batch == b] for b in range(n_batches) if (batch == b).any()]


def epoch_batches(
    sizes: np.ndarray, widths: np.ndarray, batch_atoms: int, rng: np.random.Generator, pool: int = 16
) -> list[np.ndarray]:
    """Every configuration once, in random batches of about ``batch_atoms`` atoms.

    Atoms of one batch share rows as long as the most neighbours any of them has. Configurations are
    therefore sorted by their most neighbours within pools of ``pool`` batches.
    """
    batches = []
    for chunk in _cut(rng.permutation(len(sizes)), sizes, pool * batch_atoms):
        batches += _cut(chunk[np.argsort(widths[chunk], kind="stable")], sizes, batch_atoms)
    return [batches[i] for i in rng.permutation(len(batches))]


class TrainingStream:
    """Endless training batches, a function of seed and step alone.

    A run that resumes at step n gets the batches an uninterrupted run would have got.

    Parameters
    ----------
    data : training data
    batch_atoms : atoms in a batch, about
    seed : of the order
    rank, world_size : which part of the batches this process takes
    shares : [n], above 0 and at most 1, the part of all passes over the data that each configuration
        joins, evenly spread; None = all of them

    Raises
    ------
    DataError
        A pass over the data has fewer batches than there are processes.
    """

    def __init__(
        self,
        data: GraphData,
        batch_atoms: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shares: np.ndarray | None = None,
    ) -> None:
        self.data = data
        self.batch_atoms = batch_atoms
        self.seed = seed
        self.rank, self.world_size = rank, world_size
        self.first_step = 0
        self._shares = np.ones(len(data)) if shares is None else shares
        self._phases = np.random.default_rng(seed).random(len(data))
        self.steps_per_epoch = len(self._epoch(0))

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        """Batches of this process in one pass over the data."""
        rng = np.random.default_rng([self.seed, epoch])
        turns = np.floor(self._shares * (epoch + 1) + self._phases) - np.floor(
            self._shares * epoch + self._phases
        )
        chosen = np.flatnonzero(turns)
        sizes, widths = self.data.configurations.sizes[chosen], self.data.widths[chosen]
        batches = [chosen[each] for each in epoch_batches(sizes, widths, self.batch_atoms, rng)]
        if len(batches) < self.world_size:
            raise DataError(
                f"a pass over the data has {len(batches)} batches for {self.world_size} processes: fewer "
                f"atoms in a batch than {self.batch_atoms} (`batch_atoms`) are wanted, or fewer processes"
            )
        whole = len(batches) // self.world_size * self.world_size
        return batches[self.rank : whole : self.world_size]

    def __iter__(self) -> Iterator[Batch]:
        step, epoch = 0, 0
        while True:
            batches = self._epoch(epoch)
            for indices in batches[max(0, self.first_step - step) :]:
                yield self.data.batch(indices)
            step += len(batches)
            epoch += 1


class Batches:
    """All configurations once, in an order that wastes little; for validation and testing."""

    def __init__(self, data: GraphData, batch_atoms: int = 400, rank: int = 0, world_size: int = 1) -> None:
        self.data = data
        order = np.argsort(data.widths, kind="stable")
        self.indices = _cut(order, data.configurations.sizes, batch_atoms)[rank::world_size]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Batch]:
        for indices in self.indices:
            yield self.data.batch(indices)


__all__ = ["Batch", "Batches", "GraphData", "TrainingStream", "epoch_batches"]
