"""A file with a few molecules, from which the examples' scripts make data."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from tests.builders import FORMAMIDE, FORMAMIDE_NUMBERS, WATER, WATER_NUMBERS

AMMONIUM = 0.59 * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
MOLECULES = [(WATER_NUMBERS, WATER, 0), (FORMAMIDE_NUMBERS, FORMAMIDE, 0), ([7, 1, 1, 1, 1], AMMONIUM, 1)]


def source_file(folder: Path) -> Path:
    """Water, formamide and ammonium in each split, in HDF5 of flat arrays."""
    path = folder / "source.h5"
    everything = [(*m, split) for split in ("train", "valid", "test") for m in MOLECULES]
    with h5py.File(path, "w") as file:
        file["offsets"] = np.concatenate([[0], np.cumsum([len(m[0]) for m in everything])])
        file["atomic_numbers"] = np.concatenate([m[0] for m in everything]).astype(np.uint8)
        file["positions"] = np.concatenate([m[1] for m in everything])
        file["total_charge"] = np.array([m[2] for m in everything])
        file["cell"] = np.zeros((len(everything), 3, 3))
        file["split"] = np.char.encode([m[3] for m in everything])
        file["group"] = np.full(len(everything), b"small")
        file["name"] = np.array([b"water/0", b"formamide/0", b"ammonium/0"] * 3)
    return path
