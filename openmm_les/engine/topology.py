"""What a model must know of an OpenMM topology: elements, molecules, and their charges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from openmm import app

from openmm_les.exceptions import UnknownElementError
from openmm_les.molecules import check_bonds_complete, connected_molecules, molecule_charges


def atom_label(atom: app.topology.Atom) -> str:
    """Name, residue and index of an atom, as ``CA of ALA 2 (index 8)``."""
    return f"{atom.name} of {atom.residue.name} {atom.residue.id} (index {atom.index})"


def atomic_numbers(topology: app.Topology, atoms: Sequence[int] | None = None) -> list[int]:
    """Atomic numbers of the atoms with indices ``atoms``, in their order; None = all.

    Raises
    ------
    UnknownElementError
        An atom without an element: a virtual site, or a name that a reader did not understand.
    """
    every = list(topology.atoms())
    numbers = []
    for atom in every if atoms is None else [every[i] for i in atoms]:
        if atom.element is None:
            raise UnknownElementError(
                f"atom {atom_label(atom)} has no element; a virtual site or dummy cannot be an ML atom"
            )
        numbers.append(int(atom.element.atomic_number))
    return numbers


def bonds_among(bonds: Sequence[tuple[int, int]], atoms: Sequence[int]) -> list[tuple[int, int]]:
    """Those ``bonds`` whose two atoms are both in ``atoms``, renumbered to places in that list."""
    place = {atom: k for k, atom in enumerate(atoms)}
    return [(place[i], place[j]) for i, j in bonds if i in place and j in place]


def topology_bonds(topology: app.Topology) -> list[tuple[int, int]]:
    """Pairs of atom indices bonded in the topology."""
    return [(bond.atom1.index, bond.atom2.index) for bond in topology.bonds()]


def molecules_and_charges(
    topology: app.Topology,
    numbers: Sequence[int],
    total_charge: float | Sequence[float] = 0,
    molecules: Sequence[int] | None = None,
) -> tuple[list[int], list[float]]:
    """Molecules of a whole topology and the charge of each.

    Parameters
    ----------
    topology : its bonds make the molecules
    numbers : [n_atoms]
    total_charge : e, of all atoms (shared by valence rules), or one per molecule
    molecules : [n_atoms], index of each atom's molecule; None = by the topology's bonds

    Returns
    -------
    molecules : [n_atoms]
    charges : [n_molecules], e

    Raises
    ------
    ValueError
        Bonds are missing, or the charges do not say which molecule carries what.
    """
    bonds = np.array(topology_bonds(topology), dtype=np.int64).reshape(-1, 2)
    if molecules is None:
        found = connected_molecules(bonds, len(numbers))
        check_bonds_complete([atom_label(a) for a in topology.atoms()], numbers, found)
    else:
        found = np.asarray(molecules)
        if found.shape != (len(numbers),) or found.dtype.kind not in "iu" or found.min() < 0:
            raise ValueError(
                f"`molecules` must be {len(numbers)} indices from 0, "
                f"got shape {list(found.shape)} of {found.dtype}"
            )
    charges = molecule_charges(np.asarray(numbers), found, total_charge, bonds)
    return found.tolist(), charges.tolist()


__all__ = [
    "atom_label",
    "atomic_numbers",
    "bonds_among",
    "molecules_and_charges",
    "topology_bonds",
]
