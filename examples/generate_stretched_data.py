"""Labels molecules with one bond stretched, one atom displaced, or one proton shared, by GFN2-xTB.

    python examples/generate_stretched_data.py gfn2.h5 stretched.h5

Molecules at rest never visit such geometries, and a model that saw none of them has no wall there: a
hydrogen that goes a little far from its oxygen in a hot moment then falls into a hole of several eV. Each
configuration is a molecule or small cluster of the given file in which

- a hydrogen stands anywhere from 0.8 to 3.2 Å from its atom, or
- a hydrogen moves along its hydrogen bond, from its donor to the acceptor (a third of those that have
  hydrogen bonds; the acceptor's molecule, if it is another, comes up to 2.3 Å first), or
- two parts of the molecule that one bond holds together stand 0.85 to 1.9 times as far apart, or
- a heavy atom stands 0.2 to 0.9 Å from its place, which strains rings, angles and multiple bonds.

Molecules and their charges are those of before, and stand in the file. Needs the extra `data`.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from functools import partial
from pathlib import Path

import networkx
import numpy as np
from generate_probe_data import (
    LARGEST_FORCE,
    Molecule,
    as_arrays,
    label,
    read_molecules,
    write_data,
)
from scipy.spatial.distance import pdist

from openmm_les.molecules import connected_molecules, covalent_bonds, formal_charges

POLAR = (7, 8, 16)
ACCEPTORS = (7, 8, 9, 16, 17)
POLAR_SHARE = 4.0  # how much likelier a hydrogen of a polar atom is taken than one of carbon
SHARED = 0.35  # of the configurations with hydrogen bonds
PULLED_APART, DISPLACED = 0.25, 0.25  # of the others; in the rest a hydrogen is pulled
HYDROGEN = (0.8, 3.2)  # Å, from its atom
HEAVY_FACTOR = (0.85, 1.9)  # of the bond's length
DISPLACEMENT = (0.2, 0.9)  # Å
DONOR_ACCEPTOR = (2.3, 3.1)  # Å
HYDROGEN_BOND = 2.6  # Å, from the hydrogen to its acceptor
CLOSEST = 0.75  # Å; configurations with closer atoms are dropped


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


def pull_hydrogen(
    x: np.ndarray, numbers: np.ndarray, bonds: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Positions with one hydrogen at another distance from its atom, a little off its bond."""
    pairs = [(i, j) if numbers[j] == 1 else (j, i) for i, j in bonds.tolist() if 1 in numbers[[i, j]]]
    weights = np.array([POLAR_SHARE if numbers[i] in POLAR else 1.0 for i, _ in pairs])
    atom, hydrogen = pairs[rng.choice(len(pairs), p=weights / weights.sum())]
    direction = x[hydrogen] - x[atom]
    direction = direction / np.linalg.norm(direction) + rng.normal(scale=0.15, size=3)
    x = x.copy()
    x[hydrogen] = x[atom] + rng.uniform(*HYDROGEN) * direction / np.linalg.norm(direction)
    return x


def pull_apart(x: np.ndarray, numbers: np.ndarray, bonds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions with two parts of a molecule, held by one bond of heavy atoms, at another distance."""
    graph = networkx.Graph(bonds.tolist())
    bridges = [(i, j) for i, j in networkx.bridges(graph) if 1 not in numbers[[i, j]]]
    if not bridges:
        return pull_hydrogen(x, numbers, bonds, rng)
    i, j = bridges[rng.integers(len(bridges))]
    graph.remove_edge(i, j)
    part = list(networkx.node_connected_component(graph, j))
    x = x.copy()
    x[part] += (rng.uniform(*HEAVY_FACTOR) - 1.0) * (x[j] - x[i])
    return x


def displace(x: np.ndarray, numbers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions with one heavy atom out of its place, in any direction."""
    heavy = np.flatnonzero(numbers > 1)
    direction = rng.normal(size=3)
    x = x.copy()
    x[heavy[rng.integers(len(heavy))]] += rng.uniform(*DISPLACEMENT) * direction / np.linalg.norm(direction)
    return x


def distorted(molecule: Molecule, rng: np.random.Generator) -> dict[str, np.ndarray] | None:
    """A molecule or cluster with one bond changed; None where it has no bonds or is not understood."""
    numbers, x = molecule.numbers, molecule.positions
    bonds = covalent_bonds(x, numbers)
    charges = formal_charges(numbers, bonds)
    if not len(bonds) or 1 not in numbers or np.isnan(charges).any():
        return None
    of_atom = connected_molecules(bonds, len(numbers))
    shared = hydrogen_bonds(numbers, x, bonds)
    if shared and rng.random() < SHARED:
        x = share_proton(x, shared[rng.integers(len(shared))], of_atom, rng)
    else:
        drawn = rng.random()
        if drawn < PULLED_APART:
            x = pull_apart(x, numbers, bonds, rng)
        elif drawn < PULLED_APART + DISPLACED:
            x = displace(x, numbers, rng)
        else:
            x = pull_hydrogen(x, numbers, bonds, rng)
    if pdist(x).min() < CLOSEST:
        return None
    return {
        "atomic_numbers": numbers,
        "positions": x,
        "molecules": of_atom,
        "molecule_charges": charges[of_atom],
    }


def configurations(
    molecules: list[Molecule], weights: np.ndarray, *, count: int, seed: list[int]
) -> dict[str, np.ndarray]:
    """``count`` labelled configurations of the molecules of one split, as arrays of the file's layout."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list] = defaultdict(list)
    while len(rows["energy"]) < count:
        molecule = molecules[rng.choice(len(molecules), p=weights)]
        found = distorted(molecule, rng)
        if found is None:
            continue
        try:
            labels = label(found["atomic_numbers"], found["positions"], molecule.charge)
        except RuntimeError:  # no self-consistency
            continue
        if not np.abs(labels["forces"]).max() < LARGEST_FORCE:
            continue
        del labels["charges"]
        for key, value in {**found, **labels}.items():
            rows[key].append(value)
        rows["total_charge"].append(molecule.charge)
        rows["name"].append(molecule.name)
    return as_arrays(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, help="HDF5 file with the molecules")
    parser.add_argument("file", type=Path, help="HDF5 file to write; must not exist")
    parser.add_argument("--count", type=int, default=3000, help="configurations to train on")
    parser.add_argument("--held-out", type=int, default=200, help="to validate and to test on, each")
    parser.add_argument("--groups", nargs="+", default=[], help="groups of the source to take; default all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = {"groups": options.groups, "source": str(options.source)}
    draw = partial(read_molecules, options.source, groups=options.groups)
    write_data(parser, options, "stretched", settings, draw, configurations)


if __name__ == "__main__":
    main()
