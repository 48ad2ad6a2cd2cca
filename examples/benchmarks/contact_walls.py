"""Two molecules pushed into each other: do the shipped models push back as GFN2-xTB does?

    python examples/benchmarks/contact_walls.py

Rigid molecules approach along a line through the two atoms that face each other, far closer than they
come at 300 K. Interaction energies of the shipped models stand beside GFN2-xTB's. Writes
``results/contact_walls.json`` and a plot beside it. Needs the extra `data`.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.build import molecule
from provenance import RESULTS, write_result
from tblite.exceptions import TBLiteRuntimeError

import openmm_les
from openmm_les.analysis.plots import figure_to

sys.path.insert(0, str(Path(__file__).parents[1]))
from generate_gfn2_data import peptide_atoms
from molecule_data import label

MODELS = ("peptide-gfn2-small", "water-gfn2-small")
PANELS = 4  # in a row of the plot


class Wall(NamedTuple):
    """Geometries along a distance."""

    distances: np.ndarray
    """[n], Å"""
    geometries: list[Atoms]
    """One for each distance"""
    zero: list[Atoms]
    """Molecules whose energies together are the zero, each on its own"""
    marked: tuple[float, float]
    """Å, of the distances, for the summary"""
    molecules: np.ndarray
    """[n_atoms], index of each atom's molecule"""


def facing(atoms: Atoms, index: int, towards: np.ndarray) -> Atoms:
    """The molecule turned so that a direction from its atom ``index``, now the origin, is up."""
    turned = atoms.copy()
    turned.positions -= turned.positions[index]
    turned.rotate(towards, "z", center=(0.0, 0.0, 0.0))
    return turned


def bond(atoms: Atoms, start: int, end: int) -> np.ndarray:
    """Vector of a bond, [3] in Å."""
    return atoms.positions[end] - atoms.positions[start]


def approach(below: Atoms, above: Atoms, first: float, marked: tuple[float, float]) -> Wall:
    """A molecule comes down the z axis onto another; the atoms that meet lie at the origin."""
    distances = np.round(np.arange(first, 4.05, 0.1), 1)
    geometries = []
    for distance in distances:
        moved = above.copy()
        moved.translate([0.0, 0.0, distance])
        geometries.append(below + moved)
    return Wall(distances, geometries, [below, above], marked, np.repeat([0, 1], [len(below), len(above)]))


def contacts() -> dict[str, Wall]:
    """Facing atoms of waters, methane and N-methylacetamide (ACE-NME)."""
    water, methane, amide = molecule("H2O"), molecule("CH4"), peptide_atoms("")
    lone_pairs = facing(water, 0, -(bond(water, 0, 1) + bond(water, 0, 2)))
    hydrogen = facing(water, 1, bond(water, 0, 1))
    face = facing(methane, 0, bond(methane, 1, 0))
    carbonyl = int(np.flatnonzero(amide.numbers == 8)[0])
    carbon = int(amide.get_distances(carbonyl, range(len(amide))).argsort()[1])
    oxygen = facing(amide, carbonyl, bond(amide, carbon, carbonyl))

    def upside_down(atoms: Atoms) -> Atoms:
        turned = atoms.copy()
        turned.rotate(180.0, "x", center=(0.0, 0.0, 0.0))
        return turned

    from_above = upside_down(lone_pairs)
    return {
        "water O – water O": approach(lone_pairs, from_above, 1.4, (1.6, 2.0)),
        "water H – water H": approach(hydrogen, upside_down(hydrogen), 0.8, (1.0, 1.2)),
        "methane C – water O": approach(face, from_above, 1.8, (2.2, 2.6)),
        "amide O – water O": approach(oxygen, from_above, 1.4, (1.6, 2.0)),
    }


def reference_energy(atoms: Atoms, of_atom: np.ndarray) -> float:
    """GFN2-xTB energy, eV; NaN without self-consistency."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # tblite prints its version
            return float(label(atoms.numbers, atoms.positions, 0.0)["energy"])
    except TBLiteRuntimeError:
        return np.nan


def model_energy(model: openmm_les.LESModel):
    """Function of Atoms and molecules that gives a model's energy, eV."""

    def energy(atoms: Atoms, of_atom: np.ndarray) -> float:
        charges = np.zeros(of_atom.max() + 1)
        return model.evaluate(atoms.positions, atoms.numbers, total_charge=charges, molecules=of_atom).energy

    return energy


def compare(walls: dict[str, Wall], plot: Path, what: str) -> dict[str, dict]:
    """Energies of all walls by all models that know their elements, and by GFN2-xTB; drawn in ``plot``."""
    models = {name: openmm_les.load_model(name) for name in MODELS}
    found = {}
    rows = -(-len(walls) // PANELS)
    with figure_to(plot, 3.0 * PANELS, 3.5 * rows) as figure:
        panels = figure.subplots(rows, PANELS, squeeze=False, sharey=True)
        for panel in panels.flat[len(walls) :]:
            panel.set_axis_off()
        for (name, wall), panel in zip(walls.items(), panels.flat):
            known = [n for n, m in models.items() if set(wall.geometries[0].numbers) <= set(m.elements)]
            energies = {}
            for title in ("GFN2-xTB", *known):
                energy = reference_energy if title == "GFN2-xTB" else model_energy(models[title])
                zero = sum(energy(part, np.zeros(len(part), dtype=int)) for part in wall.zero)
                values = [energy(atoms, wall.molecules) - zero for atoms in wall.geometries]
                energies[title] = [None if np.isnan(value) else value for value in values]
                style = "k--" if title == "GFN2-xTB" else "o-"
                panel.plot(wall.distances, values, style, label=title, mfc="none", ms=3)
            found[name] = {
                "distances_angstrom": wall.distances.tolist(),
                "marked_angstrom": wall.marked,
                "energies_eV": energies,
            }
            panel.set(title=name, xlabel="distance (Å)")
            panel.legend(fontsize=8)
        for panel in panels[:, 0]:
            panel.set(ylabel=f"{what} (eV)", ylim=(-0.3, 5.0))
    return found


def main() -> None:
    """All contacts."""
    found = compare(contacts(), RESULTS / "contact_walls.png", "interaction energy")
    print(write_result("contact_walls", {"contacts": found}))


if __name__ == "__main__":
    main()
