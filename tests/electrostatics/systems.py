"""Charges in periodic cells that tests of the mesh share."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.builders import random_rotation

KE = 14.399645
# Shapes of volume 1: rows are vectors.
CELLS = {
    "cubic": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "orthorhombic": [[1.25, 0.0, 0.0], [0.0, 0.8, 0.0], [0.0, 0.0, 1.0]],
    "triclinic": [[1.05, 0.1, -0.2], [0.3, 0.95, 0.05], [-0.35, 0.25, 1.0]],
    # Rhombic dodecahedron in OpenMM's reduced form.
    "reduced": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 2.0**-0.5]],
    # The triclinic one with whole vectors added: the same lattice, not reduced.
    "skewed": [[1.05, 0.1, -0.2], [2.4, 1.15, -0.35], [-1.4, 0.15, 1.2]],
    "left-handed": [[0.3, 0.95, 0.05], [1.05, 0.1, -0.2], [-0.35, 0.25, 1.0]],
}


def scattered_charges(
    n_atoms: int, shape: list[list[float]], net_charge: float = 0.0, seed: int = 5
) -> tuple[Tensor, Tensor, Tensor]:
    """Positions, charges and cell, in double, at the density of water."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.tensor(shape, dtype=torch.float64)
    cell = matrix * (n_atoms / 0.1 / float(torch.abs(torch.linalg.det(matrix)))) ** (1.0 / 3.0)
    positions = torch.rand(n_atoms, 3, dtype=torch.float64, generator=generator) @ cell
    charges = 0.5 * torch.randn(n_atoms, dtype=torch.float64, generator=generator)
    return positions, charges - charges.mean() + net_charge / n_atoms, cell


def water_box(n_molecules: int, seed: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Water molecules in random orientation about a lattice, in double: neutral, nothing overlaps."""
    side = round(n_molecules ** (1.0 / 3.0))
    assert side**3 == n_molecules
    steps = torch.arange(side, dtype=torch.float64)
    sites = 3.104 * torch.cartesian_prod(steps, steps, steps)
    generator = torch.Generator().manual_seed(seed)
    sites = sites + 0.3 * (torch.rand(n_molecules, 3, dtype=torch.float64, generator=generator) - 0.5)
    molecule = torch.tensor([[0.0, 0.0, 0.0], [0.757, 0.586, 0.0], [-0.757, 0.586, 0.0]], dtype=torch.float64)
    turned = torch.stack([molecule @ random_rotation(seed + i) for i in range(n_molecules)])
    positions = (sites.unsqueeze(1) + turned).view(-1, 3)
    charges = torch.tensor([-0.8, 0.4, 0.4], dtype=torch.float64).repeat(n_molecules)
    return positions, charges, 3.104 * side * torch.eye(3, dtype=torch.float64)
