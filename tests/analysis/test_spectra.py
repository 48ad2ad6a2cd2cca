"""Spectra of motions whose spectra are known; densities of states; wrong questions."""

from __future__ import annotations

import numpy as np
import pytest

from openmm_les.analysis.dipoles import DipoleSeries, compute_dipoles
from openmm_les.analysis.harmonic import KM_PER_MOL
from openmm_les.analysis.spectra import (
    QUANTUM_CORRECTIONS,
    WINDOWS,
    autocorrelation,
    density_of_states,
    infrared_spectrum,
)
from openmm_les.analysis.trajectories import TrajectorySource
from openmm_les.units import BOLTZMANN_CONSTANT, DALTON, SPEED_OF_LIGHT
from tests.analysis.systems import BOX, bound_model, places_of, topology_of, trajectory_of, wrapped

T = 300.0


def omega(wavenumber: float) -> float:
    """Angular frequency in 1/fs of a wavenumber in cm⁻¹."""
    return 2 * np.pi * SPEED_OF_LIGHT * 1e-8 * wavenumber


def diatomic(wavenumber: float, slope: float, mass: float, n_frames: int, spacing: float) -> DipoleSeries:
    """Dipole μ' Q(t) of an oscillator of reduced ``mass`` (Da) with kinetic energy kT/2, along z."""
    w = omega(wavenumber)
    amplitude = np.sqrt(2.0 * BOLTZMANN_CONSTANT * T / (mass * DALTON * w**2))
    times = spacing * np.arange(n_frames)
    dipoles = np.zeros((n_frames, 3))
    dipoles[:, 2] = slope * amplitude * np.cos(w * times + 0.3)
    return DipoleSeries(times / 1000.0, dipoles)


@pytest.mark.parametrize("window", list(WINDOWS))
def test_a_harmonic_diatomic_has_its_frequency_and_intensity(window):
    # CO-like: 2143 cm^-1, reduced mass 6.86 Da, dμ/dr = 0.65 e; frames every 2 fs over 40 ps.
    series = diatomic(2143.0, 0.65, 6.86, 20001, 2.0)
    spectrum = infrared_spectrum(series, T, resolution=20.0, window=window)
    assert spectrum.unit == "km/mol per cm^-1"
    exact = KM_PER_MOL * 0.65**2 / 6.86
    assert spectrum.peaks() == pytest.approx([2143.0], rel=2e-3) if window != "boxcar" else True
    low, high = (2000.0, 2290.0) if window != "boxcar" else (0.0, 4000.0)
    assert spectrum.integral(low, high) == pytest.approx(exact, rel=0.01)
    above = spectrum.wavenumbers[spectrum.intensity > 0.5 * spectrum.intensity.max()]
    assert above[-1] - above[0] == pytest.approx(spectrum.resolution, rel=0.1)


def test_frames_far_apart_still_give_the_right_intensity():
    # 4 fs at 3700 cm^-1 are 2.3 frames in a period: differences alone would lose half of it.
    series = diatomic(3700.0, 0.3, 1.0, 10001, 4.0)
    spectrum = infrared_spectrum(series, T, resolution=20.0)
    assert spectrum.peaks()[0] == pytest.approx(3700.0, rel=2e-3)
    assert spectrum.integral(3500.0, 3900.0) == pytest.approx(KM_PER_MOL * 0.09, rel=0.01)


def test_a_rigid_rotor_shines_at_its_frequency():
    # μ perpendicular to the axis, turning at one frequency: σ integrates to β μ² ω² / (12 c² ε0).
    wavenumber, moment = 150.0, 0.4
    times = 2.0 * np.arange(40001)
    phase = omega(wavenumber) * times
    dipoles = moment * np.stack([np.cos(phase), np.sin(phase), 0 * phase], 1)
    spectrum = infrared_spectrum(DipoleSeries(times / 1000.0, dipoles), T, resolution=10.0)
    assert spectrum.peaks() == pytest.approx([wavenumber], rel=0.01)
    # The same formula as for a mode with (dμ/dQ)² <Q̇²> = μ² ω².
    exact = KM_PER_MOL * (moment * omega(wavenumber)) ** 2 * DALTON / (BOLTZMANN_CONSTANT * T)
    assert spectrum.integral(100.0, 200.0) == pytest.approx(exact, rel=0.01)


def test_intensity_constant():
    # 42.2561 km/mol for 1 (D/Å)²/Da, in every textbook; 1 e = 4.80320 D/Å.
    assert pytest.approx(42.2561 * 4.80320**2, rel=1e-4) == KM_PER_MOL


def test_a_cell_gives_an_absorption_coefficient():
    gas = diatomic(1600.0, 0.5, 1.0, 5001, 2.0)
    cell = DipoleSeries(gas.times, gas.dipoles, np.full(5001, 1000.0))
    molar = infrared_spectrum(gas, T, resolution=50.0)
    absorption = infrared_spectrum(cell, T, resolution=50.0)
    assert absorption.unit == "cm^-1"
    # One molecule in 1000 Å³ is 1.6605 mol/L: 1 km/mol per cm^-1 is 100 L/(mol·cm) per unit of it.
    concentration = 1.0 / (6.02214076e23 * 1000e-27)  # mol/L
    np.testing.assert_allclose(absorption.intensity, 100.0 * molar.intensity * concentration, rtol=1e-6)


def test_quantum_corrections():
    x = np.array([1e-6, 0.5, 3.0, 12.0])
    for name, factor in QUANTUM_CORRECTIONS.items():
        assert factor(x)[0] == pytest.approx(1.0, abs=1e-5), name
    # Ramírez et al. (2004): Q of each, by its own formula, times (1 - exp(-x))/x.
    weight = -np.expm1(-x) / x
    np.testing.assert_allclose(QUANTUM_CORRECTIONS["harmonic"](x), x / -np.expm1(-x) * weight)
    np.testing.assert_allclose(QUANTUM_CORRECTIONS["standard"](x), 2 / (1 + np.exp(-x)) * weight)
    np.testing.assert_allclose(QUANTUM_CORRECTIONS["schofield"](x), np.exp(x / 2) * weight)
    series = diatomic(2143.0, 0.65, 6.86, 5001, 2.0)
    whole = {n: infrared_spectrum(series, T, resolution=50.0, quantum_correction=n).integral()
             for n in QUANTUM_CORRECTIONS}  # fmt: skip
    assert whole["none"] < whole["standard"] < whole["harmonic"] < whole["schofield"]


def test_autocorrelation_is_the_plain_sum():
    values = np.random.default_rng(0).normal(size=(50, 2, 3))
    plain = np.stack([(values[: 50 - k] * values[k:]).mean(0) for k in range(8)])
    np.testing.assert_allclose(autocorrelation(values, 7), plain, atol=1e-12)


def test_errors_shrink_with_the_length_of_the_trajectory():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(64001, 3)).cumsum(0) * 1e-3
    errors = []
    for n in (4001, 64001):
        series = DipoleSeries(0.002 * np.arange(n), noise[:n])
        spectrum = infrared_spectrum(series, T, resolution=100.0)
        assert spectrum.error is not None
        errors.append((spectrum.error / spectrum.intensity)[50:].mean())
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.3)


def test_the_current_and_the_dipole_give_the_same_spectrum(tmp_path):
    names, n = ["HOH", "FOR"], 800
    places = places_of(names)
    rng = np.random.default_rng(2)
    size, phase = 0.03 * rng.normal(size=(2, *places.shape))
    times = 0.5 * np.arange(n)[:, None, None]  # fs
    rates = omega(np.linspace(500, 3500, places.size)).reshape(places.shape)
    positions = places + size * np.sin(rates * times + 100 * phase)
    velocities = size * rates * np.cos(rates * times + 100 * phase)
    from mdtraj.formats import HDF5TrajectoryFile

    path = tmp_path / "run.h5"
    with HDF5TrajectoryFile(str(path), "w") as file:
        file.topology = topology_of(names)
        file.write(positions / 10, time=times.ravel() / 1000, velocities=velocities * 100)
    model = bound_model(names)
    series = compute_dipoles(TrajectorySource(path, velocities=True), model, currents=True)
    current = infrared_spectrum(series, T, resolution=200.0)
    dipole = infrared_spectrum(DipoleSeries(series.times, series.dipoles), T, resolution=200.0)
    np.testing.assert_allclose(dipole.intensity, current.intensity, atol=0.01 * current.intensity.max())
    # The density of states, from velocities and from positions.
    states = density_of_states(
        TrajectorySource(path, velocities=True, chunk=37), model.masses, model.numbers, resolution=200.0
    )
    from_places = density_of_states(TrajectorySource(path), model.masses, model.numbers, resolution=200.0)
    assert set(states) == {"H", "C", "N", "O", "all"}
    top = states["all"].intensity.max()
    np.testing.assert_allclose(from_places["all"].intensity, states["all"].intensity, atol=0.02 * top)
    assert sum(states[e].integral() for e in "HCNO") == pytest.approx(states["all"].integral())
    assert states["all"].integral() == pytest.approx(3 * 9, rel=0.01)


def test_density_of_states_across_boundaries_and_chunks():
    names, n = ["HOH", "CL"], 3000
    times = np.arange(n)[:, None, None]
    places = places_of(names) + 0.01 * times + 0.1 * np.sin(omega(1000.0) * times)
    trajectory = trajectory_of(topology_of(names), wrapped(places, BOX), BOX, spacing=0.001)
    states = density_of_states(
        TrajectorySource(trajectory, chunk=23), np.ones(4), np.array([8, 1, 1, 17]), resolution=100.0
    )["all"]
    assert states.peaks()[-1] == pytest.approx(1000.0, rel=0.02)
    assert states.integral() == pytest.approx(12.0, rel=0.01)
    assert states.error is not None


@pytest.mark.parametrize("spacing", [1.0, 4.0])
def test_all_degrees_of_freedom_are_counted_without_velocities(spacing):
    """Stretches of a water hide from differences of frames 4 fs apart, and must not push others up."""
    n = 4000
    times = spacing * np.arange(n)[:, None, None]
    waves = omega(1.0) * np.array([300.0, 1600.0, 3600.0]).reshape(3, 1)
    moving = places_of(["HOH"]) + 0.02 * np.sin(waves * times) * omega(1000.0) / waves
    trajectory = trajectory_of(topology_of(["HOH"]), moving, spacing=spacing / 1000.0)
    states = density_of_states(
        TrajectorySource(trajectory), np.ones(3), np.array([8, 1, 1]), resolution=50.0
    )["all"]
    assert states.integral() == pytest.approx(9.0, rel=0.01)
    for wavenumber in (300.0, 1600.0, 3600.0):
        assert states.integral(wavenumber - 150, wavenumber + 150) == pytest.approx(3.0, rel=0.02)


def test_what_cannot_be_answered_is_said():
    series = diatomic(1000.0, 0.5, 1.0, 1001, 10.0)
    with pytest.raises(ValueError, match=r"show wavenumbers up to 1668 cm.* write a frame every 4\.1[67] fs"):
        infrared_spectrum(series, T)
    series = diatomic(1000.0, 0.5, 1.0, 1001, 2.0)
    with pytest.raises(ValueError, match=r"a resolution of 5 cm.* needs 13.3 ps, there are 2 ps"):
        infrared_spectrum(series, T, resolution=5.0)
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        infrared_spectrum(series, 0.0)
    with pytest.raises(ValueError, match="`quantum_correction` must be one of"):
        infrared_spectrum(series, T, quantum_correction="best")
    with pytest.raises(ValueError, match="`window` must be one of"):
        infrared_spectrum(series, T, window="kaiser")
    uneven = DipoleSeries(series.times**2, series.dipoles)
    with pytest.raises(ValueError, match="not evenly spaced"):
        infrared_spectrum(uneven, T)


def test_spectra_are_written_as_csv(tmp_path):
    spectrum = infrared_spectrum(diatomic(2143.0, 0.65, 6.86, 5001, 2.0), T, resolution=50.0)
    spectrum.save(tmp_path / "ir.csv")
    rows = np.genfromtxt(tmp_path / "ir.csv", delimiter=",", skip_header=1)
    np.testing.assert_allclose(rows[:, 1], spectrum.intensity)
    assert "km/mol per cm^-1" in (tmp_path / "ir.csv").read_text().splitlines()[0]
