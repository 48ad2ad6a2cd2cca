"""Molecules of a system and the charges they carry, from geometry or from bonds.

Latent charges are conserved molecule by molecule, so that every molecule's charge must be known.
A topology with force-field charges tells it exactly. Where only elements and positions are known,
bonds follow from covalent radii and formal charges from the valences: unsaturated neighbours are
paired to multiple bonds, and what stays unpaired is charge.
"""

from __future__ import annotations

from typing import Optional, Sequence, Union

import networkx
import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from openmm_les.elements import covalent_radii, symbol

_BOND_FACTOR = 1.3  # of the summed covalent radii; leaves room for vibrations at a few hundred K
_VALENCES = {1: 1, 5: 3, 6: 4, 7: 3, 8: 2, 9: 1, 14: 4, 15: 3, 16: 2, 17: 1, 34: 2, 35: 1, 53: 1}
# Alkali and alkaline earth metals are ions of their own: their distances to the oxygens that solvate
# them are within any factor of covalent radii.
_IONIC_METALS = [3, 11, 12, 19, 20, 37, 38, 55, 56]
BOND_REACH = _BOND_FACTOR * np.array(covalent_radii)
"""Å by atomic number: two atoms are bonded where they are closer than the sum of theirs"""
BOND_REACH[_IONIC_METALS] = 0.0
# Charges of ions that occur as single atoms in solution.
_ION_CHARGES = {
    3: 1, 11: 1, 19: 1, 37: 1, 55: 1, 47: 1, 4: 2, 12: 2, 20: 2, 38: 2, 56: 2, 25: 2, 27: 2, 28: 2,
    30: 2, 48: 2, 9: -1, 17: -1, 35: -1, 53: -1, 2: 0, 10: 0, 18: 0, 36: 0, 54: 0,
}  # fmt: skip
# Elements of which a lone, unbonded atom is an everyday thing: noble gases, and ions of metals
# and halogens. A lone atom of another element means that the topology lacks its bonds.
_BONDED_ALWAYS = {1, 5, 6, 7, 8, 14, 15, 16, 34}


def covalent_bonds(
    positions: np.ndarray, numbers: np.ndarray, cell: Optional[np.ndarray] = None
) -> np.ndarray:
    """Pairs of atoms closer than 1.3 times their summed covalent radii, [n_bonds, 2], i < j.

    Alkali and alkaline earth metals have no bonds.
    ``positions`` [n_atoms, 3] in Å, ``numbers`` [n_atoms], ``cell`` [3, 3] in Å or None.
    """
    atoms = Atoms(numbers=numbers, positions=positions, cell=cell, pbc=cell is not None)
    first, second = neighbor_list("ij", atoms, BOND_REACH[atoms.numbers])
    pairs = np.stack([first, second], 1)[first < second]
    return np.unique(pairs, axis=0).reshape(-1, 2)


def connected_molecules(bonds: np.ndarray, n_atoms: int) -> np.ndarray:
    """Index of each atom's molecule, [n_atoms] int64, from ``bonds`` [n_bonds, 2]."""
    bonds = np.asarray(bonds, dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(bonds)), (bonds[:, 0], bonds[:, 1])), shape=(n_atoms, n_atoms))
    _, labels = connected_components(graph, directed=False)
    return labels.astype(np.int64)


def spanning_bonds(bonds: np.ndarray, n_atoms: int) -> np.ndarray:
    """Bonds that span every molecule, [n, 2] int32, from an atom reached before to a new one.

    In this order molecules can be put together bond by bond, whatever the order of their atoms.
    """
    molecules = connected_molecules(bonds, n_atoms)
    roots = np.unique(molecules, return_index=True)[1]
    # One more node, joined to an atom of each molecule, so that a single search reaches all.
    starts = np.stack([np.full(len(roots), n_atoms), roots], 1)
    edges = np.concatenate([bonds.reshape(-1, 2), starts])
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(n_atoms + 1, n_atoms + 1))
    order, parents = breadth_first_order(graph.tocsr(), n_atoms, directed=False)
    children = order[1:]
    tree = np.stack([parents[children], children], 1)
    return np.ascontiguousarray(tree[tree[:, 0] != n_atoms], dtype=np.int32)


def whole_images(tree: np.ndarray, positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Numbers of cell vectors to add to atoms so that molecules are whole, [n_atoms, 3].

    Parameters
    ----------
    tree : of `spanning_bonds`
    positions, cell : [n_atoms, 3] and [3, 3], rows are vectors, in one unit
    """
    images = np.zeros_like(positions)
    inverse = np.linalg.inv(cell)
    for known, new in tree:
        images[new] = images[known] - np.round((positions[new] - positions[known]) @ inverse)
    return images


def bonded_molecules(
    positions: np.ndarray, numbers: np.ndarray, cell: Optional[np.ndarray] = None
) -> np.ndarray:
    """Index of each atom's molecule, [n_atoms] int64, bonds taken from covalent radii.

    Arguments as in `covalent_bonds`.
    """
    return connected_molecules(covalent_bonds(positions, numbers, cell), len(numbers))


def check_bonds_complete(labels: Sequence[str], numbers: Sequence[int], molecules: np.ndarray) -> None:
    """Raise ValueError where an atom that never goes unbonded stands alone.

    Charges are conserved per molecule: with bonds missing, every atom would be a molecule of its
    own and be held at charge 0.

    Parameters
    ----------
    labels : [n_atoms], for the message
    numbers : [n_atoms]
    molecules : [n_atoms]
    """
    sizes = np.bincount(molecules)
    for label, number, molecule in zip(labels, numbers, molecules):
        if number in _BONDED_ALWAYS and sizes[molecule] == 1:
            raise ValueError(
                f"the topology has no bond to {label}, a {symbol(number)} atom. Molecules cannot be told "
                "apart without bonds: add them (CONECT records, topology.createStandardBonds(), "
                "topology.addBond) or pass `molecules`"
            )


def formal_charges(numbers: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """Formal charge of every molecule by its valences, [n_molecules] float64.

    Molecules are the connected components of ``bonds`` [n_bonds, 2] in the order of
    `connected_molecules`. All hydrogens must be there. NaN where the rules say nothing: metals in
    molecules, radicals, carbanions, carbocations without a neighbouring lone pair.
    """
    numbers = np.asarray(numbers)
    bonds = np.asarray(bonds, dtype=np.int64).reshape(-1, 2)
    molecules = connected_molecules(bonds, len(numbers))
    # CHARMM bonds the hydrogens of its waters to each other, to keep them rigid.
    degrees = np.bincount(bonds.ravel(), minlength=len(numbers))
    rigid = (numbers[bonds] == 1).all(1) & (degrees[bonds] > 1).any(1)
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(numbers)))
    graph.add_edges_from(bonds[~rigid].tolist())
    charges = np.zeros(molecules.max() + 1 if len(numbers) else 0)
    open_valences = {}
    for atom in graph:
        number, degree = int(numbers[atom]), graph.degree[atom]
        if degree == 0:
            charges[molecules[atom]] += _ION_CHARGES.get(number, np.nan)
            continue
        open_valences[atom], charge = _open_valence(graph, numbers, atom)
        charges[molecules[atom]] += charge
    unsaturated = graph.subgraph([a for a, n in open_valences.items() if n > 0])
    for component in networkx.connected_components(unsaturated):
        charges[molecules[next(iter(component))]] += _unpaired_charge(
            graph, numbers, component, open_valences
        )
    return charges


def _open_valence(graph: networkx.Graph, numbers: np.ndarray, atom: int) -> tuple[int, float]:
    """Valences beyond the single bonds of an atom, and the charge its bond count implies."""
    number, degree = int(numbers[atom]), graph.degree[atom]
    terminal_oxygens = sum(numbers[n] == 8 and graph.degree[n] == 1 for n in graph[atom])
    valence = _VALENCES.get(number)
    if valence is None:
        return 0, np.nan
    terminal_nitrogens = sum(numbers[n] == 7 and graph.degree[n] == 1 for n in graph[atom])
    if number == 7 and ((degree == 3 and terminal_oxygens) or (degree == 2 and terminal_nitrogens)):
        valence = 5  # nitro, nitrate, N-oxide, azide written without charges
    if number == 16 and (degree > 2 or terminal_oxygens == 2):
        valence = 6 if degree >= 4 else (4 if terminal_oxygens else 2)
    if number == 15 and degree >= 4:
        valence = 5 if terminal_oxygens or degree == 5 else 3
    if number == 17 and degree > 1:
        valence = 7
    excess = degree - valence
    if excess <= 0:
        return -excess, 0.0
    # Ammonium, oxonium, sulfonium, phosphonium; anything else with too many bonds is not ours.
    return 0, 1.0 if excess == 1 and number in (7, 8, 15, 16) else np.nan


def _unpaired_charge(
    graph: networkx.Graph, numbers: np.ndarray, component: set, open_valences: dict
) -> float:
    """Charge of what is left when a connected unsaturated part pairs up into multiple bonds."""
    copies = networkx.Graph()
    for atom in component:
        copies.add_nodes_from((atom, k) for k in range(open_valences[atom]))
    for first, second in graph.subgraph(component).edges:
        # Carbon is paired before the others: a lone pair belongs on the electronegative atom.
        weight = 10 + int(numbers[first] == 6) + int(numbers[second] == 6)
        for k in range(open_valences[first]):
            for m in range(open_valences[second]):
                copies.add_edge((first, k), (second, m), weight=weight)
    paired = {node for pair in networkx.max_weight_matching(copies, maxcardinality=True) for node in pair}
    charge = 0.0
    for atom, _ in set(copies) - paired:
        if numbers[atom] in (7, 8, 16, 34):
            charge -= 1.0
        elif numbers[atom] == 6 and any(numbers[n] in (7, 8) and open_valences[n] == 0 for n in graph[atom]):
            charge += 1.0  # iminium, guanidinium, imidazolium: a lone pair next door takes it
        else:
            return np.nan
    return charge


def molecule_charges(
    numbers: np.ndarray,
    molecules: np.ndarray,
    total_charge: Union[float, Sequence[float]],
    bonds: np.ndarray,
) -> np.ndarray:
    """Charges of molecules that add up to a known total, [n_molecules] float64, e.

    Parameters
    ----------
    numbers : [n_atoms]
    molecules : [n_atoms], index of each atom's molecule
    total_charge : e, of the whole system, or one per molecule ([n_molecules], returned as given)
    bonds : [n_bonds, 2], read only where several molecules share a total

    Raises
    ------
    ValueError
        The total does not say which molecule carries what: a molecule's valences are not
        understood, or the formal charges do not add up to the total.
    """
    molecules = np.asarray(molecules)
    n_molecules = int(molecules.max()) + 1
    given = np.atleast_1d(np.asarray(total_charge, dtype=np.float64))
    if given.shape == (n_molecules,):
        return given
    if given.shape != (1,):
        raise ValueError(
            f"`total_charge` must be one number or one per molecule ([{n_molecules}]), "
            f"got shape {list(given.shape)}"
        )
    parts = formal_charges(numbers, bonds)
    of_part = connected_molecules(bonds, len(numbers))
    # A molecule may hold several bonded components (a complex kept together by the caller).
    charges = np.zeros(n_molecules)
    for part, first_atom in enumerate(np.unique(of_part, return_index=True)[1]):
        charges[molecules[first_atom]] += parts[part]
    unknown = np.flatnonzero(np.isnan(charges))
    if len(unknown) == 1:
        charges[unknown] = given[0] - np.nansum(charges)
    elif len(unknown) > 1 or abs(charges.sum() - given[0]) > 1e-6:
        carriers = [
            f"molecule {m} ({_formula(numbers[molecules == m])}): {charges[m]:+g}"
            for m in np.flatnonzero(np.isnan(charges) | (charges != 0.0))[:5]
        ]
        together = "" if len(unknown) else f", {charges.sum():+g} together"
        raise ValueError(
            f"`total_charge` {given[0]:+g} cannot be shared among {n_molecules} molecules; their "
            f"valences suggest {', '.join(carriers) or 'neutral molecules'}{together}. "
            "Give their total, or one charge per molecule."
        )
    return charges


def _formula(numbers: np.ndarray) -> str:
    """Sum formula in the order of atomic numbers, as H2O."""
    values, counts = np.unique(numbers, return_counts=True)
    return "".join(f"{symbol(int(z))}{n if n > 1 else ''}" for z, n in zip(values, counts))
