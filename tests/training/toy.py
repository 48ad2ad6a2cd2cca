"""Small labelled data made on the spot: charged Lennard-Jones molecules that a model can learn."""

from __future__ import annotations

from pathlib import Path

import ase
import ase.io
import h5py
import numpy as np

from openmm_les.training.data import Configurations

_CHARGES = {1: 0.2, 8: -0.4}
_REFERENCES = {1: -13.0, 8: -110.0}  # eV
_BOND, _ANGLE = 0.96, np.deg2rad(104.5)
_STIFFNESS = 20.0  # eV/Å²


def water(rng: np.random.Generator, center: np.ndarray, noise: float = 0.05) -> np.ndarray:
    """Positions [3, 3] in Å of a distorted water molecule, O first, turned at random."""
    half = 0.5 * _ANGLE
    flat = np.array([[0, 0, 0], [np.sin(half), np.cos(half), 0], [-np.sin(half), np.cos(half), 0]]) * _BOND
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return flat @ turn + center + rng.normal(scale=noise, size=(3, 3))


def energy_and_forces(positions: np.ndarray, numbers: np.ndarray) -> tuple[float, np.ndarray]:
    """Springs inside each water, point charges between them; eV and eV/Å."""
    energy = float(sum(_REFERENCES[int(z)] for z in numbers))
    forces = np.zeros_like(positions)
    charges = np.array([_CHARGES[int(z)] for z in numbers])
    hydrogen_distance = 2.0 * _BOND * np.sin(0.5 * _ANGLE)
    for i in range(len(numbers)):
        for j in range(i):
            vector = positions[i] - positions[j]
            r = np.linalg.norm(vector)
            if i // 3 == j // 3:
                rest = hydrogen_distance if numbers[i] == numbers[j] else _BOND
                energy += 0.5 * _STIFFNESS * (r - rest) ** 2
                slope = _STIFFNESS * (r - rest)
            else:
                energy += 14.399645 * charges[i] * charges[j] / r
                slope = -14.399645 * charges[i] * charges[j] / r**2
            forces[i] -= slope * vector / r
            forces[j] += slope * vector / r
    return energy, forces


def toy_configurations(n: int = 24, seed: int = 0) -> Configurations:
    """``n`` configurations of one, two or three waters, most for training, a few for validation."""
    rng = np.random.default_rng(seed)
    sizes, numbers, positions, forces, energies, dipoles = [], [], [], [], [], []
    for c in range(n):
        waters = 1 + c % 3
        x = np.concatenate([water(rng, np.array([3.2 * k, 0.0, 0.0])) for k in range(waters)])
        z = np.array([8, 1, 1] * waters)
        e, f = energy_and_forces(x, z)
        sizes.append(len(z))
        numbers.append(z)
        positions.append(x)
        forces.append(f)
        energies.append(e)
        dipoles.append(np.array([_CHARGES[int(k)] for k in z]) @ x)
    return Configurations(
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        numbers=np.concatenate(numbers).astype(np.int64),
        positions=np.concatenate(positions),
        forces=np.concatenate(forces),
        energy=np.array(energies),
        cell=np.zeros((n, 3, 3)),
        total_charge=np.zeros(n),
        dipole=np.array(dipoles),
        stress=np.full((n, 3, 3), np.nan),
        born_charges=np.array([_CHARGES[int(z)] * np.eye(3) for z in np.concatenate(numbers)]),
        polarizability=1.4 * (np.array(sizes) / 3).reshape(-1, 1, 1) * np.eye(3),
        molecules=np.full(sum(sizes), np.nan),
        molecule_charges=np.full(sum(sizes), np.nan),
        group=np.array([f"water{1 + c % 3}" for c in range(n)]),
        name=np.array([f"W{1 + c % 3}/{c}" for c in range(n)]),
        split=np.array(["valid" if c % 6 == 5 else "train" for c in range(n)]),
    )


def write_hdf5(path: Path, c: Configurations, leave_out: tuple[str, ...] = ()) -> Path:
    """The flat-array layout that training reads."""
    with h5py.File(path, "w") as file:
        file.attrs["level"] = "springs and point charges"
        file.attrs["units"] = (
            "positions Angstrom; energy eV; forces eV/Angstrom; dipole e*Angstrom; "
            "stress eV/Angstrom^3; virial eV"
        )
        file["atomic_numbers"] = c.numbers.astype(np.uint8)
        for name in (
            "offsets", "positions", "forces", "energy", "cell", "total_charge", "dipole", "born_charges",
            "polarizability",
        ):  # fmt: skip
            if name not in leave_out:
                file[name] = getattr(c, name)
        for name in ("group", "name", "split"):
            if name not in leave_out:
                file[name] = np.char.encode(getattr(c, name))
    return path


def write_xyz(path: Path, c: Configurations) -> Path:
    """Extended XYZ with the labels under names of our own."""
    frames = []
    for i in range(len(c)):
        s = c.atoms_of(i)
        atoms = ase.Atoms(c.numbers[s], c.positions[s])
        atoms.arrays["my_force"] = c.forces[s]
        atoms.arrays["born_charges"] = c.born_charges[s].reshape(-1, 9)
        atoms.info["polarizability"] = c.polarizability[i].ravel()
        atoms.info.update(my_energy=c.energy[i], dipole=c.dipole[i], name=c.name[i], group=c.group[i])
        frames.append(atoms)
    ase.io.write(path, frames)
    return path
