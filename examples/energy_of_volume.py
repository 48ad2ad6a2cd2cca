"""Why new models do not cut the Coulomb sum sharply: the energy of a water box against its volume.

    python examples/energy_of_volume.py docs/energy_of_volume.png

216 waters with charges of ∓0.8 and 0.4 e, σ = 1 Å, are scaled with their box over 4 % of its length:
positions in units of the box and charges stay. The sharp cut |k| <= 2π/(2 Å) of some published models
counts the waves inside a sphere. When the box grows, whole shells of waves enter it, and the energy
jumps: steps that a barostat takes for work done against the pressure. The converged sum, exact or by mesh, is
smooth.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from water_boxes import SPACING, lattice_water

from openmm_les.electrostatics import LatentCoulomb

THERMAL_ENERGY = 25.85  # meV at 300 K


def energies(solver: LatentCoulomb, scales: np.ndarray, side: int) -> np.ndarray:
    """meV of the box at each scale."""
    positions, charges, cell = lattice_water(side)
    with torch.no_grad():
        return np.array([1e3 * float(solver(s * positions, charges, s * cell)[0]) for s in scales])


def main() -> None:
    """Compute, print the largest jumps and plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--side", type=int, default=6, help="molecules along an edge")
    arguments = parser.parse_args()
    from matplotlib import pyplot

    scales = np.linspace(0.98, 1.02, 200)
    curves = {
        "sharp cut, |k| ≤ 2π/(2 Å)": energies(
            LatentCoulomb(method="pme", tolerance=1e-6, k_cutoff=math.pi), scales, arguments.side
        ),
        "converged, exact sum": energies(LatentCoulomb(method="ewald"), scales, arguments.side),
        "converged, particle mesh": energies(LatentCoulomb(method="pme"), scales, arguments.side),
    }
    lengths = SPACING * arguments.side * scales
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(6.5, 6.0), sharex=True, constrained_layout=True)
    for (name, values), style in zip(curves.items(), ("-", "-", ":"), strict=True):
        rest = values - np.polynomial.Polynomial.fit(scales, values, 2)(scales)
        bends = np.diff(values, n=2)
        print(f"{name}: largest jump {np.abs(bends - np.median(bends)).max():.5f} meV")
        above.plot(lengths, rest, style, label=name)
        below.semilogy(lengths[1:-1], np.abs(bends) / (3 * arguments.side**3), style)
    above.axhspan(-0.5 * THERMAL_ENERGY, 0.5 * THERMAL_ENERGY, color="0.9", label="kT at 300 K")
    above.set_ylabel("energy less its parabola / meV")
    above.legend(fontsize=8)
    below.set_ylabel("second difference / (meV/atom)")
    below.set_xlabel("box length / Å")
    figure.savefig(arguments.output, dpi=130)


if __name__ == "__main__":
    main()
