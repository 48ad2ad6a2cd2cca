"""The folder of a run: its file names, its creation, and what is needed to continue it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openmm
from openmm import Vec3, app, unit


class RunDirectory:
    """Files of one run under ``path``.

    The checkpoint is the only witness of how far a run came: it is replaced in one step, after
    the frames and rows before it are on disk, and what lies beyond it is cut off on resuming.
    """

    def __init__(self, path: Path, trajectory_format: str = "dcd") -> None:
        self.path = path
        self.settings = path / "settings.json"
        self.initial = path / "initial.pdb"
        self.final = path / "final.pdb"
        self.trajectory = path / f"trajectory.{trajectory_format}"
        self.energies = path / "energies.csv"
        self.plot = path / "energies.png"
        self.checkpoint = path / "checkpoint.chk"
        self.state = path / "state.xml"
        self.mm_system = path / "mm_system.xml"
        self.topology = path / "topology.json"

    @contextmanager
    def reserve(self) -> Iterator[None]:
        """Create the folder at once, and take it away again if the block leaves it empty.

        Raises
        ------
        FileExistsError
            for a folder with files in it, or a file of that name
        OSError
            when the folder cannot be created or written to
        """
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"{self.path} exists and is not a folder")
        if self.path.is_dir() and any(self.path.iterdir()):
            raise FileExistsError(
                f"{self.path} is not empty: choose another --output, or continue the run in it with --resume"
            )
        missing = [parent for parent in (self.path, *self.path.parents) if not parent.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise type(error)(f"cannot write to {self.path}: {error.strerror}") from error
        try:
            yield
        finally:
            for folder in missing:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def check_resumable(self) -> None:
        """Refuse a folder that holds no run, or one that never reached its first checkpoint.

        Raises
        ------
        FileNotFoundError
            naming what is missing
        """
        if not self.path.is_dir():
            raise FileNotFoundError(f"no such run: {self.path}")
        needed = (self.settings, self.topology, self.checkpoint, self.energies, self.trajectory)
        for file in needed:
            if not file.is_file():
                raise FileNotFoundError(f"{self.path} holds no run to resume: {file.name} is missing")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file in one step, so that a reader finds the old content or the new, never a part."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def topology_to_json(topology: app.Topology) -> str:
    """A topology as JSON, with every name, bond and box vector (PDB files lose some of them)."""
    box = topology.getPeriodicBoxVectors()
    document: dict[str, Any] = {
        "chains": [chain.id for chain in topology.chains()],
        "residues": [
            [residue.chain.index, residue.name, residue.id, residue.insertionCode]
            for residue in topology.residues()
        ],
        "atoms": [
            [
                atom.residue.index,
                atom.name,
                atom.element.symbol if atom.element else None,
                atom.id,
                atom.formalCharge,
            ]
            for atom in topology.atoms()
        ],
        "bonds": [
            [bond.atom1.index, bond.atom2.index, str(bond.type) if bond.type else None, bond.order]
            for bond in topology.bonds()
        ],
        "box": None if box is None else [list(v) for v in box.value_in_unit(unit.nanometer)],
    }
    return json.dumps(document)


def topology_from_json(text: str) -> app.Topology:
    """The topology that `topology_to_json` wrote."""
    document = json.loads(text)
    topology = app.Topology()
    chains = [topology.addChain(name) for name in document["chains"]]
    residues = [
        topology.addResidue(name, chains[chain], identifier, insertion)
        for chain, name, identifier, insertion in document["residues"]
    ]
    atoms = []
    for residue, name, symbol, identifier, charge in document["atoms"]:
        element = None if symbol is None else app.Element.getBySymbol(symbol)
        atoms.append(topology.addAtom(name, element, residues[residue], identifier, charge))
    bond_types = {str(kind): kind for kind in (app.Single, app.Double, app.Triple, app.Aromatic, app.Amide)}
    for first, second, kind, order in document["bonds"]:
        topology.addBond(atoms[first], atoms[second], bond_types.get(kind), order)
    if document["box"] is not None:
        topology.setPeriodicBoxVectors([Vec3(*v) for v in document["box"]] * unit.nanometer)
    return topology


def write_pdb(path: Path, topology: app.Topology, state: openmm.State) -> None:
    """Positions and box of a state as PDB."""
    if topology.getPeriodicBoxVectors() is not None:
        topology.setPeriodicBoxVectors(state.getPeriodicBoxVectors())
    with open(path, "w") as file:
        app.PDBFile.writeFile(topology, state.getPositions(), file, keepIds=True)
