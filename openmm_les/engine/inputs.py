"""Reads structures and force fields, and builds the molecular-mechanics system of a run."""

from __future__ import annotations

import gzip
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import Vec3, app, unit

from openmm_les.engine.topology import topology_bonds
from openmm_les.molecules import spanning_bonds, whole_images

logger = logging.getLogger(__name__)

_PDB = (".pdb", ".ent")
_CIF = (".cif", ".mmcif", ".pdbx")
_AMBER_TOPOLOGY = (".prmtop", ".prm7", ".parm7", ".top")


@dataclass
class Structure:
    """A topology with its positions, and the Amber file it came from when there is one."""

    topology: app.Topology
    """with the periodic box vectors set when periodic"""
    positions: np.ndarray
    """[n_atoms, 3], nm"""
    prmtop: app.AmberPrmtopFile | None = None
    first_added: int | None = None
    """index of the first atom that `solvate` added"""

    @property
    def periodic(self) -> bool:
        """Whether the structure has a box."""
        return self.topology.getPeriodicBoxVectors() is not None


def read_structure(paths: Sequence[Path]) -> Structure:
    """Structure from one PDB or mmCIF file (``.gz`` too), or an Amber topology and its coordinates.

    Raises
    ------
    FileNotFoundError, ValueError
        for a missing file, a file that cannot be read, an unknown format, coordinates that are
        not finite, or a file without atoms
    """
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
    suffixes = [_suffix(path) for path in paths]
    if len(paths) == 1 and suffixes[0] in _PDB + _CIF:
        structure = _read_pdb(paths[0], suffixes[0])
    elif len(paths) == 2 and suffixes[0] in _AMBER_TOPOLOGY:
        structure = _read_amber(paths[0], paths[1])
    elif suffixes[0] in _AMBER_TOPOLOGY:
        raise ValueError(f"{paths[0]} is an Amber topology: give its coordinates (inpcrd or rst7) after it")
    else:
        raise ValueError(
            "structures are read from one PDB or mmCIF file, or a prmtop and an inpcrd or rst7 file;"
            f" got {' '.join(str(path) for path in paths)}"
        )
    if structure.topology.getNumAtoms() == 0:
        raise ValueError(f"{paths[0]} holds no atoms")
    finite = np.isfinite(structure.positions).all(axis=1)  # [n_atoms]
    if not finite.all():
        index = int(np.argmin(finite))
        atom = list(structure.topology.atoms())[index]
        raise ValueError(
            f"{paths[-1]}: the coordinates of atom {index} ({atom.residue.name} {atom.residue.id}"
            f" {atom.name}) are not finite"
        )
    return _whole(structure)


def _whole(structure: Structure) -> Structure:
    """The same with whole molecules: barostats move molecules as they stand, torn ones apart."""
    box = structure.topology.getPeriodicBoxVectors()
    if box is None:
        return structure
    cell = np.array(box.value_in_unit(unit.nanometer))
    bonds = np.array(topology_bonds(structure.topology), dtype=np.int64).reshape(-1, 2)
    tree = spanning_bonds(bonds, len(structure.positions))
    images = whole_images(tree, structure.positions, cell)
    return replace(structure, positions=structure.positions + images @ cell)


def load_force_field(names: Sequence[str]) -> app.ForceField:
    """OpenMM force field from the names of its built-in XML files or from paths.

    Raises
    ------
    ValueError
        naming the file that is missing or cannot be read
    """
    try:
        return app.ForceField(*names)
    except Exception as error:  # OpenMM's reader lets any parser error through
        raise ValueError(f"cannot read the force field {', '.join(names)}: {error}") from error


def solvate(
    structure: Structure,
    force_field: app.ForceField,
    *,
    padding: float,
    ionic_strength: float,
    water_model: str,
    seed: int,
) -> Structure:
    """The structure in a cubic box of water, with ions that neutralise it.

    Parameters
    ----------
    padding : nm, from the solute's bounding sphere to the faces of the box
    ionic_strength : mol/L, of the Na+ and Cl- added beyond the neutralising ions
    water_model : as `openmm.app.Modeller.addSolvent` names it
    """
    if structure.prmtop is not None:
        raise ValueError("an Amber topology cannot be solvated: pass a PDB or mmCIF file instead")
    check_templates(structure.topology, force_field)
    # Modeller's own padding is the distance between periodic images, not to the faces.
    low, high = structure.positions.min(axis=0), structure.positions.max(axis=0)
    radius = np.linalg.norm(structure.positions - (low + high) / 2, axis=1).max()
    width = 2 * (radius + padding)
    modeller = app.Modeller(structure.topology, structure.positions * unit.nanometer)
    state = random.getstate()
    random.seed(seed)  # Modeller picks the waters that become ions with Python's generator
    try:
        modeller.addSolvent(
            force_field,
            model=water_model,
            boxSize=Vec3(width, width, width) * unit.nanometer,
            ionicStrength=ionic_strength * unit.molar,
        )
    finally:
        random.setstate(state)
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer))
    return Structure(modeller.topology, positions, first_added=structure.topology.getNumAtoms())


def build_mm_system(
    structure: Structure, force_field: app.ForceField | None, *, cutoff: float
) -> openmm.System:
    """Force-field system: PME when periodic, bonds to hydrogen constrained, rigid water.

    Parameters
    ----------
    force_field : needed for every structure that is not an Amber topology
    cutoff : nm

    Raises
    ------
    ValueError
        for a residue without parameters or a box smaller than twice the cutoff
    """
    options: dict[str, Any] = {"constraints": app.HBonds, "rigidWater": True}
    if structure.periodic:
        check_box(structure.topology, cutoff)
        options.update(nonbondedMethod=app.PME, nonbondedCutoff=cutoff * unit.nanometer)
    else:
        options.update(nonbondedMethod=app.NoCutoff)
    if structure.prmtop is not None:
        return structure.prmtop.createSystem(**options)
    if force_field is None:
        raise TypeError("`force_field` is needed for a structure without an Amber topology")
    check_templates(structure.topology, force_field)
    try:
        return force_field.createSystem(structure.topology, **options)
    except openmm.OpenMMException:
        raise
    except Exception as error:  # ForceField raises plain Exception for missing parameters
        raise ValueError(f"the force field cannot describe this structure: {error}") from error


def check_templates(topology: app.Topology, force_field: app.ForceField) -> None:
    """Refuse a topology with residues the force field has no template for."""
    unmatched = force_field.getUnmatchedResidues(topology)
    if not unmatched:
        return
    residue = unmatched[0]
    place = f"{residue.name} {residue.id} (chain {residue.chain.id})"
    more = f" and {len(unmatched) - 1} more" if len(unmatched) > 1 else ""
    symbols = {atom.element.symbol for atom in residue.atoms() if atom.element is not None}
    if "C" in symbols and "H" not in symbols:
        advice = "it has no hydrogen atoms: add them first, for instance with openmm.app.Modeller"
    else:
        advice = (
            f"pass an XML file with the parameters of {residue.name} beside the others (--force-field)"
            " or complete its atoms and bonds"
        )
    raise ValueError(f"the force field has no template for residue {place}{more}; {advice}")


def check_box(topology: app.Topology, cutoff: float) -> None:
    """Refuse a box narrower than twice the cutoff (nm)."""
    vectors = topology.getPeriodicBoxVectors().value_in_unit(unit.nanometer)
    # OpenMM's boxes are lower triangular and reduced: the diagonal holds the widths that count.
    width = min(vectors[i][i] for i in range(3))
    if width < 2 * cutoff:
        raise ValueError(
            f"the box is {width:.3f} nm wide, less than twice the cutoff of {cutoff:g} nm:"
            " use a larger box (--solvate with more --padding) or a shorter --cutoff"
        )


def _suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def _read_pdb(path: Path, suffix: str) -> Structure:
    reader = app.PDBFile if suffix in _PDB else app.PDBxFile
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
            structure = reader(file)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    except Exception as error:  # OpenMM's readers let any parser error through
        raise ValueError(f"cannot read {path} as a structure: {error}") from error
    positions = np.array(structure.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    dimensions = structure.topology.getUnitCellDimensions()
    if dimensions is not None and np.allclose(dimensions.value_in_unit(unit.angstrom), 1.0):
        logger.info("%s has a cell of 1 Å, as PDB files without a crystal have: no box", path)
        structure.topology.setPeriodicBoxVectors(None)
    return Structure(structure.topology, positions.reshape(-1, 3))


def _read_amber(topology_path: Path, coordinate_path: Path) -> Structure:
    try:
        coordinates = app.AmberInpcrdFile(str(coordinate_path))
    except Exception as error:
        raise ValueError(f"cannot read {coordinate_path} as Amber coordinates: {error}") from error
    box = coordinates.boxVectors
    try:
        prmtop = app.AmberPrmtopFile(str(topology_path), periodicBoxVectors=box)
    except Exception as error:
        raise ValueError(f"cannot read {topology_path} as an Amber topology: {error}") from error
    positions = np.array(coordinates.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    if len(positions) != prmtop.topology.getNumAtoms():
        raise ValueError(
            f"{coordinate_path} has {len(positions)} atoms, {topology_path} has"
            f" {prmtop.topology.getNumAtoms()}"
        )
    return Structure(prmtop.topology, positions, prmtop)
