from __future__ import annotations

from dataclasses import replace

import ase
import ase.db
import ase.io
import h5py
import numpy as np
import pytest
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator

from openmm_les.exceptions import DataError
from openmm_les.training.hdf5 import level_of_theory, smiles_charge
from openmm_les.training.labels import LabelFormat
from openmm_les.training.readers import read_configurations
from tests.training.toy import toy_configurations, write_hdf5, write_xyz

FIELDS = ("offsets", "numbers", "positions", "forces", "energy", "dipole", "born_charges", "group", "name")
OURS = LabelFormat(energy_key="my_energy", forces_key="my_force")


def same(first, second, atol=0.0):
    for name in FIELDS:
        a, b = getattr(first, name), getattr(second, name)
        if a.dtype.kind == "U":
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=0.0, atol=atol)


def test_hdf5_gives_back_what_was_written(tmp_path):
    toy = toy_configurations()
    path = write_hdf5(tmp_path / "toy.h5", toy)
    read = read_configurations(path)
    same(read, toy)
    np.testing.assert_array_equal(read.split, toy.split)
    assert level_of_theory([path]) == "springs and point charges"


def test_xyz_and_hdf5_give_the_same(tmp_path):
    toy = toy_configurations(6)
    said = []
    path = write_xyz(tmp_path / "toy.xyz", toy)
    xyz = read_configurations(path, OURS, say=said.append)
    same(xyz, toy, atol=2e-8)
    assert (xyz.split == "").all()
    assert said == [
        "toy.xyz: length Å, force eV/Å, energy eV, dipole e*Å (the format's convention, nothing is "
        "declared); 6 without a total charge, 0 taken"
    ]


def test_units_of_flags_are_converted(tmp_path):
    toy = toy_configurations(6)
    other = toy_configurations(6)
    other.positions = toy.positions / units.Bohr
    other.energy = toy.energy / units.Hartree
    other.forces = toy.forces / (units.Hartree / units.Bohr)
    other.dipole = toy.dipole / units.Debye
    labels = LabelFormat(
        energy_key="my_energy",
        forces_key="my_force",
        energy_unit="Hartree",
        force_unit="hartree/bohr",
        length_unit="bohr",
        dipole_unit="debye",
    )
    read = read_configurations(write_xyz(tmp_path / "toy.xyz", other), labels)
    same(read, toy, atol=1e-6)


def test_units_that_the_file_declares_are_converted(tmp_path):
    toy = toy_configurations(6)
    other = toy_configurations(6)
    other.energy = toy.energy / (units.kcal / units.mol)
    other.forces = toy.forces / (units.kcal / units.mol)
    path = write_hdf5(tmp_path / "toy.h5", other)
    with h5py.File(path, "a") as file:
        file.attrs["units"] = "positions Angstrom; energy kcal/mol; dipole e*Angstrom"
        file["forces"].attrs["units"] = "kcal/mol/angstrom"
    same(read_configurations(path), toy, atol=1e-10)
    with pytest.raises(DataError, match="declares energy in kcal/mol, --energy-unit says eV"):
        read_configurations(path, LabelFormat(energy_unit="eV"))


def test_units_that_the_file_declares_otherwise(tmp_path):
    toy = toy_configurations(6)
    path = write_hdf5(tmp_path / "toy.h5", replace(toy, energy=toy.energy / units.Hartree))
    with h5py.File(path, "a") as file:
        file.attrs["units"] = "positions: Å, energy: hartree, forces: eV/Angstrom, dipole: e*Å"
    same(read_configurations(path), toy, atol=1e-10)
    with h5py.File(path, "a") as file:
        file.attrs["units"] = "in hartree"
    with pytest.raises(DataError, match=r"attribute `units` .* is 'in hartree'; write as in"):
        read_configurations(path)


def test_units_of_flat_files_reach_labels_of_other_names(tmp_path):
    toy = toy_configurations(6)
    labels = LabelFormat(energy_key="dft_energy")
    path = write_hdf5(tmp_path / "toy.h5", toy)
    for entry in ("dft_energy hartree", "energy hartree"):
        with h5py.File(path, "a") as file:
            file.pop("dft_energy", None)
            file["dft_energy"] = toy.energy / units.Hartree
            file.pop("energy", None)
            file.attrs["units"] = f"positions Å; {entry}; forces eV/Å; dipole e*Å"
        same(read_configurations(path, labels), toy, atol=1e-10)
    with h5py.File(path, "a") as file:
        file["energy"] = toy.energy  # which the entry is about, then
    with pytest.raises(DataError, match="does not say in which unit energy is: give --energy-unit"):
        read_configurations(path, labels)


def test_flat_files_say_their_units(tmp_path):
    path = write_hdf5(tmp_path / "toy.h5", toy_configurations(3))
    with h5py.File(path, "a") as file:
        del file.attrs["units"]
    with pytest.raises(DataError, match=r"toy\.h5 does not say in which unit length is: give --length-unit"):
        read_configurations(path)
    said = []
    with h5py.File(path, "a") as file:
        file.attrs["units"] = "length Å; energy eV; force eV/Å"
    assert np.isnan(read_configurations(path, say=said.append).dipole).all()
    assert said[0] == "toy.h5: `dipole` is left out, nothing says its unit (--dipole-unit)"
    with pytest.raises(DataError, match="does not say in which unit dipole is: give --dipole-unit"):
        read_configurations(path, LabelFormat(dipole_key="dipole"))


def test_flat_arrays_without_names_or_charges(tmp_path):
    said = []
    path = write_hdf5(tmp_path / "TOY.H5", toy_configurations(3), leave_out=("name", "total_charge"))
    assert read_configurations(path, say=said.append).name.tolist() == ["H2O", "H4O2", "H6O3"]
    assert said[0].endswith("; no total charges, 0 taken")


def test_charges_and_energies_that_are_unclear(tmp_path):
    frames = [ase.Atoms("OH2", np.eye(3)) for _ in range(3)]
    for frame in frames:
        frame.info.update(my_energy=-1.0, total_charge=1, charge=1)
        frame.arrays["my_force"] = np.zeros((3, 3))
    ase.io.write(tmp_path / "good.xyz", frames)
    assert read_configurations(tmp_path / "good.xyz", OURS).total_charge.tolist() == [1.0, 1.0, 1.0]
    frames[2].info["charge"] = 0
    ase.io.write(tmp_path / "two.xyz", frames)
    with pytest.raises(DataError, match=r"configuration 2 of .* has `total_charge` 1 and `charge` 0"):
        read_configurations(tmp_path / "two.xyz", OURS)
    for frame in frames:  # of each atom
        del frame.info["charge"]
        frame.arrays["charge"] = np.array([-0.8, 0.4, 0.4])
    ase.io.write(tmp_path / "atoms.xyz", frames)
    assert read_configurations(tmp_path / "atoms.xyz", OURS).total_charge.tolist() == [1.0, 1.0, 1.0]
    frames[1].info["my_energy"] = "zero"
    ase.io.write(tmp_path / "word.xyz", frames)
    with pytest.raises(DataError, match=r"`my_energy` of configuration 1 of .* is no number: 'zero'"):
        read_configurations(tmp_path / "word.xyz", OURS)
    with pytest.raises(DataError, match=r"no configuration of .* has `mu`; they have charge, "):
        read_configurations(tmp_path / "good.xyz", replace(OURS, dipole_key="mu"))


def test_half_declared_units_are_refused(tmp_path):
    path = write_xyz(tmp_path / "toy.xyz", toy_configurations(3))
    labels = LabelFormat(energy_key="my_energy", forces_key="my_force", energy_unit="hartree")
    with pytest.raises(DataError, match="does not say in which unit force is: give --force-unit"):
        read_configurations(path, labels)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"energy_unit": "furlong"}, "'furlong' is no unit that is known"),
        ({"force_unit": "eV"}, "'eV' is no unit of force; write for example eV/Å"),
        ({"stress_unit": "debye"}, "no unit of stress"),
        ({"born_charges_order": "xyz"}, "`born_charges_order` must be one of"),
    ],
)
def test_impossible_flags_are_refused(flags, message):
    with pytest.raises(DataError, match=message):
        LabelFormat(**flags)


def write_spice(path, toy, units_of=True):
    """The toy's first three kinds of molecules as SPICE publishes its own."""
    attributes = {
        "conformations": (toy.positions / units.Bohr, "bohr"),
        "dft_total_gradient": (-toy.forces / (units.Hartree / units.Bohr), "hartree/bohr"),
    }
    with h5py.File(path, "w") as file:
        for k in range(3):
            chosen = [i for i in range(len(toy)) if i % 3 == k]
            group = file.create_group(f"W{k + 1}")
            group["atomic_numbers"] = toy.numbers[toy.atoms_of(chosen[0])].astype(np.int16)
            group.create_dataset("smiles", data=[f"[O-:1][H:2].{'[Na+:4]' * k}"], dtype=h5py.string_dtype())
            group.create_dataset("subset", data=[f"subset {k}"], dtype=h5py.string_dtype())
            for key, (values, unit) in attributes.items():
                group[key] = np.stack([values[toy.atoms_of(i)] for i in chosen])
                if units_of:
                    group[key].attrs["units"] = unit
            group["dft_total_energy"] = toy.energy[chosen] / units.Hartree
            group["scf_dipole"] = toy.dipole[chosen] / units.Bohr
            if units_of:
                group["dft_total_energy"].attrs["units"] = "hartree"
                group["scf_dipole"].attrs["units"] = "elementary_charge*bohr"
    return path


def test_spice_as_published(tmp_path):
    toy = toy_configurations(9)
    said = []
    read = read_configurations(write_spice(tmp_path / "SPICE.hdf5", toy), say=said.append)
    order = np.array([0, 3, 6, 1, 4, 7, 2, 5, 8])
    expected = toy.select(order)
    for name in ("offsets", "numbers"):
        np.testing.assert_array_equal(getattr(read, name), getattr(expected, name))
    for name in ("positions", "forces", "energy", "dipole"):
        np.testing.assert_allclose(getattr(read, name), getattr(expected, name), atol=1e-10)
    assert read.name.tolist()[:4] == ["W1/0", "W1/1", "W1/2", "W2/0"]
    assert read.total_charge.tolist() == [-1.0] * 3 + [0.0] * 3 + [1.0] * 3
    assert read.group[0] == "subset 0"
    assert "hartree/bohr" in said[0] and "minus the gradients" in said[0]


def test_spice_without_units_is_refused(tmp_path):
    path = write_spice(tmp_path / "SPICE.hdf5", toy_configurations(9), units_of=False)
    with pytest.raises(DataError, match="does not say in which unit length is: give --length-unit"):
        read_configurations(path)
    flags = LabelFormat(energy_unit="hartree", length_unit="bohr", force_unit="hartree/bohr")
    assert np.isnan(read_configurations(path, flags).dipole).all()


def test_spice_with_missing_or_short_arrays_is_refused(tmp_path):
    path = write_spice(tmp_path / "SPICE.hdf5", toy_configurations(9))
    with h5py.File(path, "a") as file:
        short = file["W2/dft_total_energy"][:-1]
        del file["W2/dft_total_energy"]
        file["W2/dft_total_energy"] = short
        file["W2/dft_total_energy"].attrs["units"] = "hartree"
    with pytest.raises(DataError, match="molecule W2: energy have shape"):
        read_configurations(path)
    with h5py.File(path, "a") as file:
        del file["W2/dft_total_energy"]
    with pytest.raises(DataError, match="molecule W2 lacks dft_total_energy"):
        read_configurations(path)


@pytest.mark.parametrize(
    ("smiles", "charge"),
    [
        ("[C:1]([H:2])([H:3])[H:4]", 0),
        ("[N+:1]([H:2])([H:3])([H:4])[H:5]", 1),
        ("[O-:1][C:2]=[O:3].[Ca+2:4].[Mg++]", 3),
        ("CC(=O)[O-]", -1),
        ("[NH3+]CC([O-])=O", 0),
        ("C[C@@H:2](C)[S--:3]", -2),
    ],
)
def test_charges_of_smiles(smiles, charge):
    assert smiles_charge(smiles) == charge


def test_ase_databases(tmp_path):
    toy = toy_configurations(6)
    path = tmp_path / "toy.db"
    with ase.db.connect(path) as database:
        for i in range(6):
            s = toy.atoms_of(i)
            atoms = ase.Atoms(toy.numbers[s], toy.positions[s])
            atoms.calc = SinglePointCalculator(
                atoms, energy=toy.energy[i], forces=toy.forces[s], dipole=toy.dipole[i]
            )
            database.write(
                atoms,
                name=f"toy{i}",
                group=str(toy.group[i]),
                total_charge=0,
                data={"born_charges": toy.born_charges[s]},
            )
    read = read_configurations(path)
    for name in ("numbers", "positions", "forces", "energy", "dipole", "born_charges", "group"):
        np.testing.assert_array_equal(getattr(read, name), getattr(toy, name))
    assert read.name[3] == "toy3"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="cannot be read"):
        read_configurations(path)


def test_stress_and_born_charges_of_xyz(tmp_path):
    rng = np.random.default_rng(0)
    stress = rng.normal(size=(3, 3))
    stress += stress.T
    born = rng.normal(size=(2, 3, 3))
    atoms = ase.Atoms([8, 1], [[0, 0, 0], [1, 0, 0]], cell=np.diag([4.0, 5.0, 6.0]), pbc=True)
    atoms.info.update(energy_x=-1.0, tension=stress / units.GPa**-1, virial_x=stress * 120.0)
    atoms.arrays.update(force_x=np.zeros((2, 3)), bec=born.reshape(2, 9))
    path = tmp_path / "box.xyz"
    ase.io.write(path, [atoms, ase.Atoms([8, 1], atoms.positions, info={"energy_x": 0.0})])
    keys = {"energy_key": "energy_x", "forces_key": "force_x"}
    with pytest.raises(DataError, match=r"configuration 1 .* no `force_x` \(1 of 2 lack it\)"):
        read_configurations(path, LabelFormat(**keys))
    ase.io.write(path, [atoms])
    transposed = LabelFormat(**keys, born_charges_order="displacement-polarisation", stress_key="virial_x")
    with pytest.raises(DataError, match=r"no configuration of .* has `nothing`"):
        read_configurations(path, LabelFormat(**keys, dipole_key="nothing"))
    first = read_configurations(path, LabelFormat(**keys, stress_key="virial_x", stress_unit="eV"))
    np.testing.assert_allclose(first.stress[0], stress, atol=1e-7)
    np.testing.assert_allclose(first.born_charges, born, atol=1e-7)
    np.testing.assert_allclose(
        read_configurations(path, transposed).born_charges, born.transpose(0, 2, 1), atol=1e-7
    )


def test_systems_periodic_in_part_are_refused(tmp_path):
    atoms = ase.Atoms([8], [[0, 0, 0]], cell=np.eye(3) * 9.0, pbc=[True, True, False], info={"energy": 0.0})
    atoms.arrays["forces"] = np.zeros((1, 3))
    ase.io.write(tmp_path / "slab.xyz", atoms)
    with pytest.raises(DataError, match="periodic in one or two directions only"):
        read_configurations(tmp_path / "slab.xyz")


def test_virials_of_flat_files_are_strain_derivatives(tmp_path):
    toy = toy_configurations(3)
    toy.cell[2] = np.diag([10.0, 8.0, 8.0])
    path = write_hdf5(tmp_path / "toy.h5", toy)
    with h5py.File(path, "a") as file:
        file["virial"] = np.tile(np.eye(3) * 6.4, (3, 1, 1))
    stress = read_configurations(path).stress
    np.testing.assert_allclose(stress[2], 0.01 * np.eye(3), atol=1e-12)
    assert np.isnan(stress[:2]).all()


def test_benchmark_xyz_reads(shared_data):
    dipeptides = read_configurations(
        shared_data / "benchmark" / "spice-dipep-dipolar_val.xyz",
        LabelFormat(forces_key="force", born_charges_order="displacement-polarisation"),
    )
    assert len(dipeptides) == 55
    assert np.isfinite(dipeptides.dipole).all()
    # The acoustic sum rule tells neither order from the other, but that these are Born charges.
    total = np.add.reduceat(dipeptides.born_charges, dipeptides.offsets[:-1])
    assert np.abs(total).max() < 0.2
    water = read_configurations(shared_data / "benchmark" / "water-RPBE-D3_50boxes.xyz")
    assert len(water) == 50
    np.testing.assert_allclose(water.cell[0], 12.429 * np.eye(3))


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
    with pytest.raises(DataError, match=r"short.h5: `forces` has shape"):
        read_configurations(short)
    with pytest.raises(DataError, match="no data file"):
        read_configurations(tmp_path / "absent.h5")
    with pytest.raises(DataError, match="has no `energy`"):
        read_configurations(write_xyz(tmp_path / "toy.xyz", toy))


def test_truncated_xyz_is_refused(tmp_path):
    path = write_xyz(tmp_path / "toy.xyz", toy_configurations(6))
    path.write_text(path.read_text()[:-100])
    with pytest.raises(DataError, match="cannot be read"):
        read_configurations(path, OURS)
