"""Molecules coloured by charge: a page to turn around in a browser or notebook, or a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mdtraj
import numpy as np

from openmm_les.analysis.plots import figure_to
from openmm_les.analysis.trajectories import topology_bonds
from openmm_les.elements import covalent_radii

COLOR_MAP = "coolwarm_r"
"""Red is negative, blue positive, as electrostatic potentials are drawn."""


def view_charges(
    topology: mdtraj.Topology, positions: np.ndarray, charges: np.ndarray, *, limit: float | None = None
) -> Any:
    """A `py3Dmol.view` of sticks and balls, coloured by charge; the value shows on hover.

    Parameters
    ----------
    topology : of the atoms, with bonds
    positions : [n_atoms, 3], Å
    charges : [n_atoms], e
    limit : e, the charge of full colour; None = the largest

    Raises
    ------
    ImportError
        py3Dmol is not installed.
    """
    try:
        import py3Dmol
    except ImportError as error:
        raise ImportError("the view needs py3Dmol: pip install 'openmm-les[analysis]'") from error

    colors = charge_colors(charges, limit)
    view = py3Dmol.view(width=640, height=480)
    view.addModel(_mol2(topology, positions, charges), "mol2", {"keepH": True})
    for index, color in enumerate(colors):
        style = {"stick": {"radius": 0.12, "color": color}, "sphere": {"scale": 0.25, "color": color}}
        view.setStyle({"index": index}, style)
    label = "function(atom, viewer) { atom.charge_label = viewer.addLabel(atom.atom + ' ' + "
    label += "(atom.properties.charge || atom.charge || atom.partialCharge || 0).toFixed(3) + ' e', "
    label += "{position: atom, fontSize: 12}); }"
    view.setHoverable({}, True, label, "function(atom, viewer) { viewer.removeLabel(atom.charge_label); }")
    view.zoomTo()
    return view


def write_view(
    topology: mdtraj.Topology,
    positions: np.ndarray,
    charges: np.ndarray,
    path: Path,
    *,
    limit: float | None = None,
) -> None:
    """Write `view_charges` as an HTML page; it loads 3Dmol.js from the net when opened."""
    view = view_charges(topology, positions, charges, limit=limit)
    scale = float(np.abs(charges).max()) if limit is None else limit
    caption = (
        f"<p>charge in e: red {-scale:.2f}, white 0, blue {scale:.2f}; hover over an atom for its own</p>"
    )
    path.write_text(f"<!doctype html><meta charset='utf-8'>{view._make_html()}{caption}\n", encoding="utf-8")


def draw_charges(
    topology: mdtraj.Topology,
    positions: np.ndarray,
    charges: np.ndarray,
    path: Path,
    title: str,
    *,
    limit: float | None = None,
) -> None:
    """Draw the molecule, coloured by charge, as PNG, seen along its shortest extent.

    Parameters as in `view_charges`.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Circle

    limit = float(np.abs(charges).max()) if limit is None else limit
    places = positions - positions.mean(0)
    axes = np.linalg.eigh(places.T @ places)[1].T[::-1]  # longest extent first; three, however few atoms
    turned = places @ axes.T
    turned[:, 2] *= np.sign(np.linalg.det(axes))  # not the mirror image
    colors = charge_colors(charges, limit)
    with figure_to(path, 6.0, 4.0) as figure:
        panel = figure.subplots()
        for bond in topology_bonds(topology):
            depth = turned[bond, 2].min() - 0.1  # below both of its atoms
            panel.plot(*turned[bond, :2].T, color="#777777", linewidth=3.0, zorder=2.0 + 1e-3 * depth)
        for atom, place, color in zip(topology.atoms, turned, colors):
            radius = 0.55 * covalent_radii[atom.element.atomic_number]
            circle = Circle(place[:2], radius, facecolor=color, edgecolor="black", linewidth=0.8)
            panel.add_patch(circle).set_zorder(2.0 + 1e-3 * place[2])
            if atom.element.symbol != "H":
                panel.annotate(
                    atom.element.symbol, place[:2], ha="center", va="center", fontsize=7,
                    zorder=2.0005 + 1e-3 * place[2],
                )  # fmt: skip
        panel.set_aspect("equal")
        panel.autoscale_view()
        panel.set_axis_off()
        panel.set_title(title, fontsize=10)
        bar = ScalarMappable(Normalize(-limit, limit), COLOR_MAP)
        figure.colorbar(bar, ax=panel, shrink=0.8, label="charge (e)")


def charge_colors(charges: np.ndarray, limit: float | None = None) -> list[str]:
    """Colour of each charge as ``#rrggbb``; white at zero, full at ``limit`` (e), None = the largest."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    scale = float(np.abs(charges).max()) if limit is None else limit
    if not scale > 0.0:
        scale = 1.0
    return [to_hex(color) for color in colormaps[COLOR_MAP](0.5 + 0.5 * np.clip(charges / scale, -1, 1))]


def _mol2(topology: mdtraj.Topology, positions: np.ndarray, charges: np.ndarray) -> str:
    """MOL2 text, which carries bonds and charges."""
    atoms, bonds = list(topology.atoms), list(topology.bonds)
    lines = ["@<TRIPOS>MOLECULE", "molecule", f"{len(atoms)} {len(bonds)} 1", "SMALL", "USER_CHARGES", ""]
    lines.append("@<TRIPOS>ATOM")
    for atom, (x, y, z), charge in zip(atoms, positions, charges):
        place = f"{x:.4f} {y:.4f} {z:.4f}"
        residue = f"{atom.residue.resSeq} {atom.residue.name}"
        lines.append(f"{atom.index + 1} {atom.name} {place} {atom.element.symbol} {residue} {charge:.4f}")
    lines.append("@<TRIPOS>BOND")
    lines += [f"{k + 1} {b.atom1.index + 1} {b.atom2.index + 1} 1" for k, b in enumerate(bonds)]
    return "\n".join(lines) + "\n"


__all__ = ["charge_colors", "draw_charges", "view_charges", "write_view"]
