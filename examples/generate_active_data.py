"""Labels what a model's own hot dynamics visits, by GFN2-xTB: where it is wrong there, it learns.

    python examples/generate_active_data.py gfn2.h5 active.h5 --model my.safetensors

A model that has a hole walks into it. Molecules of the given file, half of them with an acid's hydrogen,
some of them with an acceptor placed before a donor (`generate_shared_protons.py`), run for 0.6 ps at 400 to
1100 K with the model, a dozen or two at once; frames where a force errs by more than 0.7 eV/Å are kept, and a
third of the others. Molecules and their charges are those of the start, and stand in the file. Needs the
extra `data`.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openmm
from ase import Atoms
from generate_shared_protons import Meetings
from generate_stretched_data import CLOSEST
from lone_molecules import system_of
from molecule_data import Molecule, as_arrays, data_parser, read_molecules, usable_labels, write_data
from openmm import unit
from scipy.spatial.distance import pdist

import openmm_les
from openmm_les.molecules import connected_molecules, covalent_bonds, formal_charges

STARTS = {"acid": 0.5, "meeting": 0.3, "any": 0.2}  # shares
ATOMS = 400  # of a run, at least
TEMPERATURES = (400.0, 1100.0)  # K
TIME_STEP = 1.5  # fs
PICOSECONDS = 0.6
FRAME_STEPS = 20  # between frames
WRONG = 0.7  # eV/Å, of a component of a force: such frames are kept
RIGHT_SHARE = 0.3  # of the others
TORN = 3.2  # Å; nothing is learned where a bond of the start is longer


class Starts(NamedTuple):
    """Where dynamics may start."""

    meetings: Meetings
    molecules: list[Molecule]
    weights: np.ndarray

    def draw(self, rng: np.random.Generator) -> Molecule:
        """One molecule or cluster."""
        kind = rng.choice(list(STARTS), p=list(STARTS.values()))
        if kind == "acid" and self.meetings.donors.has("acid hydrogen"):
            return self.meetings.donors.draw_from("acid hydrogen", rng).molecule
        if kind == "meeting":
            return self.meetings.draw(rng).molecule
        return self.molecules[rng.choice(len(self.molecules), p=self.weights)]


def drawn(split: str, source: Path, groups: list[str]) -> Starts:
    """Starts of a split of a file."""
    molecules, weights = read_molecules(source, split, groups)
    return Starts(Meetings(molecules, weights, np.random.default_rng(0)), molecules, weights)


def visited(
    starts: list[Molecule], model: openmm_les.LESModel, rng: np.random.Generator
) -> list[list[np.ndarray]]:
    """Positions of each start in the frames of one hot run, Å; fewer where the run ended in an error."""
    every = [Atoms(start.numbers, start.positions) for start in starts]
    charges = [formal_charges(one.numbers, covalent_bonds(one.positions, one.numbers)) for one in every]
    system, positions = system_of(every, model, np.concatenate(charges).tolist())
    temperature = rng.uniform(*TEMPERATURES)
    integrator = openmm.LangevinMiddleIntegrator(temperature, 1.0 / unit.picosecond, 1e-3 * TIME_STEP)
    integrator.setRandomNumberSeed(int(rng.integers(1, 2**30)))
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(0.1 * positions)
    context.setVelocitiesToTemperature(temperature, int(rng.integers(1, 2**30)))
    ends = np.cumsum([len(one) for one in every])[:-1]
    frames: list[list[np.ndarray]] = [[] for _ in starts]
    for _ in range(round(1e3 * PICOSECONDS / TIME_STEP / FRAME_STEPS)):
        try:
            integrator.step(FRAME_STEPS)
        except openmm.OpenMMException:  # it fell into a hole without a floor
            break
        state = context.getState(positions=True)
        places = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        for found, x in zip(frames, np.split(places, ends)):
            found.append(x - x.mean(0))
    return frames


def configurations(
    starts: Starts, *, model: openmm_les.LESModel, count: int, seed: list[int]
) -> dict[str, np.ndarray]:
    """``count`` labelled frames of a model's hot dynamics, as arrays of the file's layout."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list] = defaultdict(list)
    while len(rows["energy"]) < count:
        chosen: list[Molecule] = []
        while sum(len(start.numbers) for start in chosen) < ATOMS:
            chosen.append(starts.draw(rng))
        for start, frames in zip(chosen, visited(chosen, model, rng)):
            for x in frames:
                add_frame(rows, start, x, model, rng)
    return as_arrays({key: values[:count] for key, values in rows.items()})


def add_frame(
    rows: dict[str, list],
    start: Molecule,
    x: np.ndarray,
    model: openmm_les.LESModel,
    rng: np.random.Generator,
) -> None:
    """Add a frame with its labels where something is to be learned from it."""
    numbers = start.numbers
    bonds = covalent_bonds(start.positions, numbers)
    longest = np.linalg.norm(x[bonds[:, 0]] - x[bonds[:, 1]], axis=1).max(initial=0.0)
    if len(numbers) < 2 or longest > TORN or pdist(x).min() < CLOSEST:
        return
    labels = usable_labels(numbers, x, start.charge)
    if labels is None:
        return
    of_atom = connected_molecules(bonds, len(numbers))
    charges = formal_charges(numbers, bonds)
    guess = model.evaluate(x, numbers, molecules=of_atom, total_charge=charges.tolist())
    wrong = np.abs(guess.forces - labels["forces"]).max() > WRONG
    if not (wrong or rng.random() < RIGHT_SHARE):
        return
    found = {"atomic_numbers": numbers, "positions": x, "molecules": of_atom}
    for key, value in {**found, "molecule_charges": charges[of_atom], **labels}.items():
        rows[key].append(value)
    rows["total_charge"].append(start.charge)
    rows["name"].append(start.name)


def main() -> None:
    """Command line."""
    parser = data_parser(__doc__, count=3000, held_out=100)
    parser.add_argument(
        "--model", default="peptide-gfn2-small", help="its file, or the name of a shipped one"
    )
    options = parser.parse_args()
    settings = {"groups": options.groups, "source": str(options.source), "model": options.model}
    make = partial(configurations, model=openmm_les.load_model(options.model))
    draw = partial(drawn, source=options.source, groups=options.groups)
    write_data(parser, options, "active", settings, draw, make)


if __name__ == "__main__":
    main()
