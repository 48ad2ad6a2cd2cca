"""Files of a run: topologies that survive JSON, trajectories and tables that can be cut back."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import Vec3, app, unit

from openmm_les.engine.energies import EnergyMeter, EnergyTable, degrees_of_freedom, truncate_rows
from openmm_les.engine.run_directory import (
    RunDirectory,
    topology_from_json,
    topology_to_json,
    write_atomically,
)
from openmm_les.engine.trajectory import TrajectoryWriter, truncate_frames


def small_topology(n_atoms: int, box: bool) -> app.Topology:
    """Atoms of one residue, in a triclinic box or in none."""
    topology = app.Topology()
    residue = topology.addResidue("UNK", topology.addChain("A"))
    for i in range(n_atoms):
        topology.addAtom(f"C{i}", app.element.carbon, residue)
    if box:
        vectors = [Vec3(2, 0, 0), Vec3(0.3, 2.1, 0), Vec3(-0.4, 0.5, 2.2)]
        topology.setPeriodicBoxVectors(vectors * unit.nanometer)
    return topology


def frame(topology: app.Topology, seed: int) -> openmm.State:
    """State with random positions."""
    system = openmm.System()
    for _ in topology.atoms():
        system.addParticle(12.0)
    box = topology.getPeriodicBoxVectors()
    if box is not None:
        system.setDefaultPeriodicBoxVectors(*box)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("Reference"))
    context.setPositions(np.random.default_rng(seed).random((topology.getNumAtoms(), 3)))
    return context.getState(positions=True)


def test_topology_survives_json() -> None:
    topology = small_topology(3, box=True)
    residue = topology.addResidue("HOH", topology.addChain("W"), "7", "B")
    oxygen = topology.addAtom("O", app.element.oxygen, residue, "11", -2)
    site = topology.addAtom("M", None, residue)
    topology.addBond(oxygen, site, app.Double, 2)
    topology.addBond(oxygen, next(topology.atoms()))
    copy = topology_from_json(topology_to_json(topology))
    assert topology_to_json(copy) == topology_to_json(topology)
    last = list(copy.residues())[-1]
    assert (last.name, last.id, last.insertionCode, last.chain.id) == ("HOH", "7", "B", "W")
    atoms = list(last.atoms())
    assert [atom.element for atom in atoms] == [app.element.oxygen, None]
    assert (atoms[0].id, atoms[0].formalCharge) == ("11", -2)
    bonds = list(copy.bonds())
    assert [bond.type for bond in bonds] == [app.Double, None]
    box = copy.getPeriodicBoxVectors().value_in_unit(unit.nanometer)
    np.testing.assert_allclose(box, [[2, 0, 0], [0.3, 2.1, 0], [-0.4, 0.5, 2.2]])


@pytest.mark.parametrize("suffix", ["dcd", "xtc"])
@pytest.mark.parametrize("n_atoms", [4, 30])
@pytest.mark.parametrize("box", [True, False])
def test_cut_trajectory_continues_as_if_never_cut(
    tmp_path: Path, suffix: str, n_atoms: int, box: bool
) -> None:
    import mdtraj

    topology = small_topology(n_atoms, box)
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    writer = TrajectoryWriter(whole, topology, 0.001, 5)
    for i in range(4):
        writer.write(frame(topology, i))
    writer.close()
    writer = TrajectoryWriter(cut, topology, 0.001, 5)
    for i in (0, 1, 7):
        writer.write(frame(topology, i))
    writer.close()
    os.truncate(cut, cut.stat().st_size - 3)  # killed in the third frame
    writer = TrajectoryWriter(cut, topology, 0.001, 5, keep_frames=2)
    for i in (2, 3):
        writer.write(frame(topology, i))
    writer.close()
    same = slice(300, None) if suffix == "dcd" else slice(None)  # DCD headers tell when they were made
    assert cut.read_bytes()[same] == whole.read_bytes()[same]
    loaded = mdtraj.load(cut, top=mdtraj.Topology.from_openmm(topology))
    assert loaded.n_frames == 4


@pytest.mark.parametrize("suffix", ["dcd", "xtc"])
def test_trajectory_that_is_too_short_or_none_is_refused(tmp_path: Path, suffix: str) -> None:
    topology = small_topology(12, box=False)
    path = tmp_path / f"trajectory.{suffix}"
    writer = TrajectoryWriter(path, topology, 0.001, 5)
    writer.write(frame(topology, 1))
    writer.close()
    with pytest.raises(ValueError, match="holds 1 whole frames, 2 are needed"):
        truncate_frames(path, 2)
    path.write_bytes(b"x" * 200)
    with pytest.raises(ValueError, match=r"is not an? (DCD|XTC) file"):
        truncate_frames(path, 1)


def test_rows_are_cut_at_the_step(tmp_path: Path) -> None:
    path = tmp_path / "energies.csv"
    EnergyTable(path).close()
    header = path.read_text()
    path.write_text(header + "0,a\n10,b\n20,c\n30")
    truncate_rows(path, 20)
    assert path.read_text() == header + "0,a\n10,b\n20,c\n"
    truncate_rows(path, 19)
    assert path.read_text() == header + "0,a\n10,b\n"
    path.write_text("something else\n")
    with pytest.raises(ValueError, match="is not a table of energies"):
        truncate_rows(path, 5)


def test_temperature_counts_constraints_and_drift() -> None:
    system = openmm.System()
    for mass in (16.0, 1.0, 1.0, 0.0):
        system.addParticle(mass)
    system.addConstraint(0, 1, 0.1)
    system.addConstraint(0, 2, 0.1)
    assert degrees_of_freedom(system) == 7
    system.addForce(openmm.CMMotionRemover())
    assert degrees_of_freedom(system) == 4
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("Reference"))
    context.setPositions(np.eye(4, 3))
    context.setVelocities([[0, 0, 1.0], [0, 0, 1.0], [0, 0, 1.0], [0, 0, 0]])
    row = EnergyMeter(system).row(0, context.getState(energy=True), None)
    assert row.kinetic_energy == pytest.approx(9.0)  # Da nm²/ps²
    assert row.temperature == pytest.approx(2 * 9.0 / (4 * 8.314462618e-3), rel=1e-6)
    assert row.volume is row.density is None


def test_folder_is_reserved_and_given_back(tmp_path: Path) -> None:
    deep = RunDirectory(tmp_path / "a" / "b")
    with deep.reserve():
        assert deep.path.is_dir()
    assert not (tmp_path / "a").exists()
    with pytest.raises(RuntimeError, match="later"), deep.reserve():
        raise RuntimeError("later")
    assert not (tmp_path / "a").exists()
    with deep.reserve():
        deep.settings.write_text("kept")
    assert deep.settings.read_text() == "kept"
    with pytest.raises(FileExistsError, match="is not empty"), deep.reserve():
        pytest.fail("reserved a folder in use")
    assert deep.settings.read_text() == "kept"


def test_atomic_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "long content")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
