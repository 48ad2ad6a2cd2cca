"""An ion approaches water and a peptide: what free, equilibrated and polarizable charges make of it.

    python examples/benchmarks/ion_response.py free=peptide-gfn2-small equilibrated=run/model.safetensors

Na+ and Cl- of Amber's force field come towards one water and towards ACE-ALA-NME, the ML region in
electrostatic embedding, from 12 to 2 Å. Interaction energies by the Systems of `create_mixed_system`,
and the dipole that the ion induces by the model in the ion's potential, are held against GFN2-xTB of the
whole. GFN2-xTB lets charge flow to Na+ from any distance (at 8 Å the peptide still attracts it by 73 kJ/mol,
and often there is no self-consistency), and beyond 7 Å from Cl- to the peptide: no embedding is to follow
that. So errors are of 3 to 7 Å, and those of Na+ say little. Writes ``results/ion_response.json`` and a
plot beside it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from embedding_interactions import contexts, energy, reference_energy
from openmm import app
from provenance import RESULTS, write_result
from tblite.exceptions import TBLiteRuntimeError

import openmm_les
from openmm_les.analysis.plots import figure_to
from openmm_les.electrostatics import ChargeCoupling
from openmm_les.models.long_range import External
from openmm_les.units import COULOMB_CONSTANT, E_ANGSTROM_PER_DEBYE

sys.path.insert(0, str(Path(__file__).parents[1]))
from make_alanine_dipeptide import alanine_dipeptide

DISTANCES = np.array([2.0, 2.2, 2.4, 2.7, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0])  # Å
COUNTED = 3.0, 7.0  # Å
FAR = 1000.0  # Å
IONS = {"NA": (11, 1.0), "CL": (17, -1.0)}


class Approach(NamedTuple):
    """An ion's way to an atom of the region."""

    region: str
    ion: str
    topology: app.Topology
    positions: np.ndarray
    """[n, 3], Å"""
    end: np.ndarray
    """[3], Å, the atom that the ion comes to"""
    direction: np.ndarray
    """[3], unit vector from there towards the ion"""


def approaches() -> list[Approach]:
    """Na+ to lone pairs and C=O, Cl- along O-H and N-H."""
    water = app.Topology()
    residue = water.addResidue("HOH", water.addChain())
    atoms = [water.addAtom(name, app.Element.getBySymbol(name[0]), residue) for name in ("O", "H1", "H2")]
    for hydrogen in atoms[1:]:
        water.addBond(atoms[0], hydrogen)
    x, y = 0.9572 * np.sin(np.deg2rad(52.26)), 0.9572 * np.cos(np.deg2rad(52.26))
    places = np.array([[0.0, 0.0, 0.0], [x, y, 0.0], [-x, y, 0.0]])
    along = places[1] / np.linalg.norm(places[1])
    topology, positions = alanine_dipeptide()
    peptide = np.asarray(positions, dtype=float)
    names = [(atom.residue.name, atom.name) for atom in topology.atoms()]

    def away(atom: str, bonded: str) -> tuple[np.ndarray, np.ndarray]:
        end, start = (peptide[names.index(("ALA", name))] for name in (atom, bonded))
        return end, (end - start) / np.linalg.norm(end - start)

    return [
        Approach("water", "NA", water, places, places[0], np.array([0.0, -1.0, 0.0])),
        Approach("water", "CL", water, places, places[1], along),
        Approach("peptide", "NA", topology, peptide, *away("O", "C")),
        Approach("peptide", "CL", topology, peptide, *away("H", "N")),
    ]


def moment(model: openmm_les.LESModel, way: Approach, ion: np.ndarray | None) -> np.ndarray:
    """Dipole of the region, [3] in e·Å, in the potential of the ion at a place (Å), or alone."""
    numbers = np.array([atom.element.atomic_number for atom in way.topology.atoms()])
    graph = model.make_graph(way.positions, numbers)
    external = None
    if ion is not None and model.responds:
        coupling = ChargeCoupling(model.electrostatics.smearing, COULOMB_CONSTANT, dtype=torch.float64)
        ones = torch.ones(len(numbers), dtype=torch.float64)
        felt = coupling(
            graph.positions.double(),
            ones,
            torch.tensor(ion, dtype=torch.float64).view(1, 3),
            torch.tensor([IONS[way.ion][1]], dtype=torch.float64),
            None,
        )
        external = External(felt.potential.to(graph.positions), -felt.gradient.to(graph.positions))
    with torch.no_grad():
        found = model(graph, False, external)
        charges = model.physical_charges(found.latent_charges, graph)
        total = charges @ graph.positions + found.latent_dipoles.sum(0)
    return total.double().numpy()


def rms(values: np.ndarray) -> float:
    """Root mean square of what is there."""
    return float(np.sqrt(np.nanmean(values**2)))


def main() -> None:
    """All approaches by all models, the table, the plot and the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", help="LABEL=NAME-OR-FILE")
    named = dict(text.split("=", 1) for text in parser.parse_args().models)
    models = {label: openmm_les.load_model(name) for label, name in named.items()}
    ways = approaches()
    counted = (DISTANCES >= COUNTED[0]) & (DISTANCES <= COUNTED[1])
    result: dict = {
        "models": {k: Path(v).stem for k, v in named.items()},
        "distances_angstrom": DISTANCES.tolist(),
    }
    with figure_to(RESULTS / "ion_response.png", 12.0, 6.0) as figure:
        panels = figure.subplots(2, len(ways), sharex=True)
        for way, (above, below) in zip(ways, panels.T):
            name = f"{way.ion.capitalize()}{'+' if way.ion == 'NA' else '-'} to {way.region}"
            numbers = np.array([atom.element.atomic_number for atom in way.topology.atoms()])
            z, charge = IONS[way.ion]
            alone, dipole_alone = reference_energy(numbers, way.positions, 0.0)
            ion_alone, _ = reference_energy(np.array([z]), np.zeros((1, 3)), charge)
            energies, induced = [], []
            for d in DISTANCES:
                ion = way.end + d * way.direction
                whole = np.append(numbers, z), np.vstack([way.positions, ion]), charge
                try:
                    together, dipole = reference_energy(*whole)
                except TBLiteRuntimeError:  # no self-consistency
                    together, dipole = np.nan, np.full(3, np.nan)
                energies.append(together - alone - ion_alone)
                induced.append((dipole - charge * ion - dipole_alone) @ way.direction)
            rows = {"GFN2-xTB": (np.array(energies), np.array(induced))}
            for label, model in models.items():
                context = contexts(model, way.topology, way.ion)["electrostatic"]
                far = energy(context, np.vstack([way.positions, way.end + FAR * way.direction]))
                still = moment(model, way, None)
                energies, induced = [], []
                for d in DISTANCES:
                    ion = way.end + d * way.direction
                    energies.append(energy(context, np.vstack([way.positions, ion])) - far)
                    induced.append((moment(model, way, ion) - still) @ way.direction)
                rows[label] = np.array(energies), np.array(induced)
            reference = rows["GFN2-xTB"]
            result[name] = {}
            for label, (energies, induced) in rows.items():
                result[name][label] = {
                    "energies_kJ_per_mol": energies.tolist(),
                    "induced_dipoles_debye": (induced / E_ANGSTROM_PER_DEBYE).tolist(),
                    "energy_rmse_kJ_per_mol": rms((energies - reference[0])[counted]),
                    "induced_dipole_rmse_debye": rms(
                        (induced - reference[1])[counted] / E_ANGSTROM_PER_DEBYE
                    ),
                }
                style = "k--" if label == "GFN2-xTB" else "o-"
                above.plot(DISTANCES, energies, style, label=label, mfc="none", ms=4)
                below.plot(DISTANCES, induced / E_ANGSTROM_PER_DEBYE, style, mfc="none", ms=4)
                print(name, label, {k: round(v, 3) for k, v in result[name][label].items() if "rmse" in k})
            above.set(
                title=name, ylim=(1.2 * np.nanmin(reference[0]), max(20.0, 1.1 * np.nanmax(reference[0])))
            )
            below.set(xlabel="distance (Å)")
        panels[0, 0].set(ylabel="interaction energy (kJ/mol)")
        panels[1, 0].set(ylabel="induced dipole along the way (D)")
        panels[0, 0].legend()
    print(write_result("ion_response", result))


if __name__ == "__main__":
    main()
