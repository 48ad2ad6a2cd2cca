from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from openmm_les.exceptions import DataError
from openmm_les.training.data import (
    concatenate,
    fit_reference_energies,
    group_shares,
    make_configurations,
    select_groups,
    split_configurations,
)
from tests.training.toy import toy_configurations


def test_selection_keeps_atoms_with_their_configuration():
    toy = toy_configurations(9)
    chosen = toy.select(np.array([7, 2]))
    np.testing.assert_array_equal(chosen.energy, toy.energy[[7, 2]])
    np.testing.assert_array_equal(chosen.positions[chosen.atoms_of(0)], toy.positions[toy.atoms_of(7)])
    np.testing.assert_array_equal(chosen.positions[chosen.atoms_of(1)], toy.positions[toy.atoms_of(2)])
    both = concatenate([toy, chosen])
    np.testing.assert_array_equal(both.forces[both.atoms_of(10)], toy.forces[toy.atoms_of(2)])


def test_groups_are_selected_by_name():
    toy = toy_configurations(9)
    assert select_groups(toy, "") is toy
    two = select_groups(toy, " water3,water1 ")
    assert set(two.group) == {"water1", "water3"} and len(two) == 6
    np.testing.assert_array_equal(two.energy, toy.energy[toy.group != "water2"])
    with pytest.raises(DataError, match=r"no configurations of ice .* hold water1, water2, water3"):
        select_groups(toy, "water1, ice")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("water1", "must read like .* got 'water1'"),
        ("water1=2", "at most 1; got 'water1=2'"),
        ("water1=0", "got 'water1=0'"),
        ("water1=nan", "got 'water1=nan'"),
        ("ice=0.5", r"no training data of group 'ice', but of 'water1', 'water2', 'water3'"),
        ("water1=0.5,water2=0.2,water3=0.1", "one that is taken whole"),
    ],
)
def test_shares_of_groups_that_cannot_be(text, message):
    with pytest.raises(DataError, match=message):
        group_shares(toy_configurations(9), text)


def test_arrays_of_other_shapes_are_refused():
    toy = toy_configurations(3)
    with pytest.raises(DataError, match=r"`forces` has shape \[17, 3\], want \[18, 3\]"):
        make_configurations(toy.sizes, toy.numbers, toy.positions, toy.forces[:-1], toy.energy)


def test_split_is_by_molecule():
    toy = toy_configurations(60)
    names = np.array([f"M{i // 3}/{i % 3}" for i in range(60)])
    data = split_configurations(replace(toy, name=names, split=np.full(60, "")), valid_fraction=0.2, seed=1)
    held_out = {name.split("/")[0] for name in names[data.split == "valid"]}
    trained = {name.split("/")[0] for name in names[data.split == "train"]}
    assert len(held_out) == 4
    assert not held_out & trained


def test_frames_follow_those_of_their_molecule_that_have_a_split(caplog):
    toy = toy_configurations(60)
    names = np.array([f"M{i // 3}/{i % 3}" for i in range(60)])
    split = np.array(
        ["test" if i < 3 else "valid" if i == 6 else "train" if i == 9 else "" for i in range(60)]
    )
    split[1] = ""
    data = split_configurations(replace(toy, name=names, split=split), valid_fraction=0.5)
    assert data.split[:3].tolist() == ["test"] * 3
    assert data.split[6:12].tolist() == ["valid"] * 3 + ["train"] * 3
    assert (data.split == "valid").sum() > 20
    assert "5 configurations without a split follow others of their molecule" in caplog.text
    with pytest.raises(DataError, match="`split` must be train, valid, test or empty; got dev, val"):
        split_configurations(replace(toy, split=np.array(["train", "val", "dev"] * 20)))


def test_configurations_without_a_name_are_drawn_one_by_one(caplog):
    toy = toy_configurations(60)
    names = np.array([f"M{i}" if i < 20 else "" for i in range(60)])
    data = split_configurations(replace(toy, name=names, split=np.full(60, "")), valid_fraction=0.25)
    assert (data.split == "valid").sum() == 15
    assert 0 < (data.split[20:] == "valid").sum() < 15
    assert "40 of 60 configurations have no name" in caplog.text


def test_one_frame_cannot_be_split():
    one = toy_configurations(1)
    with pytest.raises(DataError, match="one configuration"):
        split_configurations(replace(one, split=np.array([""])))


def test_reference_energies_of_composition_alone():
    toy = toy_configurations(12)
    hydrogens = np.array([(toy.numbers[toy.atoms_of(i)] == 1).sum() for i in range(12)])
    hydroxide = concatenate([toy, toy_configurations(1)])  # waters alone fix only 2 H + O
    energy = np.append(-13.5 * hydrogens - 55.0 * toy.sizes, -5.0)
    hydroxide = replace(hydroxide, energy=energy, numbers=np.append(toy.numbers, [8, 8, 8]))
    hydroxide.energy[-1] = 3 * -55.0
    np.testing.assert_allclose(fit_reference_energies(hydroxide, [1, 8]), [-68.5, -55.0], atol=1e-9)
