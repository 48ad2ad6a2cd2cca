"""Labels protons on their way from one molecule to another, by GFN2-xTB.

    python examples/generate_shared_protons.py gfn2.h5 shared.h5

Hydrogen bonds of acids are rare in data of molecules at rest, and a model that saw few of them lets their
protons go to the next water. Here an acceptor is placed at the end of a polar X-H bond of a molecule of the
given file, most often of a carboxylic acid, with its lone pair towards the hydrogen: a water, an anion, or
any small molecule of the file that has a lone pair. Then the proton stands anywhere between the two, 2.3 to
3.1 Å apart. Molecules and their charges are those of before, and stand in the file.
Needs the extra `data`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import networkx
import numpy as np
from generate_probe_data import LARGEST_PROBE
from generate_stretched_data import ACCEPTORS, TRIED, Change, Kinds, changes_of, configurations, surroundings
from molecule_data import Molecule, data_parser, read_molecules, write_data
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from openmm_les.molecules import connected_molecules, covalent_bonds

DONORS = {"acid hydrogen": 0.7, "polar hydrogen": 0.3}  # shares
ACCEPTING = {"water": 0.4, "anion": 0.15, "other": 0.45}  # shares
MOST_NEIGHBORS = dict(zip(ACCEPTORS, (3, 2, 1, 2, 1)))  # of an atom that has a lone pair
MET = 3.4  # Å, from donor to acceptor as they are placed
SPREAD = 0.4  # of the acceptor's direction
CLOSEST = 1.8  # Å, between other atoms of the two as they are placed
TRIALS = 20  # turns about the bond


def acceptors_of(molecule: Molecule) -> list[tuple[str, int]]:
    """Surroundings and index of each atom with a lone pair, where a molecule is small and one."""
    numbers = molecule.numbers
    bonds = covalent_bonds(molecule.positions, numbers)
    if len(numbers) > LARGEST_PROBE or connected_molecules(bonds, len(numbers)).any():
        return []
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(numbers)))
    graph.add_edges_from(bonds.tolist())
    return [
        (surroundings(graph, numbers, i), i)
        for i in np.flatnonzero(np.isin(numbers, ACCEPTORS)).tolist()
        if graph.degree[i] <= MOST_NEIGHBORS[int(numbers[i])]
    ]


class Meetings:
    """Donors and acceptors of some molecules."""

    def __init__(self, molecules: list[Molecule], weights: np.ndarray, rng: np.random.Generator) -> None:
        self.donors: Kinds[Change] = Kinds(DONORS)
        self._acceptors: Kinds[tuple[Molecule, int]] = Kinds(ACCEPTING)
        for index in rng.permutation(np.flatnonzero(weights > 0.0))[:TRIED].tolist():
            molecule = molecules[index]
            for category, found in changes_of(molecule).items():
                for around, change in found if category in DONORS else ():
                    self.donors.add(category, around, change)
            water = sorted(molecule.numbers.tolist()) == [1, 1, 8]
            category = "water" if water else "anion" if molecule.charge < 0.0 else "other"
            for around, atom in acceptors_of(molecule):
                self._acceptors.add(category, around, (molecule, atom))

    def draw(self, rng: np.random.Generator) -> Change:
        """A proton between two molecules that have just met."""
        while True:
            met = meet(self.donors.draw(rng), *self._acceptors.draw(rng), rng)
            if met is not None:
                return met


def meet(donor: Change, acceptor: Molecule, atom: int, rng: np.random.Generator) -> Change | None:
    """Two molecules, the lone pair of one towards the hydrogen of the other; None where others collide."""
    first, (heavy, hydrogen) = donor.molecule, donor.atoms
    along = first.positions[hydrogen] - first.positions[heavy]
    along = along / np.linalg.norm(along)
    second = acceptor.positions - acceptor.positions[atom]
    bonds = covalent_bonds(acceptor.positions, acceptor.numbers)
    neighbors = bonds[(bonds == atom).any(1)].sum(1) - atom
    outwards = SPREAD * rng.normal(size=3)
    if len(neighbors):
        arms = second[neighbors]
        outwards -= (arms / np.linalg.norm(arms, axis=1, keepdims=True)).mean(0)
    facing, _ = Rotation.align_vectors(-along, outwards)
    others = np.ones((len(first.numbers), len(second)), dtype=bool)
    others[[heavy, hydrogen], atom] = False
    n_bonds = len(bonds) + len(covalent_bonds(first.positions, first.numbers))
    for angle in rng.uniform(0.0, 2.0 * np.pi, TRIALS):
        turned = (Rotation.from_rotvec(angle * along) * facing).apply(second)
        placed = turned + first.positions[heavy] + MET * along
        both = Molecule(
            np.concatenate([first.numbers, acceptor.numbers]),
            np.concatenate([first.positions, placed]),
            first.charge + acceptor.charge,
            f"{first.name}+{acceptor.name}",
        )
        clear = (cdist(first.positions, placed)[others] > CLOSEST).all()
        if clear and len(covalent_bonds(both.positions, both.numbers)) == n_bonds:
            return Change(both, (heavy, hydrogen, len(first.numbers) + atom))
    return None


def drawn(split: str, source: Path, groups: list[str]) -> Meetings:
    """Donors and acceptors of a split of a file."""
    molecules, weights = read_molecules(source, split, groups)
    return Meetings(molecules, weights, np.random.default_rng(0))


def main() -> None:
    """Command line."""
    parser = data_parser(__doc__, count=4000, held_out=200)
    options = parser.parse_args()
    settings = {"groups": options.groups, "source": str(options.source), "kind": "shared protons"}
    draw = partial(drawn, source=options.source, groups=options.groups)
    write_data(parser, options, "shared_protons", settings, draw, configurations)


if __name__ == "__main__":
    main()
