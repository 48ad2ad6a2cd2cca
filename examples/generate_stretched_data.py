"""Labels molecules with one bond stretched, one atom displaced, or one proton shared, by GFN2-xTB.

    python examples/generate_stretched_data.py gfn2.h5 stretched.h5

Molecules at rest never visit such geometries, and a model that saw none of them has no wall there: a
hydrogen that goes a little far from its oxygen in a hot moment then falls into a hole of several eV. Each
configuration is a molecule or small cluster of the given file in which

- a hydrogen stands anywhere from 0.8 to 3.2 Å from its atom, or
- a hydrogen moves along its hydrogen bond, from its donor to the acceptor (whose molecule, if it is
  another, comes up to 2.3 Å first), or
- two parts of the molecule that one bond holds together stand 0.85 to 1.9 times as far apart, or
- a heavy atom stands 0.2 to 0.9 Å from its place, which strains rings, angles and multiple bonds.

Bonds are drawn by their surroundings, so that rare ones come almost as often as frequent ones. O-H of
carboxylic acids and S-H of thiols have a share of their own: without its proton an acid looks like its
anion, whose energy is lower by several eV. Molecules and their charges are those of before, and stand in
the file. ``--only`` takes one kind of surroundings, where a model is known to be weak.
Needs the extra `data`.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

import networkx
import numpy as np
from molecule_data import Molecule, as_arrays, data_parser, read_molecules, usable_labels, write_data
from scipy.spatial.distance import pdist

from openmm_les.molecules import connected_molecules, covalent_bonds, formal_charges

POLAR = (7, 8, 16)
ACCEPTORS = (7, 8, 9, 16, 17)
SHARES = {
    "acid hydrogen": 0.25,
    "polar hydrogen": 0.25,
    "shared proton": 0.25,
    "other hydrogen": 0.1,
    "two parts": 0.1,
    "one atom": 0.05,
}
"""Of the configurations, by what is changed."""
HYDROGEN = ((0.8, 1.9), (1.9, 3.2))  # Å, from its atom
FARTHER = 0.3  # of the hydrogens, in the second interval
HEAVY_FACTOR = (0.85, 1.9)  # of the bond's length
DISPLACEMENT = (0.2, 0.9)  # Å
DONOR_ACCEPTOR = (2.3, 3.1)  # Å
HYDROGEN_BOND = 2.6  # Å, from the hydrogen to its acceptor
CLOSEST = 0.75  # Å; configurations with closer atoms are dropped
TRIED = 20000  # molecules, at most, in which bonds are looked for


Item = TypeVar("Item")


class Change(NamedTuple):
    """What may be changed in a molecule."""

    molecule: Molecule
    atoms: tuple[int, ...]
    """Atom and hydrogen; donor, hydrogen and acceptor; two heavy atoms; one heavy atom"""


def surroundings(graph: networkx.Graph, numbers: np.ndarray, atom: int) -> str:
    """An atom's element, the number of its hydrogens, and its other neighbours with theirs."""

    def heavy(i: int) -> list[int]:
        return [j for j in graph[i] if numbers[j] != 1]

    shells = sorted(
        f"{numbers[j]}({','.join(sorted(str(numbers[k]) for k in heavy(j)))})" for j in heavy(atom)
    )
    hydrogens = len(graph[atom]) - len(heavy(atom))
    return f"{numbers[atom]}h{hydrogens}:{' '.join(shells)}"


def is_acid(graph: networkx.Graph, numbers: np.ndarray, atom: int) -> bool:
    """Whether an atom is the hydroxyl oxygen of a carboxylic acid."""
    carbons = [j for j in graph[atom] if numbers[j] == 6]
    others = [k for j in carbons for k in graph[j] if k != atom]
    return bool(numbers[atom] == 8 and any(numbers[k] == 8 and graph.degree[k] == 1 for k in others))


def changes_of(molecule: Molecule) -> dict[str, list[tuple[str, Change]]]:
    """By category, what may be changed in a molecule, each with its surroundings."""
    numbers, x = molecule.numbers, molecule.positions
    bonds = covalent_bonds(x, numbers)
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(numbers)))
    graph.add_edges_from(bonds.tolist())
    found: dict[str, list[tuple[str, Change]]] = defaultdict(list)
    for i, j in bonds.tolist():
        if (numbers[[i, j]] == 1).sum() == 1:
            atom, hydrogen = (i, j) if numbers[j] == 1 else (j, i)
            category = "polar hydrogen" if numbers[atom] in POLAR else "other hydrogen"
            if numbers[atom] == 16 or is_acid(graph, numbers, atom):
                category = "acid hydrogen"
            found[category].append((surroundings(graph, numbers, atom), Change(molecule, (atom, hydrogen))))
    for i, j in networkx.bridges(graph) if len(bonds) else ():
        if 1 not in numbers[[i, j]]:
            around = " ".join(sorted(surroundings(graph, numbers, k) for k in (i, j)))
            found["two parts"].append((around, Change(molecule, (i, j))))
    for donor, hydrogen, acceptor in hydrogen_bonds(numbers, x, bonds):
        around = f"{surroundings(graph, numbers, donor)} {numbers[acceptor]}"
        found["shared proton"].append((around, Change(molecule, (donor, hydrogen, acceptor))))
    for atom in np.flatnonzero(numbers > 1).tolist():
        found["one atom"].append((surroundings(graph, numbers, atom), Change(molecule, (atom,))))
    return found


class Kinds(Generic[Item]):
    """Items in categories with shares, of kinds that are drawn as often as the root of their number."""

    def __init__(self, shares: dict[str, float]) -> None:
        self._shares = shares
        self._kinds: dict[str, dict[str, list[Item]]] = {category: defaultdict(list) for category in shares}

    def add(self, category: str, kind: str, item: Item) -> None:
        """One more."""
        self._kinds[category][kind].append(item)

    def has(self, category: str) -> bool:
        """Whether a category has items."""
        return bool(self._kinds[category])

    def draw(self, rng: np.random.Generator) -> Item:
        """One item of any category."""
        categories = [category for category in self._shares if self.has(category)]
        if not categories:
            raise ValueError(f"the molecules have nothing to draw from: no {', no '.join(self._shares)}")
        shares = np.array([self._shares[category] for category in categories])
        return self.draw_from(categories[rng.choice(len(shares), p=shares / shares.sum())], rng)

    def draw_from(self, category: str, rng: np.random.Generator) -> Item:
        """One item of a category that has some."""
        lists = list(self._kinds[category].values())
        roots = np.sqrt([len(items) for items in lists])
        items = lists[rng.choice(len(lists), p=roots / roots.sum())]
        return items[rng.integers(len(items))]


def all_changes(
    molecules: list[Molecule], weights: np.ndarray, rng: np.random.Generator, only: str = ""
) -> Kinds[Change]:
    """What may be changed in some molecules, to be drawn by category and surroundings.

    ``only`` : where surroundings begin so
    """
    changes: Kinds[Change] = Kinds(SHARES)
    for index in rng.permutation(np.flatnonzero(weights > 0.0))[:TRIED].tolist():
        for category, found in changes_of(molecules[index]).items():
            for around, change in found:
                if around.startswith(only):
                    changes.add(category, around, change)
    return changes


def hydrogen_bonds(numbers: np.ndarray, positions: np.ndarray, bonds: np.ndarray) -> list[tuple[int, ...]]:
    """Donor, hydrogen and acceptor of each hydrogen bond."""
    found = []
    bonded = {frozenset(bond) for bond in bonds.tolist()}
    for i, j in bonds.tolist():
        donor, hydrogen = (i, j) if numbers[j] == 1 else (j, i)
        if numbers[hydrogen] != 1 or numbers[donor] not in POLAR:
            continue
        for acceptor in np.flatnonzero(np.isin(numbers, ACCEPTORS)):
            arms = positions[[donor, acceptor]] - positions[hydrogen]
            lengths = np.linalg.norm(arms, axis=1)
            near = lengths[1] < HYDROGEN_BOND and frozenset((hydrogen, int(acceptor))) not in bonded
            if acceptor != donor and near and arms[0] @ arms[1] < -0.5 * lengths.prod():
                found.append((donor, hydrogen, int(acceptor)))
    return found


def share_proton(
    x: np.ndarray, bond: tuple[int, ...], of_atom: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Positions with the hydrogen of a hydrogen bond somewhere between its two atoms."""
    donor, hydrogen, acceptor = bond
    x = x.copy()
    along = x[acceptor] - x[donor]
    distance = np.linalg.norm(along)
    along = along / distance
    if of_atom[donor] != of_atom[acceptor]:
        wanted = rng.uniform(*DONOR_ACCEPTOR)
        x[of_atom == of_atom[acceptor]] += (wanted - distance) * along
        distance = wanted
    x[hydrogen] = x[donor] + rng.uniform(0.85, max(0.9, distance - 0.85)) * along
    return x


def pull_hydrogen(x: np.ndarray, bond: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Positions with a hydrogen at another distance from its atom, a little off its bond."""
    atom, hydrogen = bond
    direction = x[hydrogen] - x[atom]
    direction = direction / np.linalg.norm(direction) + rng.normal(scale=0.15, size=3)
    distance = rng.uniform(*HYDROGEN[int(rng.random() < FARTHER)])
    x = x.copy()
    x[hydrogen] = x[atom] + distance * direction / np.linalg.norm(direction)
    return x


def pull_apart(
    x: np.ndarray, bond: tuple[int, ...], bonds: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Positions with two parts of a molecule, held by one bond of heavy atoms, at another distance."""
    i, j = bond
    graph = networkx.Graph(bonds.tolist())
    graph.remove_edge(i, j)
    part = list(networkx.node_connected_component(graph, j))
    x = x.copy()
    x[part] += (rng.uniform(*HEAVY_FACTOR) - 1.0) * (x[j] - x[i])
    return x


def displace(x: np.ndarray, atom: int, rng: np.random.Generator) -> np.ndarray:
    """Positions with one atom out of its place, in any direction."""
    direction = rng.normal(size=3)
    x = x.copy()
    x[atom] += rng.uniform(*DISPLACEMENT) * direction / np.linalg.norm(direction)
    return x


def changed(change: Change, rng: np.random.Generator) -> dict[str, np.ndarray] | None:
    """A molecule or cluster with one thing changed; None where atoms would fall onto each other."""
    numbers, x, atoms = change.molecule.numbers, change.molecule.positions, change.atoms
    bonds = covalent_bonds(x, numbers)
    charges = formal_charges(numbers, bonds)
    of_atom = connected_molecules(bonds, len(numbers))
    if len(atoms) == 3:
        x = share_proton(x, atoms, of_atom, rng)
    elif len(atoms) == 1:
        x = displace(x, atoms[0], rng)
    elif numbers[atoms[1]] == 1:
        x = pull_hydrogen(x, atoms, rng)
    else:
        x = pull_apart(x, atoms, bonds, rng)
    if pdist(x).min() < CLOSEST or charges.sum() != change.molecule.charge:  # NaN where unknown
        return None
    return {
        "atomic_numbers": numbers,
        "positions": x,
        "molecules": of_atom,
        "molecule_charges": charges[of_atom],
    }


def drawn(split: str, source: Path, groups: list[str], only: str) -> Kinds[Change]:
    """What may be changed in the molecules of a split of a file."""
    molecules, weights = read_molecules(source, split, groups)
    changes = all_changes(molecules, weights, np.random.default_rng(0), only)
    if not any(changes.has(category) for category in SHARES):
        raise SystemExit(f"{split} configurations of {source} have no surroundings that begin with {only!r}")
    return changes


class Drawable(Protocol):
    """Gives changes of molecules."""

    def draw(self, rng: np.random.Generator) -> Change:
        """One change."""


def configurations(changes: Drawable, *, count: int, seed: list[int]) -> dict[str, np.ndarray]:
    """``count`` labelled configurations of changed molecules, as arrays of the file's layout."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list] = defaultdict(list)
    while len(rows["energy"]) < count:
        change = changes.draw(rng)
        molecule = change.molecule
        found = changed(change, rng)
        if found is None:
            continue
        labels = usable_labels(found["atomic_numbers"], found["positions"], molecule.charge)
        if labels is None:
            continue
        for key, value in {**found, **labels}.items():
            rows[key].append(value)
        rows["total_charge"].append(molecule.charge)
        rows["name"].append(molecule.name)
    return as_arrays(rows)


def main() -> None:
    """Command line."""
    parser = data_parser(__doc__, count=6000, held_out=200)
    parser.add_argument(
        "--only",
        default="",
        metavar="SURROUNDINGS",
        help="as '8h1:6(6,8,8)': O with one H, bonded to a C that is bonded to C, O and O; or how it begins",
    )
    options = parser.parse_args()
    settings = {"groups": options.groups, "source": str(options.source), "only": options.only}
    draw = partial(drawn, source=options.source, groups=options.groups, only=options.only)
    write_data(parser, options, "stretched", settings, draw, configurations)


if __name__ == "__main__":
    main()
