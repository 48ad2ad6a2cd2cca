from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule as build_molecule

from openmm_les.molecules import (
    bonded_molecules,
    connected_molecules,
    covalent_bonds,
    formal_charges,
    molecule_charges,
)
from tests.builders import FORMAMIDE, FORMAMIDE_NUMBERS, TRICLINIC, WATER, WATER_NUMBERS

NUMBERS = {"H": 1, "B": 5, "C": 6, "N": 7, "O": 8, "F": 9, "Na": 11, "P": 15, "S": 16, "Cl": 17, "Zn": 30}


def skeleton(atoms: str, bonds: str, hydrogens: dict | None = None):
    """Atomic numbers and bonds from a line formula: "C C O O", "0-1 1-2 1-3" and hydrogens per atom."""
    numbers = [NUMBERS[a] for a in atoms.split()]
    pairs = [tuple(int(i) for i in pair.split("-")) for pair in bonds.split()]
    for atom, count in (hydrogens or {}).items():
        for _ in range(count):
            pairs.append((atom, len(numbers)))
            numbers.append(1)
    return np.array(numbers), np.array(pairs, dtype=np.int64).reshape(-1, 2)


# --- bonds and molecules ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n_bonds"),
    [
        ("H2O", 2),
        ("CH4", 4),
        ("C6H6", 12),
        ("CH3CONH2", 8),
        ("C4H4NH", 10),
        ("CH3SH", 5),
        ("HCl", 1),
        ("P2", 1),
    ],
)
def test_bonds_of_molecules(name, n_bonds):
    atoms = build_molecule(name)
    bonds = covalent_bonds(atoms.positions, atoms.numbers)
    assert len(bonds) == n_bonds
    assert bool((bonds[:, 0] < bonds[:, 1]).all())
    assert set(bonded_molecules(atoms.positions, atoms.numbers)) == {0}


def test_hydrogen_bonds_are_no_bonds():
    # Water dimer: O-O 2.8 Å, H...O 1.85 Å.
    donor = WATER @ np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    axis = donor[1] / np.linalg.norm(donor[1])
    positions = np.concatenate([donor, WATER + 2.8 * axis])
    assert bonded_molecules(positions, WATER_NUMBERS * 2).tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("symbol", "distance"), [("Li", 1.95), ("Na", 2.35), ("K", 2.7), ("Mg", 2.05), ("Ca", 2.35)]
)
def test_solvated_metal_ions_are_no_part_of_water(symbol, distance):
    # Metal-oxygen distances of hydrated ions are within 1.3 covalent radii.
    number = {"Li": 3, "Na": 11, "K": 19, "Mg": 12, "Ca": 20}[symbol]
    positions = np.concatenate([WATER, [[0.0, -distance, 0.0]]])
    numbers = np.array([*WATER_NUMBERS, number])
    molecules = bonded_molecules(positions, numbers)
    assert molecules.tolist() == [0, 0, 0, 1]
    charge = 2.0 if number in (12, 20) else 1.0
    bonds = covalent_bonds(positions, numbers)
    assert molecule_charges(numbers, molecules, charge, bonds).tolist() == [0.0, charge]


@pytest.mark.parametrize("distance", [2.1, 2.4])
def test_halide_near_water_is_an_ion(distance):
    positions = np.concatenate([WATER, WATER[1:2] * (1.0 + distance / np.linalg.norm(WATER[1]))])
    assert bonded_molecules(positions, [*WATER_NUMBERS, 17]).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("cell", [6.0 * np.eye(3), np.array(TRICLINIC), np.array(TRICLINIC)[[1, 0, 2]]])
def test_molecules_across_the_border_of_a_cell(cell):
    rng = np.random.default_rng(0)
    whole = np.concatenate([WATER, FORMAMIDE + np.array([3.5, 2.5, 3.0])])
    numbers = WATER_NUMBERS + FORMAMIDE_NUMBERS
    broken = whole + rng.integers(-2, 3, (9, 3)) @ cell
    assert bonded_molecules(broken, numbers, cell).tolist() == [0] * 3 + [1] * 6
    assert covalent_bonds(broken, numbers, cell).tolist() == covalent_bonds(whole, numbers).tolist()


def test_an_atom_bonded_to_two_images_of_another_counts_once():
    chain = covalent_bonds(np.array([[0.0, 0, 0], [1.2, 0, 0]]), [6, 6], np.diag([2.4, 9.0, 9.0]))
    assert chain.tolist() == [[0, 1]]


def test_connected_molecules():
    assert connected_molecules(np.array([[0, 3], [4, 1]]), 6).tolist() == [0, 1, 2, 0, 1, 3]
    assert connected_molecules(np.zeros((0, 2)), 3).tolist() == [0, 1, 2]
    assert connected_molecules([], 2).dtype == np.int64


# --- formal charges ---------------------------------------------------------------------------

RING6 = "0-1 1-2 2-3 3-4 4-5 5-0"
RING5 = "0-1 1-2 2-3 3-4 4-0"
MOLECULES = {
    "water": (("O", "", {0: 2}), 0),
    "water of CHARMM": (("O H H", "0-1 0-2 1-2"), 0),
    "hydrogen": (("H H", "0-1"), 0),
    "hydroxide": (("O", "", {0: 1}), -1),
    "hydronium": (("O", "", {0: 3}), 1),
    "methane": (("C", "", {0: 4}), 0),
    "ammonium": (("N", "", {0: 4}), 1),
    "oxygen": (("O O", "0-1"), 0),
    "nitrogen": (("N N", "0-1"), 0),
    "carbon dioxide": (("O C O", "0-1 1-2"), 0),
    "hydrogen cyanide": (("C N", "0-1", {0: 1}), 0),
    "cyanide": (("C N", "0-1"), None),  # a carbanion: not decided by the rules
    "acetonitrile": (("C C N", "0-1 1-2", {0: 3}), 0),
    "benzene": (("C C C C C C", RING6, dict.fromkeys(range(6), 1)), 0),
    "naphthalene": (
        ("C C C C C C C C C C", RING6 + " 4-6 6-7 7-8 8-9 9-5", dict.fromkeys((0, 1, 2, 3, 6, 7, 8, 9), 1)),
        0,
    ),
    "pyridine": (("N C C C C C", RING6, dict.fromkeys(range(1, 6), 1)), 0),
    "pyridinium": (("N C C C C C", RING6, dict.fromkeys(range(6), 1)), 1),
    "pyrrole": (("N C C C C", RING5, dict.fromkeys(range(5), 1)), 0),
    "imidazole": (("N C N C C", RING5, dict.fromkeys((0, 1, 3, 4), 1)), 0),
    "imidazolium": (("N C N C C", RING5, dict.fromkeys(range(5), 1)), 1),
    "imidazolate": (("N C N C C", RING5, dict.fromkeys((1, 3, 4), 1)), -1),
    "phenol": (("C C C C C C O", RING6 + " 0-6", dict.fromkeys(range(1, 7), 1)), 0),
    "phenolate": (("C C C C C C O", RING6 + " 0-6", dict.fromkeys(range(1, 6), 1)), -1),
    "acetic acid": (("C C O O", "0-1 1-2 1-3", {0: 3, 3: 1}), 0),
    "acetate": (("C C O O", "0-1 1-2 1-3", {0: 3}), -1),
    "glycine zwitterion": (("N C C O O", "0-1 1-2 2-3 2-4", {0: 3, 1: 2}), 0),
    "formamide": (("C O N", "0-1 0-2", {0: 1, 2: 2}), 0),
    "methylamine": (("C N", "0-1", {0: 3, 1: 2}), 0),
    "methylammonium": (("C N", "0-1", {0: 3, 1: 3}), 1),
    "guanidine": (("C N N N", "0-1 0-2 0-3", {1: 2, 2: 2, 3: 1}), 0),
    "guanidinium": (("C N N N", "0-1 0-2 0-3", {1: 2, 2: 2, 3: 2}), 1),
    "amidinium": (("C C N N", "0-1 1-2 1-3", {0: 3, 2: 2, 3: 2}), 1),
    "iminium": (("C N", "0-1", {0: 2, 1: 2}), 1),
    "nitromethane": (("C N O O", "0-1 1-2 1-3", {0: 3}), 0),
    "nitrate": (("N O O O", "0-1 0-2 0-3"), -1),
    "nitrite": (("N O O", "0-1 0-2"), -1),
    "carbonate": (("C O O O", "0-1 0-2 0-3"), -2),
    "bicarbonate": (("C O O O", "0-1 0-2 0-3", {3: 1}), -1),
    "azide": (("N N N", "0-1 1-2"), -1),
    "methyl azide": (("C N N N", "0-1 1-2 2-3", {0: 3}), 0),
    "diazomethane": (("C N N", "0-1 1-2", {0: 2}), 0),
    "nitrous oxide": (("N N O", "0-1 1-2"), 0),
    "azomethane": (("C N N C", "0-1 1-2 2-3", {0: 3, 3: 3}), 0),
    "sulfur dioxide": (("S O O", "0-1 0-2"), 0),
    "sulfite": (("S O O O", "0-1 0-2 0-3"), -2),
    "pyridine oxide": (("N C C C C C O", RING6 + " 0-6", dict.fromkeys(range(1, 6), 1)), 0),
    "methanethiol": (("C S", "0-1", {0: 3, 1: 1}), 0),
    "methanethiolate": (("C S", "0-1", {0: 3}), -1),
    "dimethyl disulfide": (("C S S C", "0-1 1-2 2-3", {0: 3, 3: 3}), 0),
    "dimethyl sulfoxide": (("C S C O", "0-1 1-2 1-3", {0: 3, 2: 3}), 0),
    "dimethyl sulfone": (("C S C O O", "0-1 1-2 1-3 1-4", {0: 3, 2: 3}), 0),
    "trimethylsulfonium": (("S C C C", "0-1 0-2 0-3", {1: 3, 2: 3, 3: 3}), 1),
    "thiophene": (("S C C C C", RING5, dict.fromkeys(range(1, 5), 1)), 0),
    "sulfate": (("S O O O O", "0-1 0-2 0-3 0-4"), -2),
    "methanesulfonate": (("C S O O O", "0-1 1-2 1-3 1-4", {0: 3}), -1),
    "phosphate": (("P O O O O", "0-1 0-2 0-3 0-4"), -3),
    "dihydrogen phosphate": (("P O O O O", "0-1 0-2 0-3 0-4", {3: 1, 4: 1}), -1),
    "dimethyl phosphate": (("P O O O O C C", "0-1 0-2 0-3 0-4 3-5 4-6", {5: 3, 6: 3}), -1),
    "phosphine": (("P", "", {0: 3}), 0),
    "phosphonium": (("P", "", {0: 4}), 1),
    "perchlorate": (("Cl O O O O", "0-1 0-2 0-3 0-4"), -1),
    "chloromethane": (("C Cl", "0-1", {0: 3}), 0),
    "sodium": (("Na", ""), 1),
    "chloride": (("Cl", ""), -1),
    "zinc": (("Zn", ""), 2),
    "zinc thiolate": (("Zn S", "0-1", {1: 1}), None),
    "methyl radical": (("C", "", {0: 3}), None),
    "cyclopentadienide": (("C C C C C", RING5, dict.fromkeys(range(5), 1)), None),
    "borane": (("B", "", {0: 3}), 0),
    "tetrafluoroborate": (("B F F F F", "0-1 0-2 0-3 0-4"), None),
    "lone carbon": (("C", ""), None),
}


@pytest.mark.parametrize("name", MOLECULES)
def test_formal_charges(name):
    arguments, expected = MOLECULES[name]
    numbers, bonds = skeleton(*arguments)
    (found,) = formal_charges(numbers, bonds)
    if expected is None:
        assert np.isnan(found)
    else:
        assert found == expected


def test_formal_charges_do_not_depend_on_the_order_of_atoms():
    rng = np.random.default_rng(1)
    for name, (arguments, _) in MOLECULES.items():
        numbers, bonds = skeleton(*arguments)
        order = rng.permutation(len(numbers))
        place = np.argsort(order)
        np.testing.assert_equal(
            formal_charges(numbers[order], place[bonds]), formal_charges(numbers, bonds), err_msg=name
        )


def test_formal_charges_of_a_mixture_follow_the_molecules():
    parts = [skeleton(*MOLECULES[name][0]) for name in ("acetate", "sodium", "water", "guanidinium")]
    first = np.cumsum([0] + [len(n) for n, _ in parts])
    numbers = np.concatenate([n for n, _ in parts])
    bonds = np.concatenate([b + start for (_, b), start in zip(parts, first[:-1], strict=True)])
    assert formal_charges(numbers, bonds).tolist() == [-1.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "name", ["CH3CONH2", "C6H6", "HCOOH", "CH3NO2", "C5H5N", "CH3CN", "C4H4S", "SO2", "H2CO"]
)
def test_geometries_of_neutral_molecules(name):
    atoms = build_molecule(name)
    bonds = covalent_bonds(atoms.positions, atoms.numbers)
    assert formal_charges(atoms.numbers, bonds).tolist() == [0.0]


def test_no_atoms():
    assert formal_charges(np.zeros(0, dtype=int), np.zeros((0, 2))).tolist() == []


# --- sharing a total charge -------------------------------------------------------------------


def salt_water():
    """Water, chloride and ammonium: numbers, molecules, bonds."""
    numbers = np.array([8, 1, 1, 17, 7, 1, 1, 1, 1])
    bonds = np.array([[0, 1], [0, 2], [4, 5], [4, 6], [4, 7], [4, 8]])
    return numbers, connected_molecules(bonds, 9), bonds


def test_total_of_one_molecule_is_its_charge():
    numbers, bonds = skeleton(*MOLECULES["methyl radical"][0])
    assert molecule_charges(numbers, np.zeros(4, dtype=int), -1, bonds).tolist() == [-1.0]


def test_totals_per_molecule_are_taken_as_given():
    numbers, molecules, bonds = salt_water()
    assert molecule_charges(numbers, molecules, [0.1, -0.8, 0.7], bonds).tolist() == [0.1, -0.8, 0.7]


def test_total_is_shared_by_formal_charges():
    numbers, molecules, bonds = salt_water()
    assert molecule_charges(numbers, molecules, 0, bonds).tolist() == [0.0, -1.0, 1.0]


def test_one_unknown_molecule_takes_the_rest():
    # A radical beside chloride and ammonium.
    numbers = np.array([6, 1, 1, 1, 17])
    bonds = np.array([[0, 1], [0, 2], [0, 3]])
    molecules = connected_molecules(bonds, 5)
    assert molecule_charges(numbers, molecules, 0.0, bonds).tolist() == [1.0, -1.0]


def test_a_molecule_of_several_parts():
    # A complex that the caller keeps together sums its parts.
    numbers, _, bonds = salt_water()
    molecules = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1])
    assert molecule_charges(numbers, molecules, 0, bonds).tolist() == [-1.0, 1.0]


def test_a_wrong_total_names_the_charged_molecules():
    numbers, molecules, bonds = salt_water()
    message = r"`total_charge` \+1 cannot be shared among 3 molecules.*1 \(Cl\): -1, molecule 2 \(H4N\): \+1"
    with pytest.raises(ValueError, match=message):
        molecule_charges(numbers, molecules, 1, bonds)


def test_two_unknown_molecules_cannot_share():
    numbers, bonds = np.array([6, 6]), np.zeros((0, 2))
    with pytest.raises(ValueError, match=r"molecule 0 \(C\): \+?nan, molecule 1 \(C\): \+?nan"):
        molecule_charges(numbers, np.array([0, 1]), 0, bonds)


def test_a_wrong_number_of_totals():
    numbers, molecules, bonds = salt_water()
    with pytest.raises(ValueError, match=r"one number or one per molecule \(\[3\]\), got shape \[2\]"):
        molecule_charges(numbers, molecules, [0.0, 0.0], bonds)


def test_formal_charges_of_the_training_set(shared_data):
    h5py = pytest.importorskip("h5py")
    with h5py.File(shared_data / "training" / "gfn2_bio.h5") as file:
        offsets = file["offsets"][:]
        agree = 0
        chosen = np.linspace(0, len(offsets) - 2, 120).astype(int)
        for i in chosen:
            atoms = slice(offsets[i], offsets[i + 1])
            numbers = file["atomic_numbers"][atoms]
            bonds = covalent_bonds(file["positions"][atoms].astype(float), numbers)
            agree += formal_charges(numbers, bonds).sum() == file["total_charge"][i]
    # Of one configuration of each of 8557 names 58 disagree: torn ligands and deprotonated cystines.
    assert agree >= 117
