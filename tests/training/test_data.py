from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest

from openmm_les.exceptions import DataError
from openmm_les.training.data import (
    check_configurations,
    concatenate,
    fit_reference_energies,
    level_of_theory,
    read_configurations,
    split_configurations,
)
from tests.training.toy import toy_configurations, write_hdf5, write_xyz


def test_hdf5_gives_back_what_was_written(tmp_path):
    toy = toy_configurations()
    path = write_hdf5(tmp_path / "toy.h5", toy)
    read = read_configurations(path)
    for name in ("offsets", "numbers", "positions", "forces", "energy", "dipole", "group", "name", "split"):
        np.testing.assert_array_equal(getattr(read, name), getattr(toy, name))
    assert level_of_theory([path]) == "springs and point charges"


def test_xyz_and_hdf5_give_the_same(tmp_path):
    toy = toy_configurations(6)
    xyz = read_configurations(
        write_xyz(tmp_path / "toy.xyz", toy), energy_key="my_energy", forces_key="my_force"
    )
    np.testing.assert_array_equal(xyz.numbers, toy.numbers)
    for name in ("positions", "forces", "energy", "dipole"):
        np.testing.assert_allclose(getattr(xyz, name), getattr(toy, name), atol=2e-8)
    np.testing.assert_array_equal(xyz.name, toy.name)
    assert (xyz.split == "").all()


def test_benchmark_xyz_reads(shared_data):
    dipeptides = read_configurations(
        shared_data / "benchmark" / "spice-dipep-dipolar_val.xyz", forces_key="force"
    )
    assert len(dipeptides) == 55
    assert np.isfinite(dipeptides.dipole).all()
    water = read_configurations(shared_data / "benchmark" / "water-RPBE-D3_50boxes.xyz")
    assert len(water) == 50
    np.testing.assert_allclose(water.cell[0], 12.429 * np.eye(3))


def test_selection_keeps_atoms_with_their_configuration():
    toy = toy_configurations(9)
    chosen = toy.select(np.array([7, 2]))
    np.testing.assert_array_equal(chosen.energy, toy.energy[[7, 2]])
    np.testing.assert_array_equal(chosen.positions[chosen.atoms_of(0)], toy.positions[toy.atoms_of(7)])
    np.testing.assert_array_equal(chosen.positions[chosen.atoms_of(1)], toy.positions[toy.atoms_of(2)])
    both = concatenate([toy, chosen])
    np.testing.assert_array_equal(both.forces[both.atoms_of(10)], toy.forces[toy.atoms_of(2)])


def test_report_counts_and_drops_outliers():
    toy = toy_configurations(12)
    toy.forces[toy.offsets[3]] = [11.0, 0.0, 0.0]
    checked, report = check_configurations(toy, max_force=10.0)
    assert len(checked) == report.n_configurations == 11
    assert report.dropped == {"a force above 10 eV/Å": 1}
    assert report.elements == [1, 8]
    assert toy.name[3] not in checked.name
    assert any("dropped 1" in line for line in report.lines())


def _spoil(name, value):
    toy = toy_configurations(12)
    getattr(toy, name)[-1] = value
    return toy


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("forces", np.nan, r"`forces` holds NaN .* configuration 11 \(W3/11\)"),
        ("energy", np.inf, "`energy` holds NaN or infinite"),
        ("positions", np.nan, "`positions` holds NaN"),
        ("numbers", 0, "atomic numbers must lie between"),
    ],
)
def test_bad_labels_are_refused(name, value, message):
    with pytest.raises(DataError, match=message):
        check_configurations(_spoil(name, value))


def test_labels_in_other_units_are_refused():
    toy = toy_configurations(12)
    with pytest.raises(DataError, match="are they in eV/Å"):
        check_configurations(replace(toy, forces=toy.forces * 964.85))


def test_elements_the_model_does_not_know_are_refused():
    with pytest.raises(DataError, match="the data hold O; the model knows H C"):
        check_configurations(toy_configurations(3), elements=[1, 6])


def test_damaged_files_are_refused(tmp_path):
    toy = toy_configurations()
    path = write_hdf5(tmp_path / "toy.h5", toy)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="no readable HDF5"):
        read_configurations(path)
    with pytest.raises(DataError, match="lacks energy, forces"):
        read_configurations(write_hdf5(tmp_path / "bare.h5", toy, leave_out=("forces", "energy")))
    unsorted = write_hdf5(tmp_path / "unsorted.h5", toy, leave_out=("offsets",))
    with h5py.File(unsorted, "a") as file:
        file["offsets"] = toy.offsets[::-1]
    with pytest.raises(DataError, match="do not rise"):
        read_configurations(unsorted)
    short = write_hdf5(tmp_path / "short.h5", toy, leave_out=("forces",))
    with h5py.File(short, "a") as file:
        file["forces"] = toy.forces[:-1]
    with pytest.raises(DataError, match=r"`forces` of .* has shape"):
        read_configurations(short)
    with pytest.raises(DataError, match="no data file"):
        read_configurations(tmp_path / "absent.h5")
    with pytest.raises(DataError, match="has no `energy`"):
        read_configurations(write_xyz(tmp_path / "toy.xyz", toy))


def test_split_is_by_molecule():
    toy = toy_configurations(60)
    names = np.array([f"M{i // 3}/{i % 3}" for i in range(60)])
    data = split_configurations(replace(toy, name=names, split=np.full(60, "")), valid_fraction=0.2, seed=1)
    held_out = {name.split("/")[0] for name in names[data.split == "valid"]}
    trained = {name.split("/")[0] for name in names[data.split == "train"]}
    assert len(held_out) == 4
    assert not held_out & trained


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
