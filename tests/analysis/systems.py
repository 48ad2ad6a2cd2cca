"""Topologies and trajectories of a few small molecules, for the tests of analysis."""

from __future__ import annotations

import mdtraj
import numpy as np

from openmm_les.analysis.charges import ChargeModel
from openmm_les.models.model import LESModel
from tests.builders import FORMAMIDE, FORMAMIDE_NUMBERS, WATER, WATER_NUMBERS, random_rotation, small_model

MOLECULES = {
    "HOH": (WATER, WATER_NUMBERS, [(0, 1), (0, 2)]),
    "FOR": (FORMAMIDE, FORMAMIDE_NUMBERS, [(0, 1), (0, 2), (0, 3), (2, 4), (2, 5)]),
    "CL": (np.zeros((1, 3)), [17], []),
}
BOX = np.array([[9.0, 0.0, 0.0], [2.0, 9.5, 0.0], [-1.5, 2.0, 10.0]])


def topology_of(names: list[str]) -> mdtraj.Topology:
    """Topology of molecules by the names of `MOLECULES`."""
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for name in names:
        _, numbers, bonds = MOLECULES[name]
        residue = topology.add_residue(name, chain)
        atoms = [
            topology.add_atom(f"{mdtraj.element.Element.getByAtomicNumber(z).symbol}{k}",
                              mdtraj.element.Element.getByAtomicNumber(z), residue)
            for k, z in enumerate(numbers)
        ]  # fmt: skip
        for i, j in bonds:
            topology.add_bond(atoms[i], atoms[j])
    return topology


def places_of(names: list[str], spacing: float = 3.2, seed: int = 0) -> np.ndarray:
    """Positions in Å, [n_atoms, 3]: molecules in a row of ``spacing``, turned at random."""
    parts = []
    for k, name in enumerate(names):
        turn = random_rotation(seed + k).numpy()
        parts.append(MOLECULES[name][0] @ turn + np.array([spacing * k, 0.3 * k, -0.2 * k]))
    return np.concatenate(parts)


def jittered(places: np.ndarray, n_frames: int, size: float = 0.05, seed: int = 1) -> np.ndarray:
    """Positions of frames around ``places``, [n_frames, n_atoms, 3]."""
    return places + size * np.random.default_rng(seed).normal(size=(n_frames, *places.shape))


def trajectory_of(
    topology: mdtraj.Topology, positions: np.ndarray, cell: np.ndarray | None = None, spacing: float = 0.002
) -> mdtraj.Trajectory:
    """Trajectory from positions [n_frames, n_atoms, 3] and a constant cell [3, 3], both in Å."""
    trajectory = mdtraj.Trajectory(positions / 10.0, topology, time=spacing * np.arange(len(positions)))
    if cell is not None:
        trajectory.unitcell_vectors = np.repeat(cell[None] / 10.0, len(positions), axis=0)
    return trajectory


def wrapped(positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Every atom moved into the cell on its own, molecules torn apart."""
    fractions = positions @ np.linalg.inv(cell)
    return (fractions - np.floor(fractions)) @ cell


def bound_model(names: list[str], model: LESModel | None = None, **settings) -> ChargeModel:
    """An untrained model in double, bound to the molecules."""
    les_model = small_model(cutoff=4.0) if model is None else model
    arguments = {"precision": "double", **settings}
    return ChargeModel.from_topology(les_model, topology_of(names), **arguments)
