"""Bonds pulled far beyond where they are at rest: do the shipped models hold them as GFN2-xTB does?

    python examples/benchmarks/bond_walls.py

One atom moves along its bond, or two halves of a molecule apart, or a proton from its molecule to the next,
all else rigid; energies against the molecules at rest (apart, where they are two) stand beside
GFN2-xTB's. Writes ``results/bond_walls.json`` and a plot beside it. Needs the extra `data`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from contact_walls import Wall, bond, compare
from provenance import RESULTS, write_result

sys.path.insert(0, str(Path(__file__).parents[1]))
from generate_gfn2_data import peptide_atoms


def pulled(atoms: Atoms, fixed: int, part: list[int], last: float, marked: tuple[float, float]) -> Wall:
    """Atoms ``part``, the first of which is bonded to ``fixed``, at other distances from it."""
    along = bond(atoms, fixed, part[0])
    rest = np.linalg.norm(along)
    # From where a stiff bond already costs an eV.
    distances = np.round(np.arange(np.ceil(8.0 * rest) / 10.0, last + 0.05, 0.1), 1)
    geometries = []
    for distance in distances:
        moved = atoms.copy()
        moved.positions[part] += (distance / rest - 1.0) * along
        geometries.append(moved)
    return Wall(distances, geometries, [atoms], marked, np.zeros(len(atoms), dtype=int))


def neighbor(atoms: Atoms, index: int, number: int) -> int:
    """The atom of an element that is nearest to another atom."""
    others = np.flatnonzero(atoms.numbers == number)
    return int(others[atoms.get_distances(index, others).argmin()])


def shared_proton(donor: Atoms, oxygen: int, hydrogen: int, marked: tuple[float, float]) -> Wall:
    """A proton on its way to a water whose oxygen is 2.6 Å from its own, in line with its bond."""
    water = molecule("H2O")
    along = bond(donor, oxygen, hydrogen) / np.linalg.norm(bond(donor, oxygen, hydrogen))
    water.positions -= water.positions[0]
    water.rotate(bond(water, 0, 1) + bond(water, 0, 2), along, center=(0.0, 0.0, 0.0))
    water.positions += donor.positions[oxygen] + 2.6 * along
    both = donor + water
    wall = pulled(both, oxygen, [hydrogen], 1.7, marked)
    return wall._replace(zero=[donor, water], molecules=np.repeat([0, 1], [len(donor), 3]))


def walls() -> dict[str, Wall]:
    """Bonds of acids, alcohols, amides, thiols, and of water."""
    acid, water, thiol, amide = (
        molecule("CH3COOH"),
        molecule("H2O"),
        molecule("CH3SH"),
        peptide_atoms(""),
    )
    nitrogen = int(np.flatnonzero(amide.numbers == 7)[0])
    amide_hydrogen = neighbor(amide, nitrogen, 1)
    acid_hydrogens = np.flatnonzero(acid.numbers == 1)
    oxygens = np.flatnonzero(acid.numbers == 8)
    gaps = acid.get_all_distances()[np.ix_(oxygens, acid_hydrogens)]
    oxygen = int(oxygens[gaps.min(1).argmin()])
    proton = neighbor(acid, oxygen, 1)
    sulphur = int(np.flatnonzero(thiol.numbers == 16)[0])
    ethane = molecule("C2H6")
    second = [1, *(int(i) for i in np.flatnonzero(ethane.get_distances(1, range(8)) < 1.2) if i != 1)]
    return {
        "acetic acid O–H": pulled(acid, oxygen, [proton], 3.0, (1.4, 2.0)),
        "water O–H": pulled(water, 0, [1], 3.0, (1.4, 2.0)),
        "amide N–H": pulled(amide, nitrogen, [amide_hydrogen], 3.0, (1.4, 2.0)),
        "methanethiol S–H": pulled(thiol, sulphur, [neighbor(thiol, sulphur, 1)], 3.0, (1.8, 2.4)),
        "ethane C–C": pulled(ethane, 0, second, 3.0, (2.0, 2.6)),
        "acetic acid O–H···water": shared_proton(acid, oxygen, proton, (1.2, 1.5)),
        "water O–H···water": shared_proton(water, 0, 1, (1.2, 1.5)),
    }


def main() -> None:
    """All bonds."""
    found = compare(walls(), RESULTS / "bond_walls.png", "energy above rest")
    print(write_result("bond_walls", {"bonds": found}))


if __name__ == "__main__":
    main()
