"""Water and ions approach a peptide: mechanical and electrostatic embedding against GFN2-xTB.

    python examples/benchmarks/embedding_interactions.py
    python examples/benchmarks/embedding_interactions.py --model my.safetensors

The peptide (ACE-ALA-NME, four conformers) is the ML region; one TIP3P water, Na+ or Cl- of Amber's
force field comes towards a carbonyl oxygen or an amide hydrogen. Interaction energies of rigid
partners by the Systems of `create_mixed_system` are held against GFN2-xTB of the whole cluster, the
level the shipped model was trained at. Writes ``results/embedding_interactions.json`` and ``.png``.
"""

from __future__ import annotations

import argparse
import sys
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
NEAREST = 1.55  # Å, of any two atoms of the partners
HIGHEST = 40.0  # kJ/mol; more repulsive geometries are never visited
FAR = 1000.0  # Å
# Atoms that partners come to: residue, atom, and the atom it is bonded to.
CARBONYLS = (("ACE", "O", "C"), ("ALA", "O", "C"))
AMIDES = (("ALA", "H", "N"), ("NME", "H", "N"))
APPROACHES = {
    "water to C=O": ("HOH", CARBONYLS),
    "water to N-H": ("HOH", AMIDES),
    "Na+ to C=O": ("NA", CARBONYLS),
    "Cl- to N-H": ("CL", AMIDES),
}
IONS = {"NA": (11, 1), "CL": (17, -1)}


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


def study(model: openmm_les.LESModel) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Interaction energies of all geometries, and the dipole of each conformer."""
    topology, _ = alanine_dipeptide()
    names = [(atom.residue.name, atom.name) for atom in topology.atoms()]
    numbers = np.array([atom.element.atomic_number for atom in topology.atoms()])
    prepared = {kind: contexts(model, topology, kind) for kind in ("HOH", "NA", "CL")}
    rows, dipoles = [], []
    for conformer, torsions in enumerate(CONFORMERS):
        _, peptide = alanine_dipeptide(*torsions)
        peptide = peptide - peptide.mean(0)
        alone, dipole = reference_energy(numbers, peptide, 0.0)
        of_model = model.charge_scale * model.evaluate(peptide, numbers).latent_charges @ peptide
        dipoles.append({"torsions": torsions, "gfn2": dipole.tolist(), "model": of_model.tolist()})
        for approach, (kind, sites) in APPROACHES.items():
            kinds = np.array([8, 1, 1] if kind == "HOH" else [IONS[kind][0]])
            charge = 0.0 if kind == "HOH" else float(IONS[kind][1])
            shape = np.zeros((1, 3)) if kind != "HOH" else water(donor=True)
            apart = np.concatenate([peptide, shape + np.array([FAR, 0.0, 0.0])])
            separate = {name: energy(context, apart) for name, context in prepared[kind].items()}
            partner_energy = reference_energy(kinds, shape, charge)[0]
            for site in sites:
                for index, partner in enumerate(partners(kind, names, peptide, site)):
                    nearest = np.linalg.norm(peptide[:, None] - partner, axis=-1).min()
                    if nearest < NEAREST:
                        continue
                    together = np.concatenate([peptide, partner])
                    try:
                        whole, _ = reference_energy(np.concatenate([numbers, kinds]), together, charge)
                    except TBLiteRuntimeError:  # no self-consistency
                        continue
                    reference = whole - alone - partner_energy
                    if reference > HIGHEST:
                        continue
                    row = {
                        "approach": approach,
                        "conformer": conformer,
                        "site": "/".join(site[:2]),
                        "tilt": TILTS[index // len(DISTANCES)],
                        "distance": DISTANCES[index % len(DISTANCES)],
                        "gfn2": reference,
                    }
                    for embedding, context in prepared[kind].items():
                        row[embedding] = energy(context, together) - separate[embedding]
                    rows.append(row)
    return rows, dipoles


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

    figure = Figure(figsize=(9.0, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    styles = {
        "gfn2": ("k-", "GFN2-xTB"),
        "mechanical": ("C1--", "mechanical"),
        "electrostatic": ("C0-", "electrostatic"),
    }
    for panel, approach in zip(figure.subplots(2, 2).flat, APPROACHES):
        site = APPROACHES[approach][1][0]
        chosen = [
            row
            for row in rows
            if row["approach"] == approach
            and row["conformer"] == 1
            and row["tilt"] == 0.0
            and row["site"] == "/".join(site[:2])
        ]
        for key, style in styles.items():
            panel.plot([r["distance"] for r in chosen], [r[key] for r in chosen], style, label=key)
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
    rows, dipoles = study(model)
    groups = {name: errors([r for r in rows if r["approach"] == name]) for name in APPROACHES}
    groups["all with water"] = errors([r for r in rows if "water" in r["approach"]])
    groups["all with ions"] = errors([r for r in rows if "water" not in r["approach"]])
    RESULTS.mkdir(exist_ok=True)
    plot(rows, RESULTS / f"{arguments.name}.png")
    path = write_result(
        arguments.name,
        {
            "model": model.metadata.get("name", Path(arguments.model).name),
            "reference": "GFN2-xTB (tblite)",
            "units": "kJ/mol, Å, e·Å",
            "errors": groups,
            "dipoles": dipoles,
            "geometries": rows,
        },
    )
    print(f"{'approach':16} {'geometries':>10} {'mechanical':>11} {'electrostatic':>13}  RMSE, kJ/mol")
    for name, found in groups.items():
        values = [found[e]["rmse"] for e in ("mechanical", "electrostatic")]
        print(f"{name:16} {found['geometries']:10d} {values[0]:11.2f} {values[1]:13.2f}")
    print(path)


if __name__ == "__main__":
    main()
