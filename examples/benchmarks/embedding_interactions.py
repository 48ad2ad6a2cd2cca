"""Water and chloride approach a peptide: mechanical and electrostatic embedding against GFN2-xTB.

    python examples/benchmarks/embedding_interactions.py
    python examples/benchmarks/embedding_interactions.py --model my.safetensors

The peptide (ACE-ALA-NME, four conformers) is the ML region; one TIP3P water or Cl- of Amber's force
field comes towards a carbonyl oxygen or an amide hydrogen. Interaction energies of rigid partners by
the Systems of `create_mixed_system` are held against GFN2-xTB of the whole cluster, the level the
shipped model was trained at. Metal cations are left out: in GFN2-xTB 0.24 e of Na+ stay on the peptide
from 5 Å away, which no force field is to follow. Writes ``results/embedding_interactions.json`` and
``.png``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from ase.units import Bohr, Hartree
from openmm import app, unit
from provenance import RESULTS, write_result
from tblite.exceptions import TBLiteRuntimeError
from tblite.interface import Calculator

import openmm_les
from openmm_les.units import KJ_PER_MOL_PER_EV

sys.path.insert(0, str(Path(__file__).parents[1]))
from make_alanine_dipeptide import alanine_dipeptide

CONFORMERS = ((-80.0, 80.0), (-75.0, 150.0), (-150.0, 150.0), (-65.0, -45.0))
DISTANCES = (1.7, 1.8, 1.9, 2.0, 2.2, 2.4, 2.7, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)  # Å
TILTS = (-40.0, 0.0, 40.0)  # degrees
FAR = 1000.0  # Å
# Atoms that partners come to: residue, atom, and the atom it is bonded to.
CARBONYLS = (("ACE", "O", "C"), ("ALA", "O", "C"))
AMIDES = (("ALA", "H", "N"), ("NME", "H", "N"))
APPROACHES = {
    "water to C=O": ("HOH", CARBONYLS),
    "water to N-H": ("HOH", AMIDES),
    "Cl- to N-H": ("CL", AMIDES),
}
IONS = {"CL": (17, -1)}
CONTACT = {"HOH": 1.8, "CL": 2.2}  # Å; nearer, repulsive walls of the force field decide
CLEARANCE = {"HOH": 2.4, "CL": 3.0}  # Å, from all other atoms of the peptide
BEYOND = 3.0  # Å, from where on electrostatics decides


def water(donor: bool) -> np.ndarray:
    """TIP3P water ([3, 3], Å: O, H, H) that comes from +z with an H (donor) or its O first, at 0."""
    length, angle = 0.9572, np.deg2rad(104.52)
    oxygen = np.zeros(3)
    hydrogens = [np.array([0.0, 0.0, -length])]
    hydrogens.append(length * np.array([np.sin(angle), 0.0, -np.cos(angle)]))
    if donor:
        return np.array([oxygen, *hydrogens]) - hydrogens[0]
    half = 0.5 * angle
    away = [length * np.array([sign * np.sin(half), 0.0, np.cos(half)]) for sign in (1.0, -1.0)]
    return np.array([oxygen, *away])


def frame(direction: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Rows x, y, z of a right-handed frame with z along ``direction``."""
    z = direction / np.linalg.norm(direction)
    x = np.cross(normal, z)
    x /= np.linalg.norm(x)
    return np.array([x, np.cross(z, x), z])


def partners(
    kind: str, names: list[tuple[str, str]], peptide: np.ndarray, site: tuple[str, str, str]
) -> list[np.ndarray]:
    """Positions of a partner (Å) on its ways to an atom of the peptide."""
    residue, name, neighbor = site
    end, start = (peptide[names.index((residue, n))] for n in (name, neighbor))
    others = np.linalg.norm(peptide - start, axis=1)
    third = peptide[np.argsort(others)[[2, 3]]].mean(0)  # a neighbour, to span a plane
    normal = np.cross(end - start, third - start)
    found = []
    for tilt in np.deg2rad(TILTS):
        axes = frame(end - start, normal)
        turned = np.cos(tilt) * axes[2] + np.sin(tilt) * axes[0]
        axes = frame(turned, normal)
        shape = np.zeros((1, 3)) if kind != "HOH" else water(donor=name == "O")
        for distance in DISTANCES:
            found.append(end + (shape + np.array([0.0, 0.0, distance])) @ axes)
    return found


def reference_energy(numbers: np.ndarray, positions: np.ndarray, charge: float) -> tuple[float, np.ndarray]:
    """GFN2-xTB energy (kJ/mol) and dipole (e·Å)."""
    calculator = Calculator("GFN2-xTB", numbers, positions / Bohr, charge)
    calculator.set("verbosity", 0)
    result = calculator.singlepoint()
    return result.get("energy") * Hartree * KJ_PER_MOL_PER_EV, result.get("dipole") * Bohr


def contexts(model: openmm_les.LESModel, topology: app.Topology, kind: str) -> dict[str, openmm.Context]:
    """Contexts of peptide and partner by embedding, without cutoffs."""
    modeller = app.Modeller(topology, np.zeros((topology.getNumAtoms(), 3)) * unit.nanometer)
    partner = app.Topology()
    residue = partner.addResidue(kind, partner.addChain())
    symbols = ["O", "H", "H"] if kind == "HOH" else [kind.capitalize()]
    atom_names = ["O", "H1", "H2"] if kind == "HOH" else [kind]
    atoms = [partner.addAtom(n, app.Element.getBySymbol(s), residue) for n, s in zip(atom_names, symbols)]
    for hydrogen in atoms[1:]:
        partner.addBond(atoms[0], hydrogen)
    modeller.add(partner, np.zeros((len(atoms), 3)) * unit.nanometer)
    field = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
    mm_system = field.createSystem(modeller.topology, nonbondedMethod=app.NoCutoff, rigidWater=True)
    made = {}
    for embedding in ("mechanical", "electrostatic"):
        system = openmm_les.create_mixed_system(
            modeller.topology,
            mm_system,
            range(topology.getNumAtoms()),
            model,
            embedding=embedding,
            route="python",
            precision="double",
        )
        made[embedding] = openmm.Context(
            system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
        )
    return made


def energy(context: openmm.Context, positions: np.ndarray) -> float:
    """Potential energy, kJ/mol, at ``positions`` in Å."""
    context.setPositions(0.1 * positions)
    value = context.getState(getEnergy=True).getPotentialEnergy()
    return float(value.value_in_unit(unit.kilojoule_per_mole))


Key = tuple[int, str, str, float, float]
"""Conformer, approach, site, tilt (degrees), distance (Å)."""


def ways() -> Iterator[tuple[Key, np.ndarray, np.ndarray]]:
    """Key, peptide and partner (Å) of every geometry in which the partner meets its site first."""
    topology, _ = alanine_dipeptide()
    names = [(atom.residue.name, atom.name) for atom in topology.atoms()]
    for conformer, torsions in enumerate(CONFORMERS):
        _, peptide = alanine_dipeptide(*torsions)
        peptide = peptide - peptide.mean(0)
        for approach, (kind, sites) in APPROACHES.items():
            for site in sites:
                others = [k for k, (r, n) in enumerate(names) if r != site[0] or n not in site[1:]]
                for index, partner in enumerate(partners(kind, names, peptide, site)):
                    tilt, distance = TILTS[index // len(DISTANCES)], DISTANCES[index % len(DISTANCES)]
                    elsewhere = np.linalg.norm(peptide[others, None] - partner, axis=-1).min()
                    if distance >= CONTACT[kind] and elsewhere >= CLEARANCE[kind]:
                        yield (conformer, approach, "/".join(site[:2]), tilt, distance), peptide, partner


def study(model: openmm_les.LESModel) -> list[dict[str, Any]]:
    """Interaction energies (kJ/mol) of all geometries."""
    topology, _ = alanine_dipeptide()
    numbers = np.array([atom.element.atomic_number for atom in topology.atoms()])
    prepared = {kind: contexts(model, topology, kind) for kind in CONTACT}
    separate: dict[tuple[int, str], dict[str, float]] = {}
    rows = []
    for key, peptide, partner in ways():
        conformer, approach, site, tilt, distance = key
        kind = APPROACHES[approach][0]
        kinds = np.array([8, 1, 1] if kind == "HOH" else [IONS[kind][0]])
        charge = 0.0 if kind == "HOH" else float(IONS[kind][1])
        if (conformer, kind) not in separate:
            apart = np.concatenate([peptide, partner + np.array([FAR, 0.0, 0.0])])
            energies = {name: energy(context, apart) for name, context in prepared[kind].items()}
            energies["gfn2"] = reference_energy(numbers, peptide, 0.0)[0]
            energies["gfn2"] += reference_energy(kinds, partner, charge)[0]
            separate[conformer, kind] = energies
        together = np.concatenate([peptide, partner])
        try:
            whole, _ = reference_energy(np.concatenate([numbers, kinds]), together, charge)
        except TBLiteRuntimeError:  # no self-consistency
            continue
        row = {"approach": approach, "conformer": conformer, "site": site, "tilt": tilt, "distance": distance}
        row["gfn2"] = whole - separate[conformer, kind]["gfn2"]
        for embedding, context in prepared[kind].items():
            row[embedding] = energy(context, together) - separate[conformer, kind][embedding]
        rows.append(row)
    return rows


def dipoles_of(model: openmm_les.LESModel) -> list[dict[str, Any]]:
    """Dipole (e·Å) of each conformer by GFN2-xTB and by the model."""
    topology, _ = alanine_dipeptide()
    numbers = np.array([atom.element.atomic_number for atom in topology.atoms()])
    found = []
    for torsions in CONFORMERS:
        _, peptide = alanine_dipeptide(*torsions)
        charges = model.charge_scale * model.evaluate(peptide, numbers).latent_charges
        reference = reference_energy(numbers, peptide, 0.0)[1]
        found.append(
            {"torsions": torsions, "gfn2": reference.tolist(), "model": (charges @ peptide).tolist()}
        )
    return found


def errors(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Number of geometries, and error of each embedding against GFN2-xTB, kJ/mol."""
    result: dict[str, Any] = {"geometries": len(rows)}
    reference = np.array([row["gfn2"] for row in rows])
    for embedding in ("mechanical", "electrostatic"):
        difference = np.array([row[embedding] for row in rows]) - reference
        result[embedding] = {
            "rmse": float(np.sqrt((difference**2).mean())),
            "mean_error": float(difference.mean()),
        }
    return result


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Curves of the first conformer, straight approach, for each kind of approach."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    styles = {
        "gfn2": ("k-", "GFN2-xTB"),
        "mechanical": ("C1--", "mechanical"),
        "electrostatic": ("C0-", "electrostatic"),
    }
    for panel, approach in zip(figure.subplots(1, len(APPROACHES)), APPROACHES):
        site = APPROACHES[approach][1][0]
        chosen = [
            row
            for row in rows
            if row["approach"] == approach
            and row["conformer"] == 1
            and row["tilt"] == 0.0
            and row["site"] == "/".join(site[:2])
        ]
        for key, (style, label) in styles.items():
            panel.plot([r["distance"] for r in chosen], [r[key] for r in chosen], style, label=label)
        panel.axhline(0.0, color="0.8", linewidth=0.8)
        panel.set_title(f"{approach} of {site[0]}", fontsize="medium")
        panel.set_xlabel("distance (Å)")
        panel.set_ylabel("interaction energy (kJ/mol)")
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run the study and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="peptide-gfn2-small", help="name of a shipped model, or a file")
    parser.add_argument("--name", default="embedding_interactions", help="of the files in results/")
    arguments = parser.parse_args()
    model = openmm_les.load_model(arguments.model).double()
    rows = study(model)
    groups = {}
    for name in APPROACHES:
        chosen = [row for row in rows if row["approach"] == name]
        groups[f"{name}, all"] = errors(chosen)
        groups[f"{name}, beyond {BEYOND:g} Å"] = errors([r for r in chosen if r["distance"] >= BEYOND])
    RESULTS.mkdir(exist_ok=True)
    plot(rows, RESULTS / f"{arguments.name}.png")
    path = write_result(
        arguments.name,
        {
            "model": model.metadata.get("name", Path(arguments.model).name),
            "reference": "GFN2-xTB (tblite)",
            "units": "kJ/mol, Å, e·Å",
            "errors": groups,
            "dipoles": dipoles_of(model),
            "geometries": rows,
        },
    )
    print(f"{'approach':26} {'geometries':>10} {'mechanical':>11} {'electrostatic':>13}  RMSE, kJ/mol")
    for name, found in groups.items():
        values = [found[e]["rmse"] for e in ("mechanical", "electrostatic")]
        print(f"{name:26} {found['geometries']:10d} {values[0]:11.2f} {values[1]:13.2f}")
    print(path)


if __name__ == "__main__":
    main()
