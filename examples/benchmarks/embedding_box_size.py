"""What a net charge does to the energy of an embedded ligand as the box grows.

    python examples/benchmarks/embedding_box_size.py

Capped lysine (+1, ML, electrostatic embedding) with the waters around it, as one frozen droplet in
ever larger cubic boxes; the force field alone beside it. A charge Q in a neutralising background has
the energy -ξ k Q²/2L of its own images, ξ = 2.837297 (Figueirido, Del Buono and Levy, J. Chem. Phys.
103, 6133 (1995)), and what the droplet's multipoles add falls off as 1/L³ and 1/L⁵. Embedding must show
that law and no other: then corrections known for charged ligands apply as they are. Needs the extra
`data`. Writes ``results/embedding_box_size.json`` and a plot beside it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit
from provenance import RESULTS, write_result

import openmm_les
from openmm_les.analysis.plots import figure_to
from openmm_les.units import OPENMM_COULOMB_CONSTANT

sys.path.insert(0, str(Path(__file__).parents[1]))
from generate_gfn2_data import capped_peptide

CUBIC_LATTICE = 2.837297
EDGES = (5.0, 6.0, 7.0, 8.5, 10.0, 12.0, 15.0)  # nm
REACH = 0.6  # nm, waters with an atom so close to the ligand belong to the droplet


def droplet() -> tuple[app.Modeller, app.ForceField, int]:
    """The ligand with waters around it, relaxed by the force field; its number of atoms."""
    topology, positions = capped_peptide("K")
    field = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
    modeller = app.Modeller(topology, 0.1 * positions * unit.nanometer)
    modeller.addSolvent(field, padding=0.9 * unit.nanometer, neutralize=False)
    system = field.createSystem(modeller.topology, nonbondedMethod=app.PME, constraints=app.HBonds)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001))
    context.setPositions(modeller.positions)
    openmm.LocalEnergyMinimizer.minimize(context, 10.0, 300)
    places = context.getState(getPositions=True).getPositions(asNumpy=True)
    ligand = places[: len(positions)]._value
    far = []
    for residue in modeller.topology.residues():
        if residue.name == "HOH":
            own = places[[atom.index for atom in residue.atoms()]]._value
            if np.linalg.norm(own[:, None] - ligand[None], axis=2).min() > REACH:
                far.append(residue)
    whole = app.Modeller(modeller.topology, places)
    whole.delete(far)
    return whole, field, len(positions)


def energy(system: openmm.System, positions: unit.Quantity, edge: float) -> float:
    """Energy in a cubic box of ``edge`` nm, kJ/mol."""
    system.setDefaultPeriodicBoxVectors(*(edge * np.eye(3)))
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions)
    return context.getState(getEnergy=True).getPotentialEnergy()._value


def main() -> None:
    """All boxes, the fit, the plot and the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="peptide-gfn2-small")
    arguments = parser.parse_args()
    modeller, field, n_ligand = droplet()
    modeller.topology.setPeriodicBoxVectors(3.6 * np.eye(3))
    mm_system = field.createSystem(
        modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.9, ewaldErrorTolerance=1e-5
    )
    systems = {"force field": mm_system}
    for embedding in ("mechanical", "electrostatic"):
        systems[embedding] = openmm_les.create_mixed_system(
            modeller.topology,
            mm_system,
            range(n_ligand),
            openmm_les.load_model(arguments.model),
            embedding,
            precision="double",
        )
    edges = np.array(EDGES)
    law = -0.5 * CUBIC_LATTICE * OPENMM_COULOMB_CONSTANT  # kJ nm/mol for one elementary charge
    result: dict = {"model": arguments.model, "atoms": modeller.topology.getNumAtoms(), "edges_nm": EDGES}
    result["law_kJ_nm_per_mol"] = law
    with figure_to(RESULTS / "embedding_box_size.png", 7.0, 4.0) as figure:
        axes = figure.add_subplot()
        for marker, (name, system) in zip("ox+", systems.items()):
            energies = np.array([energy(system, modeller.positions, edge) for edge in edges])
            # E = E∞ + a/L + b/L³ + c/L⁵
            terms = np.stack([edges ** -float(n) for n in (0, 1, 3, 5)], 1)
            found, *_ = np.linalg.lstsq(terms, energies, rcond=None)
            residual = energies - terms @ found
            result[name] = {
                "energies_kJ_per_mol": energies.tolist(),
                "slope_kJ_nm_per_mol": float(found[1]),
                "largest_residual_kJ_per_mol": float(np.abs(residual).max()),
            }
            print(name, result[name]["slope_kJ_nm_per_mol"], result[name]["largest_residual_kJ_per_mol"])
            axes.plot(1.0 / edges, energies - found[0], f"{marker}-", label=name, mfc="none")
        axes.plot(1.0 / edges, law / edges, "k--", label="-ξ k Q²/2L")
        axes.set(xlabel="1 / box edge (1/nm)", ylabel="energy less its limit (kJ/mol)")
        axes.legend()
    print(write_result("embedding_box_size", result))


if __name__ == "__main__":
    main()
