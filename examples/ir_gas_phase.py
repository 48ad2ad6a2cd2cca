"""Infrared spectrum of a capped amino acid in the gas phase, by dynamics and by normal modes.

    python examples/ir_gas_phase.py ir-gas-phase --ps 20

Runs ACE-ALA-NME with the model alone, reports the dipole every 2 fs, and draws the spectrum of its
fluctuations over the harmonic spectrum at the model's own minimum. Where motion is harmonic the
two agree; stretches of hydrogen lie lower in the dynamics, and soft torsions are broad.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import openmm
from make_alanine_dipeptide import alanine_dipeptide
from openmm import app, unit

from openmm_les import create_system, load_model
from openmm_les.analysis.charges import ChargeModel
from openmm_les.analysis.dipoles import DipoleSeries
from openmm_les.analysis.harmonic import harmonic_spectrum, relax
from openmm_les.analysis.plots import plot_spectrum
from openmm_les.analysis.spectra import infrared_spectrum
from openmm_les.engine.reporters import DipoleReporter

TEMPERATURE = 300.0


def main() -> None:
    """Run, analyse, draw."""
    parser = argparse.ArgumentParser(description="IR spectrum of ACE-ALA-NME in the gas phase.")
    parser.add_argument("output", type=Path, help="folder to write to")
    parser.add_argument("--model", default="peptide-gfn2-small")
    parser.add_argument("--ps", type=float, default=20.0, help="length of the dynamics")
    parser.add_argument("--resolution", type=float, help="cm^-1 [what a tenth of the dynamics allows]")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    model = load_model(arguments.model)
    topology, positions = alanine_dipeptide()
    numbers = [atom.element.atomic_number for atom in topology.atoms()]
    bonds = np.array([(b[0].index, b[1].index) for b in topology.bonds()])

    # Normal modes, in double precision.
    bound = ChargeModel(model, numbers, bonds, precision="double")
    minimum = relax(bound, positions)
    modes = harmonic_spectrum(bound, minimum)

    # Dynamics: a thermostat to begin with, then constant energy, which leaves line shapes alone.
    system = create_system(topology, model)
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 5, 0.5 * unit.femtosecond)
    integrator.setRandomNumberSeed(arguments.seed)
    simulation = app.Simulation(topology, system, integrator)
    simulation.context.setPositions(minimum * unit.angstrom)
    simulation.context.setVelocitiesToTemperature(TEMPERATURE, arguments.seed)
    n_steps = round(arguments.ps * 2000)
    simulation.step(n_steps // 10)
    integrator.setFriction(0.02)  # so weak that it broadens lines by 0.1 cm^-1
    simulation.reporters.append(DipoleReporter(arguments.output / "dipole.h5", 4))
    simulation.step(n_steps)

    series = DipoleSeries.load(arguments.output / "dipole.h5")
    spectrum = infrared_spectrum(series, TEMPERATURE, resolution=arguments.resolution)
    spectrum.save(arguments.output / "ir.csv")
    plot_spectrum(
        spectrum,
        arguments.output / "ir.png",
        f"ACE-ALA-NME, gas phase, {TEMPERATURE:g} K, {arguments.model}",
        harmonic=modes,
        reference="peptide",
    )
    total = modes.intensities.sum()
    print(f"integrated intensity: {spectrum.integral():.0f} km/mol in motion, {total:.0f} km/mol harmonic")
    print("strongest modes (cm^-1, km/mol):")
    for k in np.argsort(modes.intensities)[::-1][:8]:
        print(f"  {modes.wavenumbers[k]:7.1f} {modes.intensities[k]:7.1f}")
    print("strongest bands in motion (cm^-1):", ", ".join(f"{p:.0f}" for p in spectrum.peaks(0.1)))
    print(f"drawn in {arguments.output / 'ir.png'}")


if __name__ == "__main__":
    main()
