"""A short-range potential of one's own gets latent charges: written, trained, run in OpenMM.

    python examples/own_backbone.py

The potential is a toy: Gaussians of the distances, weighed by element, and a small network. The data
are made on the spot, by the model that ships: 40 distorted waters and methanols.
"""

from __future__ import annotations

import numpy as np
import openmm
import torch
from ase.build import molecule
from openmm import app
from torch import Tensor, nn

from openmm_les import create_system, load_model
from openmm_les.models import PairBackbone, add_latent_charges

ELEMENTS = [1, 6, 8]


class Toy(nn.Module):
    """(positions, numbers, pairs, vectors) -> energy and features of each atom."""

    def __init__(self, cutoff: float = 4.0, n_gaussians: int = 12) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.register_buffer("centers", torch.linspace(0.7, cutoff, n_gaussians))
        self.species = nn.Embedding(9, 4)
        self.network = nn.Sequential(
            nn.Linear(4 * n_gaussians + 4, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU()
        )
        self.energy = nn.Linear(32, 1)

    def forward(
        self, positions: Tensor, numbers: Tensor, pairs: Tensor, vectors: Tensor
    ) -> tuple[Tensor, Tensor]:
        r = torch.linalg.vector_norm(vectors, dim=1)
        end = 0.5 * (torch.cos(torch.pi * (r / self.cutoff).clamp(max=1.0)) + 1.0)  # smooth at the cutoff
        gaussians = torch.exp(-8.0 * (r.unsqueeze(1) - self.centers) ** 2) * end.unsqueeze(1)
        weighed = gaussians.unsqueeze(2) * self.species(numbers[pairs[1]]).unsqueeze(1)
        surroundings = torch.zeros(
            positions.shape[0], weighed[:, 0].shape[1] * weighed.shape[1], dtype=r.dtype
        )
        surroundings = surroundings.index_add(0, pairs[0], weighed.flatten(1))
        features = self.network(torch.cat([surroundings, self.species(numbers)], 1))
        return self.energy(features).squeeze(1), features


def main() -> None:
    """Train for some seconds, then run."""
    torch.manual_seed(0)
    teacher = load_model("peptide-gfn2-small")
    references = [float(teacher.reference_energies[z]) for z in ELEMENTS]
    model = add_latent_charges(
        PairBackbone(Toy(), cutoff=4.0, n_features=32), ELEMENTS, reference_energies=references
    )
    data = []
    for k in range(40):
        atoms = molecule(("H2O", "CH3OH")[k % 2])
        atoms.rattle(0.05, seed=k)
        graph = model.make_graph(atoms.positions, atoms.numbers)
        data.append((graph, torch.tensor(teacher.evaluate(atoms.positions, atoms.numbers).forces)))

    # To train the charges alone: add_latent_charges(…, freeze_backbone=True).
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    for epoch in range(30):
        total = 0.0
        for k in np.random.default_rng(epoch).permutation(len(data)):
            graph, forces = data[k]
            places = graph.positions.clone().requires_grad_(True)
            output = model(graph._replace(positions=places))
            energy = (output.energy_short_range + output.energy_long_range).sum()
            (gradient,) = torch.autograd.grad(energy, places, create_graph=True)
            loss = ((gradient + forces) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: force RMSE {1000 * (total / len(data)) ** 0.5:.0f} meV/Å")

    topology = app.Topology()
    residue = topology.addResidue("HOH", topology.addChain())
    oxygen = topology.addAtom("O", app.element.oxygen, residue)
    for name in ("H1", "H2"):
        topology.addBond(oxygen, topology.addAtom(name, app.element.hydrogen, residue))
    system = create_system(topology, model.eval())
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.0005)
    simulation = app.Simulation(topology, system, integrator, openmm.Platform.getPlatform("Reference"))
    simulation.context.setPositions(0.1 * molecule("H2O").positions)
    simulation.step(20)
    print(f"20 steps of water: {simulation.context.getState(energy=True).getPotentialEnergy()}")


if __name__ == "__main__":
    main()
