"""Dielectric constants against mdtraj's and against drawn dipoles; g(r) and charge statistics."""

from __future__ import annotations

from dataclasses import replace

import mdtraj
import numpy as np
import pytest

from openmm_les.analysis.dielectric import dielectric_constant
from openmm_les.analysis.dipoles import DipoleSeries, compute_dipoles
from openmm_les.analysis.radial import radial_distribution
from openmm_les.analysis.statistics import CHARGE, RunningMoments, charge_statistics
from openmm_les.analysis.trajectories import TrajectorySource
from openmm_les.records import read_record
from openmm_les.units import BOLTZMANN_CONSTANT, KJ_PER_MOL_PER_EV, VACUUM_PERMITTIVITY
from tests.analysis.systems import BOX, bound_model, jittered, places_of, topology_of, trajectory_of, wrapped

TIP3P = np.array([-0.834, 0.417, 0.417])


def tumbling_waters(n_waters: int, n_frames: int, length: float) -> mdtraj.Trajectory:
    """Rigid waters on a lattice, each frame turned anew, all wrapped atom by atom."""
    rng = np.random.default_rng(5)
    water = np.array([[0.0, 0.0, 0.0], [0.757, 0.586, 0.0], [-0.757, 0.586, 0.0]])
    side = round(n_waters ** (1 / 3))
    sites = np.stack(np.meshgrid(*[np.arange(side)] * 3), -1).reshape(-1, 3) * length / side
    frames = np.zeros((n_frames, n_waters, 3, 3))
    for f in range(n_frames):
        turns, _ = np.linalg.qr(rng.normal(size=(n_waters, 3, 3)))
        frames[f] = sites[:, None] + water @ turns
    cell = length * np.eye(3)
    return trajectory_of(
        topology_of(["HOH"] * n_waters), wrapped(frames.reshape(n_frames, -1, 3), cell), cell
    )


def test_fixed_charges_agree_with_mdtraj():
    trajectory = tumbling_waters(27, 40, 9.3)
    charges = np.tile(TIP3P, 27)
    model = bound_model(["HOH"] * 27)
    series = compute_dipoles(TrajectorySource(trajectory, chunk=7), model, charges=charges)
    ours = dielectric_constant(series, 298.0)
    theirs = mdtraj.geometry.static_dielectric(trajectory, charges, 298.0)
    # mdtraj holds the Boltzmann constant of CODATA 2010.
    assert ours.value == pytest.approx(theirs, rel=1e-4)
    assert ours.value > 3.0
    assert ours.volume == pytest.approx(9.3**3, rel=1e-5)


def drawn(epsilon: float, n: int, seed: int = 0, epsilon_infinity: float = 1.0) -> DipoleSeries:
    """Independent normal dipoles about a fixed mean, with the variance of a dielectric constant."""
    volume = 3000.0
    variance = (epsilon - epsilon_infinity) * 3 * VACUUM_PERMITTIVITY * volume * BOLTZMANN_CONSTANT * 300.0
    noise = np.sqrt(variance / 3) * np.random.default_rng(seed).normal(size=(n, 3))
    return DipoleSeries(np.arange(float(n)), noise + 1000.0, np.full(n, volume), None, epsilon_infinity)


def test_drawn_dipoles_give_their_constant_with_an_honest_error():
    found = [dielectric_constant(drawn(78.0, 2000, seed), 300.0, n_blocks=10) for seed in range(40)]
    values = np.array([f.value for f in found])
    assert values.mean() == pytest.approx(78.0, abs=0.7)
    assert np.mean([f.error for f in found]) == pytest.approx(values.std(), rel=0.3)
    assert found[0].running_values[-1] == pytest.approx(found[0].value)
    assert len(found[0].running_times) <= 200
    electronic = dielectric_constant(drawn(78.0, 20000, 1, epsilon_infinity=1.8), 300.0)
    assert electronic.value == pytest.approx(78.0, abs=2.0)


def test_the_beginning_is_left_out():
    series = drawn(10.0, 1000)
    series.dipoles[:100] += 50.0
    kept = dielectric_constant(series, 300.0, discard=100.0)
    assert kept.value == pytest.approx(10.0, abs=1.5)
    assert dielectric_constant(series, 300.0).value > 20.0


def test_questions_without_an_answer():
    series = drawn(10.0, 20)
    with pytest.raises(ValueError, match="needs a periodic system"):
        dielectric_constant(DipoleSeries(series.times, series.dipoles), 300.0)
    with pytest.raises(ValueError, match="too few for 20 blocks"):
        dielectric_constant(series, 300.0, n_blocks=20)
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        dielectric_constant(series, -1.0)
    with pytest.raises(ValueError, match="the times of the frames are unknown"):
        dielectric_constant(replace(series, times=np.full(20, np.nan)), 300.0)
    with pytest.raises(ValueError, match="`n_blocks` must be at least 2"):
        dielectric_constant(series, 300.0, n_blocks=1)


def test_ions_have_no_dielectric_constant(tmp_path):
    series = replace(drawn(10.0, 100), ions=2)
    series.save(tmp_path / "dipole.h5")
    with pytest.raises(ValueError, match="2 charged molecules"):
        dielectric_constant(DipoleSeries.load(tmp_path / "dipole.h5"), 300.0)
    model = bound_model(["HOH", "CL"], total_charge=-1.0)
    places = trajectory_of(topology_of(["HOH", "CL"]), places_of(["HOH", "CL"])[None], BOX)
    assert compute_dipoles(TrajectorySource(places), model).ions == 1


def test_errors_of_radial_distributions_are_of_equal_blocks():
    trajectory = tumbling_waters(8, 30, 9.3)
    found = [
        radial_distribution(
            TrajectorySource(trajectory, chunk=chunk), "element O", "element H", max_distance=4.5
        )
        for chunk in (4, 30)
    ]
    assert found[0].errors is not None and found[1].errors is not None
    np.testing.assert_allclose(found[1].errors, found[0].errors, rtol=1e-4, atol=1e-6)


def test_the_narrowest_cell_limits_a_radial_distribution():
    trajectory = tumbling_waters(8, 12, 9.3)
    trajectory.unitcell_lengths = trajectory.unitcell_lengths * np.linspace(1.0, 0.95, 12)[:, None]
    found = radial_distribution(TrajectorySource(trajectory, chunk=4), "element O", "element O")
    assert 4.3 < found.distances[-1] < 0.5 * 0.95 * 9.3


def test_radial_distribution_is_mdtrajs_in_parts():
    trajectory = tumbling_waters(27, 30, 9.3)
    source = TrajectorySource(trajectory, chunk=4)
    found = radial_distribution(source, "element O", "element H", max_distance=4.5, bin_width=0.1)
    o, h = trajectory.topology.select("element O"), trajectory.topology.select("element H")
    pairs = trajectory.topology.select_pairs(o, h)
    pairs = pairs[pairs[:, 0] // 3 != pairs[:, 1] // 3]
    _, values = mdtraj.compute_rdf(trajectory, pairs, r_range=(0.0, 0.45), n_bins=45)
    np.testing.assert_allclose(found.values, values, atol=1e-3)
    assert found.errors is not None
    assert len(found.distances) == 45
    whole = radial_distribution(source, "element O", "element O")
    assert whole.distances[-1] < 9.3 / 2
    with pytest.raises(ValueError, match="beyond half the cell"):
        radial_distribution(source, "element O", "element O", max_distance=5.0)
    with pytest.raises(ValueError, match="selects no atoms"):
        radial_distribution(source, "element O", "element C")
    with pytest.raises(ValueError, match="has no unit cell"):
        radial_distribution(TrajectorySource(trajectory, periodic=False), "element O", "element O")


def test_running_moments_are_moments():
    rows = np.random.default_rng(0).normal(5.0, 2.0, size=(101, 3))
    moments = RunningMoments()
    for part in np.array_split(rows, 7):
        moments.add(part)
    np.testing.assert_allclose(moments.mean, rows.mean(0))
    np.testing.assert_allclose(moments.deviation, rows.std(0))


def test_charge_statistics(tmp_path):
    names = ["FOR", "HOH", "HOH"]
    topology, positions = topology_of(names), jittered(places_of(names), 9)
    model = bound_model(names)
    source = TrajectorySource(trajectory_of(topology, positions, BOX), chunk=4)
    seen = []
    found = charge_statistics(
        source, model, output=tmp_path / "charges.h5", energies=True, each=lambda f, q: seen.append(q)
    )
    places = np.concatenate([frames.positions for frames in source])
    charges = model.charges(places, np.repeat(BOX[None], 9, axis=0))
    np.testing.assert_allclose(np.concatenate(seen), charges, atol=1e-6)
    np.testing.assert_allclose(found.atom_mean, charges.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.atom_deviation, charges.std(0), atol=1e-6)
    np.testing.assert_allclose(found.residue_mean, 0.0, atol=1e-6)
    assert found.element_mean["N"] == pytest.approx(charges[:, 2].mean(), abs=1e-6)
    assert found.element_deviation["O"] == pytest.approx(charges[:, [1, 6, 9]].std(), abs=1e-6)
    record = read_record(tmp_path / "charges.h5", CHARGE)
    np.testing.assert_allclose(record.value, charges, atol=1e-6)
    energy = read_record(tmp_path / "charges.h5", "observables/energy_long_range")
    assert energy.unit == "kJ mol-1"
    exact = model.energies(places, np.repeat(BOX[None], 9, axis=0)).long_range
    np.testing.assert_allclose(energy.value, exact * KJ_PER_MOL_PER_EV, rtol=1e-4)
    paths = found.save(tmp_path)
    assert [p.name for p in paths] == [
        "charges_by_atom.csv",
        "charges_by_residue.csv",
        "charges_by_element.csv",
    ]
    rows = (tmp_path / "charges_by_atom.csv").read_text().splitlines()
    assert rows[0].startswith("index,residue,name,element,mean charge (e)")
    assert rows[1].startswith("0,FOR")
    assert len(rows) == 13
