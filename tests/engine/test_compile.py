from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from openmm_les.engine.boundary import IsolatedForce, PeriodicForce
from openmm_les.engine.compile import compile_force, trial_positions
from openmm_les.exceptions import RouteError
from openmm_les.graph import Graph
from openmm_les.models.backbone import BackboneOutput
from openmm_les.models.uniform_field import UniformField
from tests.engine.builders import BOXES, quiet_model, water_and_formamide

POSITIONS, NUMBERS, MOLECULES = water_and_formamide()


class DetachedForce(IsolatedForce):
    """A surrogate with a constant made by detach(), which freezing drops."""

    def energy_and_gradient(
        self, graph: Graph, uniform: UniformField | None, potential: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        prediction = self.model(graph)
        short = prediction.energy_short_range.sum()
        constant = prediction.energy_long_range.detach().sum()
        surrogate = short + prediction.response + constant
        response = torch.autograd.grad([surrogate], [graph.positions])[0]
        assert response is not None
        return short.detach(), response + prediction.gradients.detach()


class UnscriptableBackbone(nn.Module):
    cutoff = 4.5
    n_features = 3

    def forward(self, graph: Graph) -> BackboneOutput:
        return sorted((lambda **names: names)(graph=graph))


@pytest.mark.parametrize("dtype, optimized", [(torch.float32, True), (torch.float64, False)])
def test_a_good_module_passes(dtype, optimized):
    force = IsolatedForce(quiet_model(), NUMBERS, MOLECULES, [0.0, 0.0], dtype=dtype)
    script = compile_force(force, torch.tensor(POSITIONS), optimized=optimized)
    energy, _ = script(torch.tensor(POSITIONS))
    assert float(energy) == pytest.approx(float(force(torch.tensor(POSITIONS))[0]), rel=1e-7)


def test_forces_that_freezing_breaks_are_found():
    force = DetachedForce(quiet_model(), NUMBERS, MOLECULES, [0.0, 0.0], dtype=torch.float64)
    with pytest.raises(RouteError, match="frozen module differs from the eager one"):
        compile_force(force, torch.tensor(POSITIONS), optimized=False)


def test_a_module_that_does_not_compile_is_a_route_error():
    force = IsolatedForce(quiet_model(), NUMBERS, MOLECULES, [0.0, 0.0])
    force.model.backbone = UnscriptableBackbone()
    with pytest.raises(RouteError, match="does not compile to TorchScript"):
        compile_force(force)


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize("n_atoms", [1, 9, 64])
def test_trial_positions_keep_atoms_apart_and_near(name, n_atoms):
    box = None if BOXES[name] is None else torch.tensor(BOXES[name])
    positions = trial_positions(n_atoms, box)
    assert positions.shape == (n_atoms, 3)
    numbers = [8, 1, 1] * 22
    kind = IsolatedForce if box is None else PeriodicForce
    force = kind(quiet_model(), numbers[:n_atoms], [0] * n_atoms, [0.0], dtype=torch.float64)
    graph = force.graph_of(positions, box)
    if n_atoms > 1:
        distances = torch.linalg.norm(
            graph.positions[graph.neighbors] + graph.shifts @ graph.cells[0] - graph.positions[graph.centers],
            dim=1,
        ).detach()
        assert float(distances.min()) > 1.0  # Å
        assert torch.bincount(graph.centers, minlength=n_atoms).min() > 2
