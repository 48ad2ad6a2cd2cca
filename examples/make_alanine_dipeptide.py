"""Builds capped alanine (ACE-ALA-NME, "alanine dipeptide") from bond lengths, angles and torsions.

    python examples/make_alanine_dipeptide.py alanine-dipeptide.pdb

The molecule is made atom by atom: each new atom is placed by its distance to one earlier atom, its
angle to a second and its torsion to a third. Lengths and angles are the usual ones of peptides
(R. A. Engh and R. Huber, Acta Cryst. A47, 392 (1991), rounded); an energy minimisation does the rest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from openmm import app, unit

# Residue, atom, element; bonded to, angle to, torsion to; Å, degrees, degrees.
# "phi" and "psi" stand for the backbone torsions. CB at phi - 120 makes the L form.
METHYL = 1.09, 109.5
PLAN = [
    ("ACE", "CH3", "C", (), 0, 0, 0),
    ("ACE", "C", "C", ("ACE CH3",), 1.52, 0, 0),
    ("ACE", "O", "O", ("ACE C", "ACE CH3"), 1.23, 120.5, 0),
    ("ACE", "H1", "H", ("ACE CH3", "ACE C", "ACE O"), *METHYL, 0),
    ("ACE", "H2", "H", ("ACE CH3", "ACE C", "ACE O"), *METHYL, 120),
    ("ACE", "H3", "H", ("ACE CH3", "ACE C", "ACE O"), *METHYL, -120),
    ("ALA", "N", "N", ("ACE C", "ACE CH3", "ACE O"), 1.33, 116.5, 180),
    ("ALA", "H", "H", ("ALA N", "ACE C", "ACE CH3"), 1.01, 119.0, 0),
    ("ALA", "CA", "C", ("ALA N", "ACE C", "ACE CH3"), 1.46, 121.7, 180),
    ("ALA", "C", "C", ("ALA CA", "ALA N", "ACE C"), 1.525, 111.0, "phi"),
    ("ALA", "CB", "C", ("ALA CA", "ALA N", "ACE C"), 1.53, 110.5, "phi - 120"),
    ("ALA", "HA", "H", ("ALA CA", "ALA N", "ACE C"), 1.09, 108.5, "phi + 120"),
    ("ALA", "HB1", "H", ("ALA CB", "ALA CA", "ALA N"), *METHYL, 60),
    ("ALA", "HB2", "H", ("ALA CB", "ALA CA", "ALA N"), *METHYL, 180),
    ("ALA", "HB3", "H", ("ALA CB", "ALA CA", "ALA N"), *METHYL, -60),
    ("ALA", "O", "O", ("ALA C", "ALA CA", "ALA N"), 1.23, 120.5, "psi + 180"),
    ("NME", "N", "N", ("ALA C", "ALA CA", "ALA N"), 1.33, 116.5, "psi"),
    ("NME", "H", "H", ("NME N", "ALA C", "ALA CA"), 1.01, 119.0, 0),
    ("NME", "C", "C", ("NME N", "ALA C", "ALA CA"), 1.46, 121.7, 180),
    ("NME", "H1", "H", ("NME C", "NME N", "ALA C"), *METHYL, 60),
    ("NME", "H2", "H", ("NME C", "NME N", "ALA C"), *METHYL, 180),
    ("NME", "H3", "H", ("NME C", "NME N", "ALA C"), *METHYL, -60),
]


def place(anchors: list[np.ndarray], distance: float, angle: float, torsion: float) -> np.ndarray:
    """Position of a new atom, [3] in the unit of ``distance``.

    Parameters
    ----------
    anchors : up to three positions, of the bonded atom first
    angle : degrees, new atom - first - second anchor
    torsion : degrees, new atom - first - second - third anchor
    """
    if not anchors:
        return np.zeros(3)
    if len(anchors) == 1:
        return anchors[0] + distance * np.array([1.0, 0.0, 0.0])
    theta, phi = np.deg2rad(angle), np.deg2rad(torsion)
    along = anchors[0] - anchors[1]
    along /= np.linalg.norm(along)
    # With two anchors any torsion will do: one about an arbitrary third point.
    back = anchors[1] - anchors[2] if len(anchors) == 3 else np.array([0.0, 1.0, 0.0])
    normal = np.cross(back, along)
    normal /= np.linalg.norm(normal)
    across = np.cross(normal, along)
    direction = (
        -np.cos(theta) * along + np.sin(theta) * np.cos(phi) * across + np.sin(theta) * np.sin(phi) * normal
    )
    return anchors[0] + distance * direction


def alanine_dipeptide(phi: float = -80.0, psi: float = 80.0) -> tuple[app.Topology, np.ndarray]:
    """Topology and positions ([22, 3], Å) of ACE-ALA-NME with backbone torsions in degrees."""
    torsions = {
        "phi": phi,
        "phi - 120": phi - 120.0,
        "phi + 120": phi + 120.0,
        "psi": psi,
        "psi + 180": psi + 180.0,
    }
    topology = app.Topology()
    chain = topology.addChain("A")
    residues: dict[str, app.topology.Residue] = {}
    positions: dict[str, np.ndarray] = {}
    for residue, name, symbol, anchors, distance, angle, torsion in PLAN:
        if residue not in residues:
            residues[residue] = topology.addResidue(residue, chain)
        topology.addAtom(name, app.Element.getBySymbol(symbol), residues[residue])
        degrees = torsions[torsion] if isinstance(torsion, str) else torsion
        earlier = [positions[anchor] for anchor in anchors]
        positions[f"{residue} {name}"] = place(earlier, distance, angle, degrees)
    topology.createStandardBonds()
    return topology, np.array(list(positions.values()))


def main() -> None:
    """Write the molecule to the PDB file named on the command line."""
    parser = argparse.ArgumentParser(description="Build ACE-ALA-NME.")
    parser.add_argument("output", type=Path, help="PDB file to write")
    parser.add_argument("--phi", type=float, default=-80.0, help="degrees")
    parser.add_argument("--psi", type=float, default=80.0, help="degrees")
    arguments = parser.parse_args()
    topology, positions = alanine_dipeptide(arguments.phi, arguments.psi)
    with open(arguments.output, "w") as file:
        app.PDBFile.writeFile(topology, positions * unit.angstrom, file)


if __name__ == "__main__":
    main()
