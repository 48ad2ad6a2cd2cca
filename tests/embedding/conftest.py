"""Capped alanine in a small box of salt water, by Amber's force field."""

from __future__ import annotations

import importlib.util
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import Vec3, app, unit

from openmm_les.models.model import LESModel
from tests.engine.builders import quiet_model

SCRIPT = Path(__file__).parents[2] / "examples" / "make_alanine_dipeptide.py"
FORCE_FIELD = ("amber14-all.xml", "amber14/tip3p.xml")
BOXES = {
    "cubic": np.diag([1.9, 1.9, 1.9]),
    "triclinic": np.array([[1.9, 0.0, 0.0], [0.4, 1.8, 0.0], [-0.5, 0.3, 1.9]]),
}


@dataclass(frozen=True)
class Solvated:
    """A topology, its positions in nm, and its system by the force field."""

    topology: app.Topology
    positions: np.ndarray
    mm_system: openmm.System

    @property
    def box(self) -> np.ndarray | None:
        """Box vectors in nm, or None."""
        vectors = self.topology.getPeriodicBoxVectors()
        return None if vectors is None else np.array(vectors.value_in_unit(unit.nanometer))

    def atoms_of(self, *names: str, count: int | None = None) -> list[int]:
        """Indices of the atoms in the first ``count`` residues of each name."""
        found: list[int] = []
        for name in names:
            residues = [residue for residue in self.topology.residues() if residue.name == name]
            found += [atom.index for residue in residues[:count] for atom in residue.atoms()]
        return found

    @property
    def peptide(self) -> list[int]:
        """Atom indices of the peptide."""
        return self.atoms_of("ACE", "ALA", "NME")


def create_mm_system(topology: app.Topology, **settings: object) -> openmm.System:
    """System by the force field; PME where the topology has a box."""
    periodic = topology.getPeriodicBoxVectors() is not None
    arguments: dict[str, object] = {
        "nonbondedMethod": app.PME if periodic else app.NoCutoff,
        "nonbondedCutoff": 0.7 * unit.nanometer,
        "constraints": app.HBonds,
        "ewaldErrorTolerance": 1e-5,  # the mesh is held against exact sums
        **settings,
    }
    return app.ForceField(*FORCE_FIELD).createSystem(topology, **arguments)


@cache
def solvate(shape: str) -> Solvated:
    """The box of a shape; "isolated" = the peptide and five waters without a box."""
    spec = importlib.util.spec_from_file_location("make_alanine_dipeptide", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    topology, positions = module.alanine_dipeptide()
    positions = 0.1 * positions  # Å to nm
    modeller = app.Modeller(topology, (positions - positions.mean(0) + 0.95) * unit.nanometer)
    vectors = [Vec3(*row) for row in BOXES.get(shape, BOXES["cubic"])]
    state = random.getstate()
    random.seed(1)  # places of the ions
    modeller.addSolvent(
        app.ForceField(*FORCE_FIELD), boxVectors=vectors * unit.nanometer, ionicStrength=0.3 * unit.molar
    )
    random.setstate(state)
    if shape == "isolated":
        others = [r for r in modeller.topology.residues() if r.name in ("HOH", "NA", "CL")]
        modeller.delete(others[5:])
        modeller.topology.setPeriodicBoxVectors(None)
    placed = np.array(modeller.positions.value_in_unit(unit.nanometer))
    return Solvated(modeller.topology, placed, create_mm_system(modeller.topology))


@pytest.fixture(scope="session", params=[*BOXES, "isolated"])
def anywhere(request: pytest.FixtureRequest) -> Solvated:
    """Each of the boxes, and a cluster without one; not to be changed."""
    return solvate(request.param)


@pytest.fixture(scope="session")
def solvated() -> Solvated:
    """The cubic box; not to be changed."""
    return solvate("cubic")


@pytest.fixture(scope="session")
def model() -> LESModel:
    """Small untrained model."""
    return quiet_model()
