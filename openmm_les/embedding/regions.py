"""The ML region of a mixed system: which atoms, which molecules, which charges; all checks."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import openmm
from openmm import app, unit

from openmm_les.engine.topology import (
    atom_label,
    atomic_numbers,
    bonds_among,
    topology_bonds,
)
from openmm_les.exceptions import EmbeddingError
from openmm_les.models.model import LESModel
from openmm_les.molecules import check_bonds_complete, connected_molecules, molecule_charges

# Force fields round charges to a few digits; molecules then miss a whole number by 1e-3 or so.
_CHARGE_TOLERANCE = 0.05


@dataclass(frozen=True)
class Region:
    """ML atoms of a mixed system, checked against its topology and its force field."""

    atoms: list[int]
    """[n_ml], particle indices, ascending"""
    numbers: list[int]
    """[n_ml], atomic numbers"""
    bonds: list[tuple[int, int]]
    """Particle indices of the covalent bonds inside the region"""
    molecules: list[int]
    """[n_ml], index of each ML atom's molecule"""
    molecule_charges: list[float]
    """[n_molecules], e"""


def find_region(
    topology: app.Topology,
    mm_system: openmm.System,
    ml_atoms: Iterable[int],
    model: LESModel,
    total_charge: float | Sequence[float] | None = None,
) -> Region:
    """The ML region of a system, with everything checked that can be checked without positions.

    Parameters
    ----------
    topology : of all particles of ``mm_system``
    mm_system : the force field's system
    ml_atoms : particle indices
    model : whose elements must cover the region
    total_charge : e, of the region, or one per molecule; None = by the force field's charges

    Raises
    ------
    EmbeddingError
        A region that cannot be embedded: empty, with duplicates, through a covalent bond or a
        constraint, with a virtual site, with charges that do not fit.
    TypeError
        ``ml_atoms`` are not whole numbers.
    ValueError
        Neither the topology nor the force field has bonds of an ML atom that needs them.
    UnknownElementError
        An element that the model does not know.
    """
    if topology.getNumAtoms() != mm_system.getNumParticles():
        raise EmbeddingError(
            f"`topology` has {topology.getNumAtoms()} atoms and `mm_system` "
            f"{mm_system.getNumParticles()} particles; they must describe the same system"
        )
    atoms = check_atoms(ml_atoms, mm_system.getNumParticles())
    _check_virtual_sites(topology, mm_system, atoms)
    numbers = atomic_numbers(topology, atoms)
    model.check_elements(numbers)
    bonds = _bonds_of(topology, mm_system, atoms)
    _check_cut_bonds(topology, [*bonds, *bond_terms(mm_system)], atoms)
    _check_constraints(topology, mm_system, atoms)
    inner = np.array(bonds_among(bonds, atoms), dtype=np.int64).reshape(-1, 2)
    molecules = connected_molecules(inner, len(atoms))
    every = list(topology.atoms())
    check_bonds_complete([atom_label(every[i]) for i in atoms], numbers, molecules)
    charges = _molecule_charges(topology, mm_system, atoms, numbers, molecules, inner, total_charge)
    pairs = [(atoms[i], atoms[j]) for i, j in inner.tolist()]
    return Region(atoms, numbers, pairs, molecules.tolist(), charges)


def check_atoms(ml_atoms: Iterable[int], n_particles: int) -> list[int]:
    """Ascending particle indices; raises as `find_region` where they cannot be a region."""
    if isinstance(ml_atoms, str) or not isinstance(ml_atoms, Iterable):
        raise TypeError(f"`ml_atoms` must be particle indices, got {ml_atoms!r}")
    given = list(ml_atoms)  # a generator would be empty the second time
    if any(isinstance(i, (bool, np.bool_)) for i in given):
        raise TypeError("`ml_atoms` must be particle indices, got a mask; use numpy.flatnonzero(mask)")
    try:
        atoms = sorted(operator.index(i) for i in given)
    except TypeError as error:
        raise TypeError(f"`ml_atoms` must be whole numbers: {error}") from error
    if not atoms:
        raise EmbeddingError("`ml_atoms` is empty: there is no ML region")
    if atoms[0] < 0 or atoms[-1] >= n_particles:
        wrong = atoms[0] if atoms[0] < 0 else atoms[-1]
        raise EmbeddingError(f"`ml_atoms` holds {wrong}, the particles are 0 to {n_particles - 1}")
    twice = sorted({i for i, j in pairwise(atoms) if i == j})
    if twice:
        raise EmbeddingError(f"`ml_atoms` holds duplicates: {', '.join(map(str, twice[:5]))}")
    return atoms


def _check_virtual_sites(topology: app.Topology, system: openmm.System, atoms: list[int]) -> None:
    chosen = set(atoms)
    labels = None
    for i in range(system.getNumParticles()):
        if not system.isVirtualSite(i):
            continue
        site = system.getVirtualSite(i)
        parents = {site.getParticle(k) for k in range(site.getNumParticles())}
        if i in chosen or parents & chosen:
            labels = [atom_label(atom) for atom in topology.atoms()]
            raise EmbeddingError(
                f"{labels[i]} is a virtual site of the ML region; a model needs atoms only. Keep this "
                "molecule in the MM part, or use a force field without such sites for it"
            )


def _bonds_of(topology: app.Topology, system: openmm.System, atoms: list[int]) -> list[tuple[int, int]]:
    """Covalent bonds: the topology's; where it leaves an ML atom alone, the force field's."""
    bonds = topology_bonds(topology)
    bonded = {i for bond in bonds for i in bond}
    alone = set(atoms) - bonded
    if alone:
        pairs = [tuple(system.getConstraintParameters(k)[:2]) for k in range(system.getNumConstraints())]
        bonds += [pair for pair in (*pairs, *bond_terms(system)) if alone & set(pair)]
    return bonds


def bond_terms(system: openmm.System) -> list[tuple[int, int]]:
    """Pairs of particles that a harmonic bond of a force field holds, each ascending."""
    pairs = []
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            pairs += [force.getBondParameters(k)[:2] for k in range(force.getNumBonds())]
    return [(min(pair), max(pair)) for pair in pairs]


def _check_cut_bonds(topology: app.Topology, bonds: list[tuple[int, int]], atoms: list[int]) -> None:
    chosen = set(atoms)
    cut = [(i, j) if i in chosen else (j, i) for i, j in bonds if (i in chosen) != (j in chosen)]
    if cut:
        labels = [atom_label(atom) for atom in topology.atoms()]
        cut = list(dict.fromkeys(cut))
        shown = "; ".join(f"{labels[i]} - {labels[j]}" for i, j in cut[:3])
        more = f" and {len(cut) - 3} more" if len(cut) > 3 else ""
        raise EmbeddingError(
            f"the ML region cuts covalent bonds (ML - MM): {shown}{more}. Choose whole molecules; link "
            "atoms are not supported"
        )


def _check_constraints(topology: app.Topology, system: openmm.System, atoms: list[int]) -> None:
    chosen = set(atoms)
    for k in range(system.getNumConstraints()):
        i, j = system.getConstraintParameters(k)[:2]
        if (i in chosen) != (j in chosen):
            labels = [atom_label(atom) for atom in topology.atoms()]
            raise EmbeddingError(
                f"a constraint holds {labels[i]} and {labels[j]} together, one of them ML, the other MM. "
                "Choose whole molecules"
            )


def _molecule_charges(
    topology: app.Topology,
    system: openmm.System,
    atoms: list[int],
    numbers: list[int],
    molecules: np.ndarray,
    bonds: np.ndarray,
    total_charge: float | Sequence[float] | None,
) -> list[float]:
    """Charge of each molecule of the region, [n_molecules], checked against the force field's."""
    given = None if total_charge is None else np.atleast_1d(np.asarray(total_charge, dtype=np.float64))
    nonbonded = [f for f in system.getForces() if isinstance(f, openmm.NonbondedForce)]
    if not nonbonded:
        wanted = 0.0 if total_charge is None else total_charge
        return molecule_charges(np.asarray(numbers), molecules, wanted, bonds).tolist()
    n_molecules = int(molecules.max()) + 1
    if given is not None and given.shape not in {(1,), (n_molecules,)}:
        raise EmbeddingError(
            f"`total_charge` must be one number or one per molecule of the region ([{n_molecules}]), "
            f"got shape {list(given.shape)}"
        )
    sums = np.zeros(n_molecules)
    for atom, molecule in zip(atoms, molecules):
        for force in nonbonded:
            charge = force.getParticleParameters(atom)[0].value_in_unit(unit.elementary_charge)
            sums[molecule] += charge
    whole = np.round(sums) + 0.0  # not -0
    odd = np.flatnonzero(np.abs(sums - whole) > _CHARGE_TOLERANCE)
    if len(odd) and (given is None or len(given) != n_molecules):
        first = list(topology.atoms())[atoms[int(np.flatnonzero(molecules == odd[0])[0])]]
        raise EmbeddingError(
            f"the force field's charges of the ML molecule with {atom_label(first)} sum to "
            f"{sums[odd[0]]:+.3f} e, which is no whole number; give `total_charge` per molecule"
        )
    if given is None:
        return whole.tolist()
    if len(given) == n_molecules:
        wrong = np.flatnonzero((np.abs(given - whole) > 0.5) & (np.abs(sums - whole) <= _CHARGE_TOLERANCE))
        if len(wrong):
            raise EmbeddingError(
                f"`total_charge` {given[wrong[0]]:+g} of molecule {wrong[0]} of the ML region contradicts "
                f"the force field's charges, which sum to {whole[wrong[0]]:+g}"
            )
        return given.tolist()
    if abs(given[0] - whole.sum()) > 1e-6:
        raise EmbeddingError(
            f"`total_charge` {given[0]:+g} contradicts the force field's charges of the ML region, which "
            f"sum to {whole.sum():+g}"
        )
    return whole.tolist()


__all__ = ["Region", "bond_terms", "check_atoms", "find_region"]
