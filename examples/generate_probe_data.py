"""Labels molecules in the field of distant probes with GFN2-xTB, out of reach of a short-range model.

    python examples/generate_probe_data.py gfn2.h5 probes.h5
    python examples/generate_probe_data.py gfn2.h5 contacts.h5 --distances 1.3 3 --ion-share 0.2

Forces of molecules at contact hardly tell short range from long range, so that charges learned from
them alone stay near where they started. Here a molecule from the given file meets one or two others,
mostly ions, at 5.5 to 12 Å: beyond the cutoff of the model (4.5 Å) all of their interaction is the
Coulomb energy of the latent charges, and ordinary forces and energies determine these. Cations and
anions come equally often, so that what they induce, which fixed multipoles cannot show, averages out.

With small ``--distances`` the same makes squeezed contacts. Molecules at rest never visit them, and a
model that saw none of them has no wall there: in a long run two atoms fall into each other.
Needs the extra `data`.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import NamedTuple

import numpy as np
from molecule_data import Molecule, as_arrays, data_parser, read_molecules, usable_labels, write_data
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

DISTANCES = (5.5, 12.0)  # Å, between the closest atoms of two molecules
LARGEST_PROBE = 16  # atoms
ION_SHARE = 0.7  # of the probes, where nothing else is asked for
APART = 4.5  # Å; molecules at least that far from each other must keep their charges
STRAY_CHARGE = 0.05  # e; configurations where xTB moves more charge between such are dropped


class Placing(NamedTuple):
    """How molecules meet."""

    nearest: float
    farthest: float
    """Å, between their closest atoms"""
    ion_share: float
    """of the probes"""


def placed(probe: Molecule, others: np.ndarray, placing: Placing, rng: np.random.Generator) -> np.ndarray:
    """Positions of a turned probe whose closest atom is at a random distance from ``others``, Å."""
    turned = probe.positions @ Rotation.random(rng=rng).as_matrix().T
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    wanted = rng.uniform(placing.nearest, placing.farthest)
    low, high = 0.0, 100.0
    # From outside inwards: the outermost place where the distance is the wanted one.
    steps = np.linspace(high, low, 801)
    gaps = np.array([cdist(turned + s * direction, others).min() for s in steps])
    first = int(np.argmax(gaps < wanted))
    low, high = steps[first], steps[first - 1]
    for _ in range(20):
        middle = 0.5 * (low + high)
        if cdist(turned + middle * direction, others).min() < wanted:
            low = middle
        else:
            high = middle
    return turned + high * direction


def configurations(
    drawable: tuple[list[Molecule], np.ndarray], *, placing: Placing, count: int, seed: list[int]
) -> dict[str, np.ndarray]:
    """``count`` labelled configurations of molecules with weights, as arrays of the file's layout."""
    molecules, weights = drawable
    rng = np.random.default_rng(seed)
    small = [m for m in molecules if len(m.numbers) <= LARGEST_PROBE]
    kinds = [[m for m in small if np.sign(m.charge) == sign] for sign in (-1, 0, 1)]
    rows: dict[str, list] = defaultdict(list)
    while len(rows["energy"]) < count:
        parts = [molecules[rng.choice(len(molecules), p=weights)]]
        positions = parts[0].positions
        for _ in range(rng.integers(1, 3)):
            ions = 0.5 * placing.ion_share
            kind = kinds[rng.choice(3, p=[ions, 1.0 - 2.0 * ions, ions])]
            probe = kind[rng.integers(len(kind))]
            positions = np.concatenate([positions, placed(probe, positions, placing, rng)])
            parts.append(probe)
        numbers = np.concatenate([p.numbers for p in parts])
        charge = sum(p.charge for p in parts)
        if abs(charge) > 2:
            continue
        labels = usable_labels(numbers, positions, charge)
        if labels is None:
            continue
        ends = np.cumsum([len(p.numbers) for p in parts])
        found = np.add.reduceat(labels.pop("charges"), np.concatenate([[0], ends[:-1]]))
        strays = np.abs(found - [p.charge for p in parts]).max() > STRAY_CHARGE
        if placing.nearest >= APART and strays:
            continue
        for key, value in dict(atomic_numbers=numbers, positions=positions, **labels).items():
            rows[key].append(value)
        rows["total_charge"].append(charge)
        rows["name"].append(f"{parts[0].name}/{'+'.join(p.name for p in parts[1:])}")
    return as_arrays(rows)


def main() -> None:
    """Command line."""
    parser = data_parser(__doc__, count=5000, held_out=300)
    parser.add_argument(
        "--distances", type=float, nargs=2, default=DISTANCES, metavar="Å", help="between closest atoms"
    )
    parser.add_argument("--ion-share", type=float, default=ION_SHARE, help="of the probes")
    options = parser.parse_args()
    placing = Placing(*options.distances, options.ion_share)
    if not 0.0 < placing.nearest < placing.farthest:
        parser.error(f"--distances must rise from above 0, got {placing.nearest} {placing.farthest}")
    if not 0.0 <= placing.ion_share <= 1.0:
        parser.error(f"--ion-share must be between 0 and 1, got {placing.ion_share}")
    settings = {**placing._asdict(), "groups": options.groups, "source": str(options.source)}
    make = partial(configurations, placing=placing)
    draw = partial(read_molecules, options.source, groups=options.groups)
    group = "probes" if placing.nearest >= APART else "contacts"
    write_data(parser, options, group, settings, draw, make)


if __name__ == "__main__":
    main()
