"""Cations and their neutral parents at one geometry: what a backbone that knows the charge gains.

    python examples/benchmarks/charge_states.py states

Small molecules of gfn2_bio.h5 as they are, each labelled twice by GFN2-xTB: neutral, and with an electron
less (one unpaired electron). The same model goes on as long on both states, with and without
`ChargeEmbedding`. Held-out molecules: force errors of each state and errors of the vertical ionisation
energy. Labels lie in the folder of the runs; the same command goes on where an interrupted one stopped, and
``--only`` trains one model, so that both can be trained side by side. Writes
``results/charge_states.json``. Making labels needs the extra `data`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
from literature import SHARED
from provenance import write_result
from rich.console import Console
from rich.progress import track
from rich.table import Table
from variants import add_options, budget, variant

from openmm_les import load_model
from openmm_les.training.batches import GraphData
from openmm_les.training.metrics import agreement, predict
from openmm_les.training.readers import read_configurations

sys.path.insert(0, str(Path(__file__).parents[1]))

VARIANTS: dict[str, dict[str, Any]] = {
    "without embedding": {},
    "with embedding": {"charge_embedding": True},
}
GROUP = "des_monomer"
PART = 50  # geometries saved at a time; an interrupted run goes on after the last part
LARGEST_FORCE = 10.0  # eV/Å; geometries with a harder one in either state are left out


def geometries(source: Path, split: str, count: int) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Atomic numbers, positions (Å) and names of ``count`` neutral closed-shell molecules of a split."""
    with h5py.File(source, "r") as file:
        data = {key: file[key][()] for key in ("offsets", "atomic_numbers", "positions", "name")}
        chosen = file["split"][()].astype(str) == split
        chosen &= (file["group"][()].astype(str) == GROUP) & (file["total_charge"][()] == 0)
    electrons = np.add.reduceat(data["atomic_numbers"].astype(int), data["offsets"][:-1])
    found = np.flatnonzero(chosen & (electrons % 2 == 0))
    found = np.sort(np.random.default_rng(0).permutation(found)[:count])
    atoms = [slice(data["offsets"][i], data["offsets"][i + 1]) for i in found]
    return [
        (data["atomic_numbers"][a].astype(int), data["positions"][a], data["name"][i].decode())
        for a, i in zip(atoms, found, strict=True)
    ]


def states(numbers: np.ndarray, positions: np.ndarray, name: str) -> Iterator[dict[str, Any]]:
    """Labels of the neutral molecule, then of its cation; nothing where either has none."""
    from molecule_data import label

    try:
        both = [label(numbers, positions, charge, charge) for charge in (0, 1)]
    except RuntimeError:  # no self-consistency
        return
    if max(np.linalg.norm(one["forces"], axis=1).max() for one in both) < LARGEST_FORCE:
        for charge, one in enumerate(both):
            yield {"numbers": numbers, "positions": positions, "name": name, "charge": charge, **one}


def write_states(source: Path, path: Path, counts: dict[str, int]) -> None:
    """Data of both states, one after the other at each geometry, by parts that stay."""
    from molecule_data import assemble

    folder = path.with_suffix(".parts")
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[Path, str] = {}
    progress = Console(stderr=True)
    for split, count in counts.items():
        drawn = geometries(source, split, count)
        for begin in track(range(0, len(drawn), PART), f"labels to {split}", console=progress):
            part = folder / f"{split}-{begin}-of-{count}.npz"
            parts[part] = split
            if part.exists():
                continue
            with contextlib.redirect_stdout(io.StringIO()):  # tblite prints its version
                rows = [row for molecule in drawn[begin : begin + PART] for row in states(*molecule)]
            arrays = {
                "sizes": np.array([len(row["numbers"]) for row in rows]),
                "atomic_numbers": np.concatenate([row["numbers"] for row in rows]).astype(np.uint8),
                "positions": np.concatenate([row["positions"] for row in rows]),
                "forces": np.concatenate([row["forces"] for row in rows]).astype(np.float32),
                "energy": np.array([row["energy"] for row in rows], dtype=np.float64),
                "dipole": np.array([row["dipole"] for row in rows]),
                "total_charge": np.array([row["charge"] for row in rows], dtype=np.int8),
                "name": np.array([row["name"] for row in rows]),
            }
            half = part.with_suffix(".half")
            with half.open("wb") as file:
                np.savez_compressed(file, **arrays)
            half.replace(part)
    assemble(path, parts, "charge_states")


def errors(data: Path, model: Path) -> dict[str, Any]:
    """Held-out errors of forces by state, and of ionisation energies."""
    configurations = read_configurations(data)
    test = configurations.select(configurations.split == "test")
    les_model = load_model(model)
    cutoff = cast(float, les_model.backbone.cutoff)
    predictions = predict(les_model, GraphData(test, cutoff, dtype=next(les_model.parameters()).dtype))
    neutral = test.total_charge == 0.0
    reference = test.energy[~neutral] - test.energy[neutral]
    found = predictions.energy[~neutral] - predictions.energy[neutral]
    return {
        "geometries": int(neutral.sum()),
        "force_mae_neutral_mev_per_angstrom": 1e3 * predictions.errors(neutral)["force_mae"],
        "force_mae_cation_mev_per_angstrom": 1e3 * predictions.errors(~neutral)["force_mae"],
        "ionisation_energy_ev": agreement(reference, found),
        "ionisation_energy_spread_ev": float(reference.std()),
    }


def main() -> None:
    """Make the labels, train both variants, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser, VARIANTS)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "training", help="folder of the data")
    parser.add_argument("--count", type=int, default=2000, help="geometries to train on")
    parser.add_argument("--held-out", type=int, default=300, help="to validate and to test on, each, at most")
    options = parser.parse_args()
    if getattr(load_model(options.init).backbone, "charge_embedding", None) is not None:
        parser.error(
            f"--init must be a model without charge embedding to compare with; {options.init} has one"
        )
    labels = options.run / "charge_states.h5"
    if not labels.exists():
        counts = {"valid": options.held_out, "test": options.held_out, "train": options.count}
        write_states(options.data / "gfn2_bio.h5", labels, counts)
    settings = {"data": (str(labels),), "batch_atoms": 200, "learning_rate": 2e-3, "max_valid": 200}
    results = {}
    for name in [options.only] if options.only else VARIANTS:
        found = variant(name, options, settings | VARIANTS[name], partial(errors, labels))
        if found is None:
            return
        results[name] = found
    if options.only:
        return
    table = Table("model", "force MAE neutral, meV/Å", "cation", "ionisation energy MAE, eV", "r", "steps")
    for name, found in results.items():
        ionisation = found["ionisation_energy_ev"]
        table.add_row(
            name,
            f"{found['force_mae_neutral_mev_per_angstrom']:.1f}",
            f"{found['force_mae_cation_mev_per_angstrom']:.1f}",
            f"{ionisation['mae']:.3f}",
            f"{ionisation['r']:.3f}",
            str(found["steps"]),
        )
    Console(width=110).print(table)
    what = {
        "init": options.init,
        **budget(options),
        "geometries_drawn": options.count,
        "variants": results,
    }
    print(write_result("charge_states", what))


if __name__ == "__main__":
    main()
