"""The built-in model on boxes of water of the LES papers, beside the published models.

    python examples/benchmarks/water.py run-water --minutes 30

50 periodic boxes of 64 waters at RPBE-D3: each fifth validates, 40 train; the data are not part of
the repository (`--data`). Writes ``results/water-seed….json``. The published numbers are over all 50
boxes, most of which those models were trained on.
"""

from __future__ import annotations

import ase.io
from literature import arguments, train_and_report

from openmm_les.training.labels import LabelFormat

# The authors' models on their own data (les_fit, of the LES papers).
PUBLISHED = {
    "MACE-LES, 50 boxes": {"force_mae_mev_per_angstrom": 7.96, "energy_mae_mev_per_atom": 0.127},
    "MACE, 50 boxes": {"force_mae_mev_per_angstrom": 11.3, "energy_mae_mev_per_atom": 0.152},
    "CACE-LES, 50 boxes": {"force_mae_mev_per_angstrom": 16.0, "energy_mae_mev_per_atom": 0.140},
    "CACE, 50 boxes": {"force_mae_mev_per_angstrom": 23.8, "energy_mae_mev_per_atom": 0.239},
}


def main() -> None:
    """Split, train, compare, write."""
    options = arguments("Water beside published LES models.", minutes=30.0)
    boxes = ase.io.read(options.data / "water-RPBE-D3_50boxes.xyz", index=":")
    parts = options.run.with_name(options.run.name + "-data")
    parts.mkdir(parents=True, exist_ok=True)
    train_file, valid_file = parts / "train.xyz", parts / "valid.xyz"
    if not valid_file.exists():
        ase.io.write(train_file, [box for i, box in enumerate(boxes) if i % 5 != 4])
        ase.io.write(valid_file, boxes[4::5])
    settings = {
        "data": (str(train_file),),
        "valid": (str(valid_file),),
        "level_of_theory": "RPBE-D3",
        "batch_atoms": 192,
        "channels": 32,
        "validate_every": 200,
    }
    train_and_report("water", options, settings, valid_file, LabelFormat(), PUBLISHED)


if __name__ == "__main__":
    main()
