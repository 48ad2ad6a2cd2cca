"""Energy conservation of models with equilibrated charges, latent and induced dipoles, and in a field.

    python examples/benchmarks/extensions_nve.py extensions

Takes the models that `extensions.py` left in its folder. Capped alanine, all ML and alone, 0.5 fs, velocity
Verlet; the model of charges in a uniform field; the polarizable model also in a small box of TIP3P water with
electrostatic embedding. One after the other, or on more cores side by side with ``--only``; finished runs lie
in the same folder. Writes ``results/extensions_nve.json``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openmm
import torch
from embedding_nve import PEPTIDE, alanine_dipeptide, samples, solvated, systems, warmed, without_thermostat
from provenance import write_result
from rich.console import Console
from rich.table import Table
from stability import drift, energy_drift

import openmm_les
from openmm_les.training.trainer import MODEL

FIELD = (1.0, 0.0, 0.0)  # V/nm


@dataclass(frozen=True)
class Case:
    """What is run."""

    variant: str
    """folder of the model"""
    field: tuple[float, float, float] | None = None
    """V/nm"""
    embedded: bool = False


CASES = {
    "charges": Case("charges"),
    "charges in a field": Case("charges", field=FIELD),
    "equilibrated": Case("equilibrated"),
    "dipoles": Case("dipoles"),
    "polarizable": Case("polarizable"),
    "polarizable in water": Case("polarizable", embedded=True),
}


def embedded_drift(model: openmm_les.LESModel, width: float, picoseconds: float) -> dict[str, Any]:
    """Drift of the peptide in a box of water of ``width`` nm, after half a picosecond with a thermostat."""
    modeller, field = solvated(width)
    system = systems(modeller, field, model)["electrostatic"]
    platform = openmm.Platform.getPlatformByName("CPU")
    state = warmed(system, modeller.positions, platform, None)
    times, energies, _ = samples(without_thermostat(system, state, platform), None, picoseconds)
    atoms = modeller.topology.getNumAtoms()
    return {"atoms": atoms, "picoseconds": picoseconds, **drift(times, energies)}


def run(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Drift of a case, JSON-ready."""
    model = openmm_les.load_model(options.run / case.variant / MODEL)
    if case.embedded:
        return embedded_drift(model, options.width, options.embedded_ps)
    found = energy_drift(*alanine_dipeptide(), model, "single", options.ps, case.field)
    return {"atoms": PEPTIDE, **found}


def main() -> None:
    """Run all cases that are not there yet and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of extensions.py")
    parser.add_argument("--ps", type=float, default=10.0, help="of each run in vacuum")
    parser.add_argument("--embedded-ps", type=float, default=5.0, help="of the run in water")
    parser.add_argument("--width", type=float, default=2.0, help="of the box of water, nm")
    parser.add_argument("--only", choices=CASES, help="run this one, no table; several may run side by side")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for name in [options.only] if options.only else CASES:
        kept = options.run / f"nve, {name}.json"
        if not kept.exists():
            kept.write_text(json.dumps(run(CASES[name], options)))
        results[name] = json.loads(kept.read_text())
    if options.only:
        return
    table = Table("charges", "atoms", "ps", "drift, kJ/mol/ps", "fluctuation, kJ/mol")
    for name, found in results.items():
        numbers = (
            found[f"{key}_kJ_per_mol{per}"] for key, per in (("drift", "_per_ps"), ("fluctuation", ""))
        )
        table.add_row(name, str(found["atoms"]), f"{found['picoseconds']:g}", *(f"{n:.4f}" for n in numbers))
    Console(width=110).print(table)
    what = {"molecule": "ACE-ALA-NME", "time_step_fs": 0.5, "precision": "single", "field_V_per_nm": FIELD}
    print(write_result("extensions_nve", {**what, "runs": results}))


if __name__ == "__main__":
    main()
