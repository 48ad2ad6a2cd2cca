"""Boxes of water for examples and benchmarks: a lattice of turned molecules, nothing overlaps."""

from __future__ import annotations

import torch
from openmm import app, unit
from torch import Tensor

SPACING = 3.104  # Å, between molecules: the density of liquid water


def lattice_water(side: int) -> tuple[Tensor, Tensor, Tensor]:
    """``side³`` waters turned at random: positions [n, 3], Å, charges [n], e, cell [3, 3], Å, in double."""
    generator = torch.Generator().manual_seed(1)
    steps = torch.arange(side, dtype=torch.float64)
    sites = SPACING * torch.cartesian_prod(steps, steps, steps)
    sites = sites + 0.3 * (torch.rand(sites.shape, dtype=torch.float64, generator=generator) - 0.5)
    molecule = torch.tensor([[0.0, 0.0, 0.0], [0.757, 0.586, 0.0], [-0.757, 0.586, 0.0]], dtype=torch.float64)
    turns, _ = torch.linalg.qr(torch.randn(len(sites), 3, 3, dtype=torch.float64, generator=generator))
    positions = (sites.unsqueeze(1) + molecule @ turns).view(-1, 3)
    charges = torch.tensor([-0.8, 0.4, 0.4], dtype=torch.float64).repeat(len(sites))
    return positions, charges, SPACING * side * torch.eye(3, dtype=torch.float64)


def water_topology(side: int) -> app.Topology:
    """Topology of `lattice_water`, with bonds and box."""
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(side**3):
        residue = topology.addResidue("HOH", chain)
        oxygen = topology.addAtom("O", app.element.oxygen, residue)
        for name in ("H1", "H2"):
            topology.addBond(oxygen, topology.addAtom(name, app.element.hydrogen, residue))
    _, _, cell = lattice_water(side)
    topology.setPeriodicBoxVectors(cell.numpy() * unit.angstrom)
    return topology
