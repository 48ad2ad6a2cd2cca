"""What a data set holds, and what is wrong with it, before any training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from ase.units import Bohr as BOHR
from scipy.spatial.distance import cdist

from openmm_les.elements import symbol
from openmm_les.exceptions import DataError
from openmm_les.training.data import Configurations, fit_reference_energies

_CLOSEST = 0.3  # Å; no two nuclei of any molecule come this close
_LONG_HYDROGEN_BOND = 1.5  # Å, from a hydrogen to its nearest atom; 0.74 to 1.1 in molecules
_SAME_ENERGY = 0.01  # eV per atom, between labels of the same positions
_SAMPLE = 300  # configurations or pairs of them that are looked at more closely
_LEAST_SLOPE = 0.65  # of energies against the work of the forces, or over it: atomic units are off by 1.89
# Hartree, of free atoms with all their electrons: Chakravorty et al., Phys. Rev. A 47, 3649 (1993).
_ATOMS_IN_HARTREE = {
    1: -0.5, 6: -37.845, 7: -54.589, 8: -75.067, 9: -99.734, 15: -341.259, 16: -398.110, 17: -460.148,
}  # fmt: skip
_BOUND = 0.03  # of that at most is what molecules add to their atoms, relativity to sulphur included
_RARE = 10  # configurations below which an element or a charge is called rare


@dataclass
class Report:
    """What a data set holds and what was taken out of it."""

    n_configurations: int
    n_atoms: int
    elements: dict[int, int]
    """atomic number: configurations that hold it"""
    groups: dict[str, int]
    n_molecules: int
    n_periodic: int
    n_charged: int
    labels: dict[str, int]
    """label that is optional: configurations that have it"""
    rms_force: float
    outliers: list[str]
    """names of configurations whose energies are far off the others', worst first"""
    dropped: dict[str, int] = field(default_factory=dict)
    """reason: configurations taken out"""

    def lines(self) -> Iterator[str]:
        """The report as text."""
        yield (
            f"{self.n_configurations} configurations, {self.n_atoms} atoms, {self.n_molecules} molecules by "
            f"name, {self.n_periodic} periodic, {self.n_charged} charged"
        )
        elements = " ".join(symbol(z) for z in self.elements)
        yield f"elements {elements}; rms force {self.rms_force:.2f} eV/Å"
        rare = [f"{symbol(z)} {n}" for z, n in self.elements.items() if n < _RARE]
        if rare and self.n_configurations > 10 * _RARE:
            yield f"elements in few configurations only: {', '.join(rare)}"
        yield "groups " + ", ".join(f"{name} {count}" for name, count in self.groups.items())
        for label, count in self.labels.items():
            if count:
                yield f"{label}: {count} of {self.n_configurations} configurations"
        missing = [label for label, count in self.labels.items() if not count]
        if missing:
            yield f"no labels of {', '.join(missing)}"
        if self.outliers:
            yield (
                f"energies far off the others of their composition: {len(self.outliers)}, "
                f"worst {', '.join(self.outliers[:3])}"
            )
        for reason, count in self.dropped.items():
            yield f"dropped {count}: {reason}"


def check_configurations(
    configurations: Configurations, *, max_force: float = 10.0, elements: Sequence[int] = ()
) -> tuple[Configurations, Report]:
    """Data fit for training, and what they hold.

    Parameters
    ----------
    configurations : as read
    max_force : eV/Å; configurations with a larger force on an atom are dropped
    elements : atomic numbers a model knows; empty: any

    Raises
    ------
    DataError
        NaN or infinite labels or positions, an impossible atomic number, an element the model
        does not know, a cell without volume, positions or labels in other units, molecules whose
        charges do not add up to the total, or nothing left.
    """
    c = configurations
    if max_force <= 0.0:
        raise DataError(f"`max_force` must be positive, got {max_force}")
    _check_finite(c)
    _check_elements(c, elements)
    _check_geometry(c)
    _check_molecules(c)
    dropped = {}
    largest = np.maximum.reduceat(np.linalg.norm(c.forces, axis=1), c.offsets[:-1])  # [n]
    kept = largest <= max_force
    if not kept.all():
        dropped[f"a force above {max_force:g} eV/Å"] = int((~kept).sum())
        if kept.mean() < 0.5:
            raise DataError(
                f"{(~kept).sum()} of {len(c)} configurations have forces above {max_force:g} eV/Å: "
                "are they in eV/Å? (--force-unit says so if not; raise --max-force if they are)"
            )
        c = c.select(kept)
    repeated = _repeated(c)
    first = repeated < 0
    if not first.all():
        dropped |= _repetitions(c, repeated)
        c = c.select(first)
    _check_energy_scale(c)
    _check_energies_against_forces(c)
    groups, sizes = np.unique(c.group, return_counts=True)
    labels = {
        "dipoles": np.isfinite(c.dipole).all(1),
        "stress": np.isfinite(c.stress).all((1, 2)),
        "polarizabilities": np.isfinite(c.polarizability).all((1, 2)),
        "Born charges": np.minimum.reduceat(np.isfinite(c.born_charges).all((1, 2)), c.offsets[:-1]),
    }
    report = Report(
        n_configurations=len(c),
        n_atoms=int(c.offsets[-1]),
        elements={
            int(z): int(np.logical_or.reduceat(c.numbers == z, c.offsets[:-1]).sum())
            for z in np.unique(c.numbers)
        },
        groups={str(g): int(k) for g, k in zip(groups, sizes)},
        n_molecules=len({name.split("/")[0] for name in c.name}),
        n_periodic=int((c.cell != 0.0).any((1, 2)).sum()),
        n_charged=int((c.total_charge != 0.0).sum()),
        labels={name: int(there.sum()) for name, there in labels.items()},
        rms_force=float(np.sqrt((c.forces**2).sum(1).mean())),
        outliers=energy_outliers(c),
        dropped=dropped,
    )
    return c, report


def _check_finite(c: Configurations) -> None:
    """No NaN or infinity where a number must be, and no cell without volume."""
    for name in ("positions", "forces", "energy", "cell", "total_charge"):
        values = getattr(c, name)
        bad = ~np.isfinite(values).reshape(len(values), -1).all(1)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            where = first if len(values) == len(c) else int(np.searchsorted(c.offsets, first, "right")) - 1
            raise DataError(
                f"`{name}` holds NaN or infinite values, first in configuration {where} ({c.name[where]})"
            )
    flat = (c.cell != 0.0).any((1, 2)) & ~(
        np.abs(np.linalg.det(c.cell)) > 1e-6 * np.linalg.norm(c.cell, axis=2).prod(1)
    )
    if flat.any():
        first = int(np.flatnonzero(flat)[0])
        raise DataError(f"the cell of configuration {first} ({c.name[first]}) has no volume")


def _check_elements(c: Configurations, known: Sequence[int]) -> None:
    """Elements that exist and that the model knows."""
    present = np.unique(c.numbers)
    if present[0] < 1 or present[-1] > 118:
        raise DataError(f"atomic numbers must lie between 1 and 118, got {present[0]} to {present[-1]}")
    unknown = sorted(set(present.tolist()) - set(known)) if len(known) else []
    if unknown:
        raise DataError(
            f"the data hold {' '.join(map(symbol, unknown))}; the model knows {' '.join(map(symbol, known))}"
        )


def _check_molecules(c: Configurations) -> None:
    """Molecules, where they are given, each with one charge, which add up to the configuration's."""
    given = ~np.isnan(np.add.reduceat(c.molecules, c.offsets[:-1]))
    for i in np.flatnonzero(given).tolist():
        molecules, charges = c.molecules[c.atoms_of(i)], c.molecule_charges[c.atoms_of(i)]
        _, firsts, of_atom = np.unique(molecules, return_index=True, return_inverse=True)
        total = charges[firsts].sum()
        if not (charges == charges[firsts][of_atom]).all() or abs(total - c.total_charge[i]) > 1e-6:
            raise DataError(
                f"the `molecule_charges` of configuration {i} ({c.name[i]}) are not one for each of its "
                f"`molecules`, or add up to {total:g} e instead of its total charge {c.total_charge[i]:g} e"
            )


def _check_geometry(c: Configurations) -> None:
    """Distances between nuclei as they are in Å, in a sample of the configurations."""
    hydrogen_bonds: list[np.ndarray] = []
    for i in _sample(len(c)):
        positions, numbers = c.positions[c.atoms_of(i)], c.numbers[c.atoms_of(i)]
        if len(numbers) < 2 or len(numbers) > 2000:
            continue
        distances = cdist(positions, positions)
        np.fill_diagonal(distances, np.inf)
        nearest = distances.min(1)
        if nearest.min() < _CLOSEST:
            raise DataError(
                f"two atoms of configuration {i} ({c.name[i]}) are {nearest.min():.3f} Å apart: are the "
                "positions in Å? (--length-unit says so if not)"
            )
        hydrogen_bonds.append(nearest[numbers == 1])
    bonds = np.concatenate([*hydrogen_bonds, np.zeros(0)])
    if len(bonds) and np.median(bonds) > _LONG_HYDROGEN_BOND:
        raise DataError(
            f"hydrogen atoms are {np.median(bonds):.2f} Å from their nearest atom: are the positions in Å? "
            "(--length-unit says so if not)"
        )


def _repeated(c: Configurations) -> np.ndarray:
    """Which earlier one each repeats, digits beyond 1e-5 Å aside, [n]; -1 where there is none."""
    seen: dict[bytes, int] = {}
    repeated = np.full(len(c), -1)
    rounded = np.round(c.positions, 5) + 0.0  # no negative zeros
    for i in range(len(c)):
        atoms = c.atoms_of(i)
        key = c.numbers[atoms].tobytes() + rounded[atoms].tobytes() + np.round(c.cell[i], 5).tobytes()
        key += c.total_charge[i].tobytes()
        first = seen.setdefault(key, i)
        if first < i:
            repeated[i] = first
    return repeated


def _repetitions(c: Configurations, repeated: np.ndarray) -> dict[str, int]:
    """What repeats positions, and apart from it what has another energy there: one label is wrong."""
    later = np.flatnonzero(repeated >= 0)
    apart = np.abs(c.energy[later] - c.energy[repeated[later]]) > _SAME_ENERGY * c.sizes[later]
    found = {"the same positions as another one": int((~apart).sum())}
    if apart.any():
        first = c.name[later[apart][0]]
        found[f"the same positions as another one, but another energy (first {first})"] = int(apart.sum())
    return {reason: count for reason, count in found.items() if count}


def _check_energy_scale(c: Configurations) -> None:
    """Total energies of all electrons are not in hartree: in eV they are 27 times the sum of such atoms.

    Forces would not tell where they are in hartree/Å, which go with hartree.
    """
    atoms = np.zeros(119)
    atoms[list(_ATOMS_IN_HARTREE)] = list(_ATOMS_IN_HARTREE.values())
    known = np.logical_and.reduceat(atoms[c.numbers] != 0.0, c.offsets[:-1])
    chosen = known & np.logical_or.reduceat(c.numbers > 1, c.offsets[:-1])
    ratio = c.energy[chosen] / np.add.reduceat(atoms[c.numbers], c.offsets[:-1])[chosen]
    if len(ratio) and (np.abs(ratio - 1.0) < _BOUND).all():
        raise DataError(
            f"energies are {np.median(ratio):.3f} times those of free atoms, all electrons, in hartree: are "
            "they in eV? (--energy-unit hartree says so if not; see to --force-unit, too)"
        )


def _check_energies_against_forces(c: Configurations) -> None:
    """Energies change along small displacements as the forces say, in units and in sign."""
    slope, r, n = energy_force_slope(c)
    if n < 10 or abs(r) < 0.9:
        return
    if r < 0.0:
        raise DataError(
            f"energies rise along the forces (correlation {r:.2f} over {n} pairs of frames): "
            "are they gradients?"
        )
    if not _LEAST_SLOPE < slope < 1.0 / _LEAST_SLOPE:
        atomic = " 1.89 means hartree and hartree/bohr, 0.53 positions in bohr." * (
            min(abs(slope * BOHR - 1.0), abs(slope / BOHR - 1.0)) < 0.15
        )
        raise DataError(
            f"between frames energies change {slope:.3g} times as much as the forces say (correlation "
            f"{r:.2f} over {n} pairs): are their units right? (--energy-unit, --force-unit, --length-unit)"
            f"{atomic}"
        )


def energy_force_slope(c: Configurations) -> tuple[float, float, int]:
    """Energy differences between similar frames of one molecule against the work of the forces.

    Frames are laid over each other, and the work is ``-½ (F_a + F_b)·(r_b - r_a)``.

    Returns
    -------
    slope, correlation, number of pairs : 1, 1 and n for consistent labels; NaN without pairs
    """
    last: dict[bytes, int] = {}
    pairs = []
    for i in range(len(c)):
        key = c.numbers[c.atoms_of(i)].tobytes() + c.cell[i].tobytes() + c.total_charge[i].tobytes()
        if key in last:
            pairs.append((last[key], i))
        last[key] = i
    work, change = [], []
    for k in _sample(len(pairs)):
        a, b = pairs[k]
        first, second = c.atoms_of(a), c.atoms_of(b)
        x, y = c.positions[first], c.positions[second]
        force = c.forces[second]
        if not (c.cell[a] != 0.0).any() and len(x) > 1:
            x, y = x - x.mean(0), y - y.mean(0)
            turn = _best_rotation(y, x)
            y, force = y @ turn, force @ turn
        step = y - x
        if 1e-4 < np.sqrt((step**2).sum(1).mean()) < 0.4:
            work.append(-0.5 * float(((c.forces[first] + force) * step).sum()))
            change.append(float(c.energy[b] - c.energy[a]))
    p, q = np.array(work), np.array(change)
    if len(p) < 2 or p.std() == 0.0 or q.std() == 0.0:
        return np.nan, np.nan, len(p)
    return float((p * q).sum() / (p * p).sum()), float(np.corrcoef(p, q)[0, 1]), len(p)


def _best_rotation(moved: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Rotation [3, 3] for which ``moved @ rotation`` lies closest to ``fixed``.

    W. Kabsch, Acta Cryst. A 32, 922 (1976).
    """
    left, _, right = np.linalg.svd(moved.T @ fixed)
    handed = np.sign(np.linalg.det(left @ right))
    return left @ np.diag([1.0, 1.0, handed]) @ right


def energy_outliers(c: Configurations, deviations: float = 15.0) -> list[str]:
    """Names of configurations whose energies per atom no sum over elements explains, worst first.

    Beyond ``deviations`` robust standard deviations (1.48 medians of the absolute residual).
    """
    if len(c) < 20:
        return []
    present = np.unique(c.numbers)
    references = np.zeros(119)
    references[present] = fit_reference_energies(c, present.tolist())
    residual = (c.energy - np.add.reduceat(references[c.numbers], c.offsets[:-1])) / c.sizes
    residual = np.abs(residual - np.median(residual))
    wide = np.flatnonzero(residual > deviations * 1.48 * np.median(residual) + 1e-9)
    return [str(c.name[i]) for i in wide[np.argsort(-residual[wide])]]


def _sample(n: int) -> np.ndarray:
    """Up to a few hundred of ``n`` indices, evenly."""
    return np.unique(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64)) if n else np.zeros(0, np.int64)


__all__ = ["Report", "check_configurations", "energy_force_slope", "energy_outliers"]
