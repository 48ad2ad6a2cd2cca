"""The watch over bonds of the ML region, in boxes and out of them."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
from openmm import app

from openmm_les.cli.bonds import TORN, BondWatch
from openmm_les.elements import covalent_radii
from tests.builders import WATER

BOX = np.array([[2.0, 0.0, 0.0], [0.6, 2.1, 0.0], [-0.5, 0.7, 1.9]])  # nm
USUAL = 0.1 * (covalent_radii[8] + covalent_radii[1])  # nm


def two_waters() -> app.Topology:
    topology = app.Topology()
    chain = topology.addChain()
    for number in ("1", "2"):
        residue = topology.addResidue("HOH", chain, number)
        atoms = [topology.addAtom(n, app.Element.getBySymbol(n[0]), residue) for n in ("O", "H1", "H2")]
        topology.addBond(atoms[0], atoms[1])
        topology.addBond(atoms[0], atoms[2])
    return topology


def context_at(positions: np.ndarray, box: np.ndarray | None) -> openmm.Context:
    system = openmm.System()
    force = openmm.NonbondedForce()
    for _ in positions:
        system.addParticle(1.0)
        force.addParticle(0.0, 1.0, 0.0)
    if box is not None:
        system.setDefaultPeriodicBoxVectors(*box)
        force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
        force.setCutoffDistance(0.5)
    system.addForce(force)
    platform = openmm.Platform.getPlatform("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions)
    return context


@pytest.mark.parametrize("box", [None, BOX])
def test_a_torn_bond_is_named_once(box):
    said: list[str] = []
    positions = 0.1 * np.concatenate([WATER, WATER + 6.0])
    context = context_at(positions, box)
    watch = BondWatch(two_waters(), [0, 1, 2], said.append)
    assert watch.knows
    assert watch.longest(context) < 1.1 and not said
    positions[1] += (
        1.2 * TORN * USUAL * (positions[1] - positions[0]) / np.linalg.norm(WATER[1] - WATER[0]) * 10
    )
    context.setPositions(positions)
    for _ in range(2):
        assert watch.longest(context) > TORN
    assert len(said) == 1 and "between HOH 1 O (0) and HOH 1 H1 (1) broke" in said[0]
    elsewhere = BondWatch(two_waters(), [3, 4, 5], said.append)
    assert elsewhere.longest(context) < 1.1 and len(said) == 1


def test_images_are_one_bond():
    positions = 0.1 * np.concatenate([WATER, WATER + 6.0])
    positions[1] += BOX[2] - 2 * BOX[0]
    positions[2] += BOX[0] + BOX[1] - BOX[2]
    said: list[str] = []
    assert BondWatch(two_waters(), range(6), said.append).longest(context_at(positions, BOX)) < 1.1
    assert not said


def test_without_bonds_there_is_nothing_to_watch():
    topology = app.Topology()
    topology.addAtom("NA", app.element.sodium, topology.addResidue("NA", topology.addChain()))
    assert not BondWatch(topology, [0], print).knows


def test_no_number_is_a_torn_bond():
    said: list[str] = []
    positions = 0.1 * np.concatenate([WATER, WATER + 6.0])
    positions[1] = np.nan
    watch = BondWatch(two_waters(), [0, 1, 2], said.append)
    watch.longest(context_at(positions, None))
    assert len(said) == 1
