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
from generate_probe_data import label

MODELS = ("peptide-gfn2-small", "water-gfn2-small")


class Contact(NamedTuple):
    """A molecule that comes down the z axis onto another; the atoms that meet lie at the origin."""

    below: Atoms
    above: Atoms
    distances: np.ndarray
    """[n], Å, of the two atoms that meet"""
    marked: tuple[float, float]
    """Å, of the distances, for the summary"""


def facing(atoms: Atoms, index: int, towards: np.ndarray) -> Atoms:
    """The molecule turned so that a direction from its atom ``index``, now the origin, is up."""
    turned = atoms.copy()
    turned.positions -= turned.positions[index]
    turned.rotate(towards, "z", center=(0.0, 0.0, 0.0))
    return turned


def bond(atoms: Atoms, start: int, end: int) -> np.ndarray:
    """Vector of a bond, [3] in Å."""
    return atoms.positions[end] - atoms.positions[start]


def contacts() -> dict[str, Contact]:
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

    def grid(first: float) -> np.ndarray:
        return np.round(np.arange(first, 4.05, 0.1), 1)

    from_above = upside_down(lone_pairs)
    return {
        "water O – water O": Contact(lone_pairs, from_above, grid(1.4), (1.6, 2.0)),
        "water H – water H": Contact(hydrogen, upside_down(hydrogen), grid(0.8), (1.0, 1.2)),
        "methane C – water O": Contact(face, from_above, grid(1.8), (2.2, 2.6)),
        "amide O – water O": Contact(oxygen, from_above, grid(1.4), (1.6, 2.0)),
    }


def interaction(energy, contact: Contact) -> list[float]:
    """Energies of the pair less those of its molecules, [n_distances] in eV.

    ``energy`` takes Atoms and the index of each atom's molecule; NaN where it finds none.
    """
    alone = sum(energy(part, np.zeros(len(part), dtype=int)) for part in (contact.below, contact.above))
    found = []
    for distance in contact.distances:
        above = contact.above.copy()
        above.translate([0.0, 0.0, distance])
        of_atom = np.repeat([0, 1], [len(contact.below), len(above)])
        found.append(float(energy(contact.below + above, of_atom) - alone))
    return found


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


def main() -> None:
    """All contacts by all models that know their elements."""
    models = {name: openmm_les.load_model(name) for name in MODELS}
    result: dict = {"contacts": {}}
    pairs = contacts()
    with figure_to(RESULTS / "contact_walls.png", 12.0, 3.5) as figure:
        for (name, contact), panel in zip(pairs.items(), figure.subplots(1, len(pairs))):
            elements = {*contact.below.numbers.tolist(), *contact.above.numbers.tolist()}
            energies = {"GFN2-xTB": interaction(reference_energy, contact)}
            for title, model in models.items():
                if elements <= set(model.elements):
                    energies[title] = interaction(model_energy(model), contact)
            result["contacts"][name] = {
                "distances_angstrom": contact.distances.tolist(),
                "marked_angstrom": contact.marked,
                "energies_eV": energies,
            }
            for title, values in energies.items():
                style = "k--" if title == "GFN2-xTB" else "o-"
                panel.plot(contact.distances, values, style, label=title, mfc="none", ms=3)
            panel.set(title=name, xlabel="distance (Å)", ylim=(-0.3, 5.0))
            panel.legend(fontsize=8)
        figure.axes[0].set(ylabel="interaction energy (eV)")
    print(write_result("contact_walls", result))


if __name__ == "__main__":
    main()
