"""Latent charges on top of ANI-1x, whose published weights come inside torchani's wheel.

    pip install torchani==2.2.4 'setuptools<81'
    python examples/torchani_backbone.py

The weights are MIT-licensed (Smith et al., J. Chem. Phys. 148, 241733 (2018)). Of the networks only
the first of eight is used here. The backbone stays as published (frozen), a new charge head reads its
atomic environment vectors: what is left is to train the head, as ``examples/own_backbone.py`` does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torchani
from ase.build import molecule
from torch import nn

from openmm_les.ase import LESCalculator
from openmm_les.graph import Graph
from openmm_les.models import BackboneOutput, add_latent_charges

ELEMENTS = [1, 6, 7, 8]
HARTREE = 27.211386245988  # eV, CODATA 2018


class ANIBackbone(nn.Module):
    """One ANI-1x network: eV of each atom, its environment vector as features.

    torchani lists neighbours itself, so that configurations go to it one by one.
    """

    def __init__(self) -> None:
        super().__init__()
        files = Path(torchani.__file__).parent / "resources" / "ani-1x_8x"
        constants = torchani.neurochem.Constants(str(files / "rHCNO-5.2R_16-3.5A_a4-8.params"))
        self.environment = torchani.AEVComputer(**constants)
        self.networks = torchani.neurochem.load_model(constants.species, str(files / "train0" / "networks"))
        self.cutoff = float(self.environment.Rcr)
        self.n_features = int(self.environment.aev_length)
        index = torch.full((10,), -1)
        index[ELEMENTS] = torch.arange(4)  # torchani's order: H, C, N, O
        self.register_buffer("index", index)

    def forward(self, graph: Graph) -> BackboneOutput:
        energies, features = [], []
        for begin, end, cell in zip(graph.offsets[:-1], graph.offsets[1:], graph.cells):
            own = slice(int(begin), int(end))
            species = self.index[graph.numbers[own]].unsqueeze(0)
            periodic = bool((cell != 0).any())
            options = {"cell": cell, "pbc": torch.ones(3, dtype=torch.bool)} if periodic else {}
            _, vectors = self.environment((species, graph.positions[own].unsqueeze(0)), **options)
            atoms = [self.networks[k](v) for k, v in zip(("H", "C", "N", "O"), [vectors[0]] * 4)]
            chosen = torch.stack(atoms, 1)[torch.arange(species.shape[1]), species[0], 0]
            energies.append(HARTREE * chosen)
            features.append(vectors[0])
        return BackboneOutput(torch.cat(energies), torch.cat(features))


def main() -> None:
    """Energy and forces against torchani itself, and a geometry in ASE."""
    backbone = ANIBackbone()
    model = add_latent_charges(backbone, ELEMENTS, freeze_backbone=True)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(f"{trained} weights to train, all of the charge head")
    atoms = molecule("CH3CH2OH")
    result = model.evaluate(atoms.positions, atoms.numbers)
    species = backbone.index[torch.tensor(atoms.numbers)].unsqueeze(0)
    positions = torch.tensor(atoms.positions, dtype=torch.float32).unsqueeze(0)
    published = torchani.nn.Sequential(backbone.environment, backbone.networks)((species, positions))
    difference = result.energy_short_range - HARTREE * float(published.energies.detach())
    print(f"short-range energy: {difference:+.1e} eV from torchani's own")
    print(f"charges: {np.round(result.charges, 3).tolist()}")
    atoms.calc = LESCalculator(model)
    print(f"largest force: {np.abs(atoms.get_forces()).max():.2f} eV/Å (head untrained)")


if __name__ == "__main__":
    main()
