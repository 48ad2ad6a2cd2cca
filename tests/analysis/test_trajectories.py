"""Frames from files: whole molecules, branches, times, and every broken input."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np
import pytest
from mdtraj.formats import HDF5TrajectoryFile
from openmm import app, unit

from openmm_les.analysis.charges import ChargeModel
from openmm_les.analysis.dcd import dcd_spacing
from openmm_les.analysis.dipoles import CellDipole, DipoleSeries, MoleculeSums, compute_dipoles
from openmm_les.analysis.trajectories import TrajectorySource, uniform_spacing
from openmm_les.molecules import spanning_bonds
from tests.analysis.systems import BOX, bound_model, jittered, places_of, topology_of, trajectory_of, wrapped
from tests.builders import multipole_model

NAMES = ["FOR", "HOH", "HOH", "CL"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with top.h5 (PDB would lose bonds), and 50 wrapped frames in several formats."""
    positions = wrapped(jittered(places_of(NAMES), 50), BOX)
    trajectory = trajectory_of(topology_of(NAMES), positions, BOX)
    trajectory[0].save(str(tmp_path / "top.h5"))
    for suffix in ("dcd", "xtc", "h5", "pdb"):
        trajectory.save(str(tmp_path / f"run.{suffix}"))
    return tmp_path


def drifting(n_frames: int, step: np.ndarray) -> np.ndarray:
    """Frames in which everything drifts by ``step`` and molecule by molecule a little differently."""
    places = places_of(NAMES)
    sizes = [6, 3, 3, 1]
    own = np.repeat(1.0 + 0.2 * np.arange(4), sizes)
    return places + np.arange(n_frames)[:, None, None] * step * own[:, None]


def test_molecules_come_whole_in_any_order_of_atoms():
    # Hydrogens first, so that bonds taken in the order of atoms would tear the molecule apart again.
    bonds = np.array([[0, 2], [1, 2], [3, 4]])
    tree = spanning_bonds(bonds, 6)
    assert tree.tolist() == [[0, 2], [3, 4], [2, 1]]
    topology = mdtraj.Topology()
    residue = topology.add_residue("HOH", topology.add_chain())
    atoms = [topology.add_atom(f"{s}{k}", mdtraj.element.Element.getBySymbol(s), residue)
             for k, s in enumerate("HHO")]  # fmt: skip
    topology.add_bond(atoms[0], atoms[2])
    topology.add_bond(atoms[1], atoms[2])
    places = np.array([[0.757, 0.586, 0.0], [-0.757, 0.586, 0.0], [0.0, 0.0, 0.0]])
    torn = wrapped(places[None] - 0.3, 8.0 * np.eye(3))
    (frames,) = TrajectorySource(trajectory_of(topology, torn, 8.0 * np.eye(3)))
    sides = frames.positions[0] - frames.positions[0, 2]
    np.testing.assert_allclose(sides, places, atol=1e-5)


@pytest.mark.parametrize("suffix", ["dcd", "xtc", "h5", "pdb"])
def test_formats_and_chunks_give_the_same_frames(files, suffix):
    loaded = TrajectorySource(mdtraj.load(str(files / "run.h5")))
    source = TrajectorySource(files / f"run.{suffix}", files / "top.h5", chunk=7, stride=3, skip=4, stop=44)
    reference = TrajectorySource(loaded.loaded, chunk=5, stride=3, skip=4, stop=44)
    parts, others = list(source), list(reference)
    assert len(source) == sum(len(p) for p in parts) == 14
    assert [p.first for p in parts] == [0, 7]
    positions = np.concatenate([p.positions for p in parts])
    tolerance = {"xtc": 0.02, "pdb": 2e-3}.get(suffix, 1e-4)  # XTC keeps three digits of a nm, PDB of an Å
    np.testing.assert_allclose(positions, np.concatenate([p.positions for p in others]), atol=tolerance)
    np.testing.assert_allclose(parts[0].cells[0], BOX, atol=tolerance)
    if suffix in ("dcd", "pdb"):
        assert np.isnan(parts[0].times).all()  # nobody says
    else:
        np.testing.assert_allclose(parts[0].times, 0.002 * np.arange(4, 25, 3), rtol=1e-5)
        assert source.uniform_spacing() == pytest.approx(0.006)


def test_a_selection_of_molecules(files):
    source = TrajectorySource(files / "run.dcd", files / "top.h5", select="resname HOH")
    assert source.topology.n_atoms == 6
    assert len(source.bonds) == 4
    whole = np.concatenate([f.positions for f in TrajectorySource(files / "run.dcd", files / "top.h5")])
    part = np.concatenate([f.positions for f in source])
    np.testing.assert_allclose(part, whole[:, 6:12], atol=1e-4)
    with pytest.raises(ValueError, match="cuts the bond"):
        TrajectorySource(files / "run.dcd", files / "top.h5", select="element O")
    with pytest.raises(ValueError, match="selects no atoms"):
        TrajectorySource(files / "run.dcd", files / "top.h5", select="resname XYZ")
    with pytest.raises(ValueError, match="is no mdtraj selection"):
        TrajectorySource(files / "run.dcd", files / "top.h5", select="resname ==")


def test_the_dipole_stays_on_its_branch_across_boundaries():
    # Everything drifts, ions too, through several cells; wrapped atom by atom, in uneven chunks.
    model = bound_model(NAMES, total_charge=[1.0, 0.0, 0.0, -1.0])
    free = drifting(60, np.array([0.4, -0.3, 0.2]))
    cells = np.repeat(BOX[None], 60, axis=0)
    charges = np.repeat(model.charges(free[:1], cells[:1]), 60, axis=0)
    sums = MoleculeSums(model.molecules, model.masses)
    expected, _ = CellDipole(sums).update(charges, free, None)
    source = TrajectorySource(trajectory_of(topology_of(NAMES), wrapped(free, BOX), BOX), chunk=7)
    series = compute_dipoles(source, model, charges=charges[0])
    np.testing.assert_allclose(series.dipoles - series.dipoles[0], expected - expected[0], atol=1e-3)
    # The ions part: a dipole in the cell's first image would jump by cell vectors.
    assert np.linalg.norm(expected[-1] - expected[0]) > 5.0


def test_neutral_molecules_need_no_following():
    names = ["HOH", "FOR", "HOH"]
    model = bound_model(names)
    free = jittered(places_of(names), 9)
    whole = compute_dipoles(TrajectorySource(trajectory_of(topology_of(names), free, BOX)), model)
    torn = compute_dipoles(
        TrajectorySource(trajectory_of(topology_of(names), wrapped(free, BOX), BOX)), model
    )
    np.testing.assert_allclose(torn.dipoles, whole.dipoles, atol=1e-4)


def test_latent_dipoles_are_in_the_dipole():
    names = ["HOH", "FOR"]
    topology, places = topology_of(names), places_of(names)
    multipoles = multipole_model(polarizability="isotropic", n_layers=1)
    model = ChargeModel.from_topology(multipoles, topology, precision="double")
    series = compute_dipoles(TrajectorySource(trajectory_of(topology, places[None])), model)
    found = multipoles.evaluate(places, model.numbers, molecules=model.molecules)
    expected = found.charges @ places + found.dipoles.sum(0)
    np.testing.assert_allclose(series.dipoles[0], expected, atol=1e-5)
    assert np.linalg.norm(found.dipoles.sum(0)) > 1e-2


def test_the_current_is_the_derivative_of_the_dipole(tmp_path):
    names = ["HOH", "FOR"]
    topology, places = topology_of(names), places_of(names)
    speeds = 0.02 * np.random.default_rng(3).normal(size=places.shape)  # Å/fs
    times = 0.01 * np.arange(-1, 2)  # fs
    path = tmp_path / "run.h5"
    with HDF5TrajectoryFile(str(path), "w") as file:
        file.topology = topology
        positions = (places + times[:, None, None] * speeds) / 10.0
        file.write(positions, time=times / 1000.0, velocities=np.repeat(100.0 * speeds[None], 3, axis=0))
    model = bound_model(names)
    series = compute_dipoles(TrajectorySource(path, velocities=True), model, currents=True)
    exact = [model.charges((places + t * speeds)[None])[0] @ (places + t * speeds) for t in times]
    # Positions in the file are single precision: the derivative is taken from exact ones.
    np.testing.assert_allclose(series.currents[1], (exact[2] - exact[0]) / 0.02, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="`currents` needs velocities"):
        compute_dipoles(TrajectorySource(path), model, currents=True)
    path_without = tmp_path / "without.h5"
    trajectory_of(topology, places[None]).save(str(path_without))
    with pytest.raises(ValueError, match="holds no velocities"):
        list(TrajectorySource(path_without, velocities=True))


def test_series_are_saved_and_loaded(tmp_path):
    rng = np.random.default_rng(0)
    series = DipoleSeries(
        np.arange(5.0), rng.normal(size=(5, 3)), np.full(5, 900.0), rng.normal(size=(5, 3)), 1.8
    )
    series.save(tmp_path / "dipole.h5")
    again = DipoleSeries.load(tmp_path / "dipole.h5")
    for name in ("times", "dipoles", "volumes", "currents"):
        np.testing.assert_array_equal(getattr(again, name), getattr(series, name))
    assert again.epsilon_infinity == 1.8
    assert len(series.since(2.0)) == 3
    with pytest.raises(ValueError, match="span 4 ps, less than 10 ps"):
        series.since(10.0)


@pytest.mark.parametrize("suffix", ["dcd", "xtc", "h5"])
def test_a_truncated_file_is_an_error(files, suffix):
    path = files / f"run.{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[: int(0.69 * len(content))])
    with pytest.raises(ValueError, match=r"cut off|cannot be read"):
        list(TrajectorySource(path, files / "top.h5", chunk=10))


def test_what_is_left_of_a_truncated_dcd_can_be_asked_for(files):
    path = files / "run.dcd"
    content = path.read_bytes()
    path.write_bytes(content[: int(0.7 * len(content))])
    with pytest.raises(ValueError, match="its header says 50 frames, 34 are there"):
        TrajectorySource(path, files / "top.h5")
    assert sum(len(f) for f in TrajectorySource(path, files / "top.h5", stop=34)) == 34


def test_what_comes_before_damage_can_be_asked_for(files):
    """mdtraj reads XTC by the chunk, and nothing of a chunk with a bad frame in it."""
    path = files / "run.xtc"
    content = path.read_bytes()
    path.write_bytes(content[: int(0.7 * len(content))])
    assert sum(len(f) for f in TrajectorySource(path, files / "top.h5", stop=30)) == 30
    assert sum(len(f) for f in TrajectorySource(path, files / "top.h5", stop=30, chunk=15)) == 30


def test_virtual_sites_may_be_left_out(files):
    topology = topology_of(["HOH"])
    site = topology.add_atom("EP", mdtraj.element.virtual, topology.residue(0))
    topology.add_bond(topology.atom(0), site)
    places = np.concatenate([places_of(["HOH"]), [[0.1, 0.1, 0.0]]])[None]
    trajectory_of(topology, places).save(str(files / "sites.h5"))
    (frames,) = TrajectorySource(files / "sites.h5", select="name != EP")
    assert frames.positions.shape == (1, 3, 3)


@pytest.mark.parametrize("suffix", ["dcd", "xtc", "h5"])
def test_a_topology_that_does_not_match_is_an_error(files, suffix):
    other = files / "other.h5"
    trajectory_of(topology_of(["HOH"]), places_of(["HOH"])[None]).save(str(other))
    with pytest.raises(ValueError, match="does not match"):
        list(TrajectorySource(files / f"run.{suffix}", other))


def test_other_bad_input_is_an_error(files):
    top = files / "top.h5"
    with pytest.raises(FileNotFoundError, match="no such file"):
        TrajectorySource(files / "absent.dcd", top)
    with pytest.raises(FileNotFoundError, match=r"no such file: .*absent\.pdb"):
        TrajectorySource(files / "run.dcd", files / "absent.pdb")
    with pytest.raises(ValueError, match="holds no topology"):
        TrajectorySource(files / "run.dcd")
    (files / "junk.prmtop").write_text("nothing\n")
    with pytest.raises(ValueError, match="cannot be read as a topology"):
        TrajectorySource(files / "run.dcd", files / "junk.prmtop")
    (files / "junk.xtc").write_text("nothing at all, " * 20)
    with pytest.raises(ValueError, match="cannot be read"):
        list(TrajectorySource(files / "junk.xtc", top))
    (files / "junk.foo").write_text("nothing")
    with pytest.raises(ValueError, match="cannot be read as a trajectory"):
        TrajectorySource(files / "junk.foo", top)
    with pytest.raises(ValueError, match="`stride` must be at least 1"):
        TrajectorySource(files / "run.dcd", top, stride=0)
    with pytest.raises(ValueError, match="none is left from frame 50 on"):
        TrajectorySource(files / "run.dcd", top, skip=50)
    with pytest.raises(ValueError, match="holds no velocities"):
        TrajectorySource(files / "run.dcd", top, velocities=True)


def test_a_cell_that_is_missing_or_too_small_is_an_error():
    names = ["FOR"]
    bare = trajectory_of(topology_of(names), places_of(names)[None])
    with pytest.raises(ValueError, match="has no unit cell"):
        list(TrajectorySource(bare, periodic=True))
    # Three atoms evenly along a cell edge, each bonded to the next one: the chain never ends.
    chain = np.array([[[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [-3.0, 0.0, 0.0]]])
    ring = trajectory_of(topology_of(["HOH"]), chain, 9.0 * np.eye(3))
    ring.topology.add_bond(ring.topology.atom(1), ring.topology.atom(2))
    with pytest.raises(ValueError, match="bonded to its own periodic image"):
        list(TrajectorySource(ring))
    (frames,) = TrajectorySource(ring, periodic=False)
    assert frames.cells is None


def test_times_of_dcd_files(tmp_path, files):
    positions = places_of(["HOH"])
    topology = app.Topology()
    residue = topology.addResidue("HOH", topology.addChain())
    for symbol in ("O", "H", "H"):
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    path = tmp_path / "openmm.dcd"
    with open(path, "wb") as file:
        writer = app.DCDFile(file, topology, 0.5 * unit.femtosecond, interval=4)
        for _ in range(3):
            writer.writeModel(positions * unit.angstrom)
    assert dcd_spacing(path) == pytest.approx(0.002, rel=1e-5)
    source = TrajectorySource(path, topology_of(["HOH"]), stride=2)
    assert source.uniform_spacing() == pytest.approx(0.004, rel=1e-5)
    (frames,) = source
    np.testing.assert_allclose(frames.times, [0.0, 0.004], rtol=1e-5)
    silent = TrajectorySource(files / "run.dcd", files / "top.h5")
    with pytest.raises(ValueError, match="does not tell the time between its frames"):
        silent.uniform_spacing()
    told = TrajectorySource(files / "run.dcd", files / "top.h5", frame_spacing=0.005)
    assert told.uniform_spacing() == 0.005
    with pytest.raises(ValueError, match="not evenly spaced"):
        uniform_spacing(np.array([0.0, 1.0, 3.0]))
    late = (2000.0 + 0.002 * np.arange(1000)).astype(np.float32)  # as XTC and HDF5 keep them
    assert uniform_spacing(late) == pytest.approx(0.002, rel=1e-3)
