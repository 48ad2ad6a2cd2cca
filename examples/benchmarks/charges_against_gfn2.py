"""Dipoles and Born charges of a model's charges against GFN2-xTB, which no training saw.

    python examples/benchmarks/charges_against_gfn2.py gfn2_bec.h5

Reads flat arrays as `examples/generate_gfn2_data.py` lays them out, with ``bec`` [atom, polarisation,
displacement] in e by finite fields. Writes r², slope and errors by split, group and element to
``results/charges-against-gfn2.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from provenance import write_result

from openmm_les import load_model
from openmm_les.analysis.charges import ChargeModel, sum_rule_violation
from openmm_les.elements import symbol
from openmm_les.molecules import connected_molecules, covalent_bonds


def agreement(model: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """r², slope through the origin, mean absolute error and number of components."""
    x, y = reference.ravel(), model.ravel()
    return {
        "components": len(x),
        "r2": float(np.corrcoef(x, y)[0, 1] ** 2),
        "slope": float((x * y).sum() / (x * x).sum()),
        "mae": float(np.abs(x - y).mean()),
    }


def predictions(path: Path, model_name: str) -> dict[str, Any]:
    """Born charges of every atom, dipoles of every configuration, and what they belong to."""
    model = load_model(model_name)
    with h5py.File(path) as file:
        data = {key: item[()] for key, item in file.items()}
    offsets, n = data["offsets"], len(data["offsets"]) - 1
    born, dipoles, references, violations = [], [], [], []
    unshared = 0
    for k in range(n):
        atoms = slice(offsets[k], offsets[k + 1])
        numbers, positions = data["atomic_numbers"][atoms], data["positions"][atoms].astype(float)
        charge = float(data["total_charge"][k])
        bonds = covalent_bonds(positions, numbers)
        try:
            bound = ChargeModel(model, numbers, bonds, total_charge=charge)
        except ValueError:
            # Which molecule carries the charge is not known: bond them all, as training does.
            firsts = np.unique(connected_molecules(bonds, len(numbers)), return_index=True)[1]
            bridges = np.stack([firsts[:-1], firsts[1:]], 1)
            bound = ChargeModel(model, numbers, np.concatenate([bonds, bridges]), total_charge=[charge])
            unshared += 1
        tensors = bound.born_charges(positions[None])
        violations.append(float(sum_rule_violation(tensors, charge)[0]))
        born.append(tensors[0])
        center = bound.masses @ positions / bound.masses.sum()
        dipoles.append(bound.charges(positions[None])[0] @ (positions - center))
        references.append(data["dipole"][k] - charge * center)
    per_atom = np.repeat(np.arange(n), np.diff(offsets))
    return {
        "born": np.concatenate(born),
        "born_reference": data["bec"].reshape(-1, 3, 3),
        "dipole": np.array(dipoles),
        "dipole_reference": np.array(references),
        "numbers": data["atomic_numbers"],
        "configuration": per_atom,
        "group": data["group"].astype(str),
        "split": data["split"].astype(str),
        "sum_rule_violation": max(violations),
        "unshared": unshared,
    }


def table(found: dict[str, Any], chosen: np.ndarray) -> dict[str, Any]:
    """Agreement over the configurations of a mask."""
    atoms = chosen[found["configuration"]]
    elements = {}
    for z in np.unique(found["numbers"][atoms]):
        these = atoms & (found["numbers"] == z)
        isotropic = [found[key][these].trace(axis1=1, axis2=2) / 3 for key in ("born", "born_reference")]
        elements[symbol(int(z))] = {
            "atoms": int(these.sum()),
            "mean_isotropic": float(isotropic[0].mean()),
            "mean_isotropic_reference": float(isotropic[1].mean()),
            "mae": float(np.abs(found["born"][these] - found["born_reference"][these]).mean()),
        }
    return {
        "configurations": int(chosen.sum()),
        "born_charges": agreement(found["born"][atoms], found["born_reference"][atoms]),
        "dipoles": agreement(found["dipole"][chosen], found["dipole_reference"][chosen]),
        "born_charges_by_element": elements,
    }


def main() -> None:
    """Compare and write."""
    parser = argparse.ArgumentParser(description="Dipoles and Born charges against GFN2-xTB.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="peptide-gfn2-small")
    arguments = parser.parse_args()
    found = predictions(arguments.data, arguments.model)
    everything = np.ones(len(found["split"]), dtype=bool)
    test = found["split"] == "test"
    result = {
        "model": Path(arguments.model).name,
        "data": arguments.data.name,
        "units": {"born_charges": "e", "dipoles": "e·Å"},
        "largest_sum_rule_violation": found["sum_rule_violation"],
        "configurations_conserved_as_a_whole": found["unshared"],
        "test": table(found, test),
        "all": table(found, everything),
        "test_by_group": {
            str(g): table(found, test & (found["group"] == g)) for g in np.unique(found["group"][test])
        },
    }
    for name in ("test", "all"):
        for key in ("born_charges", "dipoles"):
            row = result[name][key]
            print(f"{name} {key}: r2 {row['r2']:.3f}, slope {row['slope']:.3f}, MAE {row['mae']:.4f}")
    print(write_result("charges-against-gfn2", result))


if __name__ == "__main__":
    main()
