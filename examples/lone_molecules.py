"""Many molecules in one system without a box, each as if alone.

They lie 60 Å apart, and a weak spring on its centre of mass keeps each at its place. Hydrogens are heavy, so
that steps can be longer: masses change how fast a molecule moves, not where it goes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import openmm
from ase import Atoms
from openmm import app

import openmm_les
from openmm_les.molecules import covalent_bonds

HYDROGEN_MASS = 6.0  # Da; nothing is taken from their neighbours
APART = 60.0  # Å
SPRING = 250.0  # kJ/mol/nm², on centres of mass: they stay within 1 Å or so


def places(count: int) -> np.ndarray:
    """The points of a cubic lattice nearest the origin, [count, 3] in Å."""
    side = math.ceil(count ** (1 / 3))
    axis = APART * (np.arange(side) - side // 2)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    return points[np.argsort((points**2).sum(1), kind="stable")[:count]]


def topology_of(molecules: list[Atoms]) -> app.Topology:
    """A residue for each molecule, with the bonds that the geometry shows."""
    topology = app.Topology()
    chain = topology.addChain()
    for molecule in molecules:
        residue = topology.addResidue("MOL", chain)
        elements = [app.Element.getByAtomicNumber(int(z)) for z in molecule.numbers]
        atoms = [topology.addAtom(f"{e.symbol}{i}", e, residue) for i, e in enumerate(elements)]
        for i, j in covalent_bonds(molecule.positions, molecule.numbers):
            topology.addBond(atoms[i], atoms[j])
    return topology


def system_of(
    molecules: list[Atoms], model: openmm_les.LESModel, charges: Sequence[float] | None = None
) -> tuple[openmm.System, np.ndarray]:
    """System of molecules that stay at their places, and their positions, [n, 3] in Å.

    ``charges`` (e) in the order of what is connected in ``molecules``; None = all neutral.
    """
    topology = topology_of(molecules)
    total = 0.0 if charges is None else list(charges)
    system = openmm_les.create_system(topology, model, total_charge=total, remove_cm_motion=False)
    for atom in topology.atoms():
        if atom.element.atomic_number == 1:
            system.setParticleMass(atom.index, HYDROGEN_MASS)
    spring = openmm.CustomCentroidBondForce(1, f"{0.5 * SPRING}*((x1-x)^2+(y1-y)^2+(z1-z)^2)")
    for axis in "xyz":
        spring.addPerBondParameter(axis)
    positions = []
    for residue, molecule, place in zip(topology.residues(), molecules, places(len(molecules))):
        spring.addGroup([atom.index for atom in residue.atoms()])
        spring.addBond([residue.index], (0.1 * place).tolist())
        positions.append(molecule.positions - molecule.positions.mean(0) + place)
    system.addForce(spring)
    return system, np.concatenate(positions)
