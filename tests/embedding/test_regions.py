from __future__ import annotations

import numpy as np
import openmm
import pytest
from openmm import app, unit

from openmm_les.embedding.electrostatic import nonbonded_force, nonbonded_parameters
from openmm_les.embedding.regions import check_atoms, find_region
from openmm_les.exceptions import EmbeddingError, UnknownElementError
from tests.embedding.conftest import create_mm_system
from tests.engine.builders import (
    FORMAMIDE_RESIDUE,
    KJ,
    WATER_RESIDUE,
    forces_of,
    make_context,
    quiet_model,
    topology_of,
)


def small_system(topology, charges, bonds=()):
    """Particles with charges, and harmonic bonds; nothing else."""
    system = openmm.System()
    nonbonded, harmonic = openmm.NonbondedForce(), openmm.HarmonicBondForce()
    for atom, charge in zip(topology.atoms(), charges, strict=True):
        system.addParticle(1.0 if atom.element is None else atom.element.mass)
        nonbonded.addParticle(charge, 0.3, 0.1)
    for i, j in bonds:
        harmonic.addBond(i, j, 0.1, 1e5)
    system.addForce(nonbonded)
    system.addForce(harmonic)
    return system


def test_the_region_of_a_peptide_and_ions(solvated, model):
    chosen = solvated.atoms_of("NA", "CL") + solvated.atoms_of("HOH", count=2) + solvated.peptide
    region = find_region(solvated.topology, solvated.mm_system, np.array(chosen), model)
    assert region.atoms == sorted(chosen)
    elements = {atom.index: atom.element.atomic_number for atom in solvated.topology.atoms()}
    assert region.numbers == [elements[i] for i in region.atoms]
    assert len(region.bonds) == 21 + 2 * 2
    by_molecule = {}
    for atom, molecule in zip(region.atoms, region.molecules):
        by_molecule.setdefault(molecule, []).append(elements[atom])
    found = sorted((len(z), region.molecule_charges[m]) for m, z in by_molecule.items())
    assert found == [(1, -1.0), (1, 1.0), (3, 0.0), (3, 0.0), (22, 0.0)]


@pytest.mark.parametrize(
    "atoms, error, message",
    [
        ([], EmbeddingError, "`ml_atoms` is empty"),
        (iter([]), EmbeddingError, "`ml_atoms` is empty"),
        ([1, 2, 2, 3], EmbeddingError, "`ml_atoms` holds duplicates: 2"),
        ([0, 10], EmbeddingError, "`ml_atoms` holds 10, the particles are 0 to 9"),
        ([-1, 3], EmbeddingError, "`ml_atoms` holds -1"),
        ([0.5], TypeError, "`ml_atoms` must be whole numbers"),
        ([True, False], TypeError, "got a mask"),
        (np.array([True, False]), TypeError, "got a mask"),
        ("protein", TypeError, "must be particle indices, got 'protein'"),
        (3, TypeError, "must be particle indices, got 3"),
    ],
)
def test_indices_that_are_none(atoms, error, message):
    with pytest.raises(error, match=message):
        check_atoms(atoms, 10)


def test_indices_of_every_kind_are_taken():
    for atoms in ([3, 1], (1, 3), {3, 1}, range(1, 4, 2), iter([1, 3]), np.array([3, 1], dtype=np.int32)):
        assert check_atoms(atoms, 4) == [1, 3]


def test_a_cut_bond_is_named(solvated, model):
    side_chain = [
        atom.index
        for atom in solvated.topology.atoms()
        if atom.residue.name == "ALA" and atom.name in ("CB", "HB1", "HB2", "HB3")
    ]
    with pytest.raises(EmbeddingError, match=r"cuts covalent bonds.*CB of ALA 2 \(index \d+\) - CA of ALA 2"):
        find_region(solvated.topology, solvated.mm_system, side_chain, model)
    with pytest.raises(EmbeddingError, match=r"; .* and \d+ more"):
        heavy = [a.index for a in solvated.topology.atoms() if a.residue.name == "ALA" and a.name[0] != "H"]
        find_region(solvated.topology, solvated.mm_system, heavy, model)


def test_a_bond_of_the_force_field_over_the_border_is_refused(model):
    """A topology may lack the link that the force field has."""
    topology = app.Topology()
    chain = topology.addChain()
    for name in ("A", "B"):
        residue = topology.addResidue(name, chain)
        atoms = [topology.addAtom(s, app.Element.getBySymbol(s), residue) for s in ("O", "H")]
        topology.addBond(*atoms)
    system = small_system(topology, [-0.4, 0.4, -0.4, 0.4], bonds=[(0, 1), (0, 2), (2, 3)])
    with pytest.raises(EmbeddingError, match="cuts covalent bonds"):
        find_region(topology, system, [0, 1], model)


def test_a_constraint_over_the_border_is_refused(solvated, model):
    system = openmm.XmlSerializer.clone(solvated.mm_system)
    system.addConstraint(solvated.peptide[0], solvated.atoms_of("HOH", count=1)[0], 0.3)
    with pytest.raises(EmbeddingError, match=r"a constraint holds .* of ACE .* and O of HOH .* together"):
        find_region(solvated.topology, system, solvated.peptide, model)


def test_topology_and_system_must_match(solvated, model):
    with pytest.raises(EmbeddingError, match="must describe the same system"):
        find_region(topology_of([WATER_RESIDUE]), solvated.mm_system, [0, 1, 2], model)


def test_elements_the_model_does_not_know():
    topology = topology_of([("FE", [26], [])])
    with pytest.raises(UnknownElementError, match="does not know Fe"):
        find_region(topology, small_system(topology, [2.0]), [0], quiet_model())


@pytest.mark.parametrize("count, name", [(4, "M"), (3, "M")])
def test_virtual_sites_are_refused_in_the_region_and_on_it(model, count, name):
    topology = topology_of([WATER_RESIDUE])
    modeller = app.Modeller(topology, np.eye(3) * 0.1 * unit.nanometer)
    forcefield = app.ForceField("amber14/tip4pew.xml")
    modeller.addExtraParticles(forcefield)
    system = forcefield.createSystem(modeller.topology)
    with pytest.raises(EmbeddingError, match=rf"{name} of HOH 1 \(index 3\) is a virtual site"):
        find_region(modeller.topology, system, range(count), model)


def test_bonds_of_the_force_field_stand_in_for_missing_ones(model):
    name, numbers, bonds = FORMAMIDE_RESIDUE
    topology = topology_of([(name, numbers, [])])
    region = find_region(topology, small_system(topology, [0.0] * 6, bonds), range(6), model)
    assert region.molecules == [0] * 6
    assert sorted(region.bonds) == sorted(bonds)
    with pytest.raises(EmbeddingError, match="cuts covalent bonds"):
        find_region(topology, small_system(topology, [0.0] * 6, bonds), range(5), model)
    with pytest.raises(ValueError, match="the topology has no bond to C0 of FOR 1"):
        find_region(topology, small_system(topology, [0.0] * 6), range(6), model)


class TestCharges:
    """One formamide and one water, whose charges a force field gives as whole numbers or not."""

    topology = topology_of([FORMAMIDE_RESIDUE, WATER_RESIDUE])

    def charges_of(self, total_charge, mm=(0.0, 0.0)):
        charges = [mm[0], 0, 0, 0, 0, 0, mm[1], 0, 0]
        system = small_system(self.topology, charges)
        return find_region(self.topology, system, range(9), quiet_model(), total_charge).molecule_charges

    def test_of_the_force_field_rounded(self):
        assert self.charges_of(None, (0.9996, -1.003)) == [1.0, -1.0]

    def test_given_as_a_total_that_fits(self):
        assert self.charges_of(0, (1.0, -1.0)) == [1.0, -1.0]

    def test_given_per_molecule_where_the_force_field_has_none(self):
        assert self.charges_of([-1, 0], (-0.75, 0.0)) == [-1.0, 0.0]

    def test_a_total_that_does_not_fit(self):
        with pytest.raises(EmbeddingError, match=r"`total_charge` \+1 contradicts.*which sum to \+0"):
            self.charges_of(1)

    def test_one_that_contradicts_the_force_field(self):
        with pytest.raises(EmbeddingError, match=r"`total_charge` \+1 of molecule 1 .* sum to \+0"):
            self.charges_of([0, 1])

    def test_no_whole_number(self):
        with pytest.raises(EmbeddingError, match=r"C0 of FOR 1 \(index 0\) sum to \+0.310 e, which is no"):
            self.charges_of(None, (0.31, 0.0))

    def test_of_a_wrong_shape(self):
        with pytest.raises(EmbeddingError, match=r"one number or one per molecule of the region \(\[2\]\)"):
            self.charges_of([0, 0, 0])

    def test_without_charges_in_the_force_field(self):
        system = openmm.System()
        for _ in range(9):
            system.addParticle(1.0)
        region = find_region(self.topology, system, range(9), quiet_model())
        assert region.molecule_charges == [0.0, 0.0]


@pytest.mark.parametrize("embedding", ["mechanical", "electrostatic"])
def test_a_region_of_nothing_is_the_force_field(solvated, model, embedding):
    from openmm_les import create_mixed_system

    with pytest.warns(UserWarning, match="`ml_atoms` is empty"):
        system = create_mixed_system(solvated.topology, solvated.mm_system, [], model, embedding)
    given = openmm.XmlSerializer.serialize(solvated.mm_system)
    assert openmm.XmlSerializer.serialize(system) == given
    system.addParticle(1.0)
    assert openmm.XmlSerializer.serialize(solvated.mm_system) == given
    # A field acts on the force field's charges all the same.
    parts = (solvated.topology, solvated.mm_system, [], model, embedding)
    with pytest.warns(UserWarning, match="`ml_atoms` is empty"):
        system = create_mixed_system(*parts, electric_field=[0.0, 0.0, 0.5])
    context = make_context(system, solvated.positions)
    plain = make_context(solvated.mm_system, solvated.positions)
    charges = nonbonded_parameters(nonbonded_force(solvated.mm_system))[0]
    pull = (forces_of(context) - forces_of(plain))[:, 2]
    np.testing.assert_allclose(pull, 0.5 * KJ * charges, atol=1e-4)


def test_the_whole_chain_of_errors_reaches_the_door(solvated, model):
    from openmm_les import create_mixed_system

    with pytest.raises(
        ValueError, match="`embedding` must be one of mechanical, electrostatic, got 'electric'"
    ):
        create_mixed_system(solvated.topology, solvated.mm_system, [0], model, "electric")
    cut = create_mm_system(solvated.topology, nonbondedMethod=app.CutoffPeriodic)
    with pytest.raises(EmbeddingError, match="create the MM system with nonbondedMethod=PME"):
        create_mixed_system(solvated.topology, cut, solvated.peptide, model)
