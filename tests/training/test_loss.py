from __future__ import annotations

import numpy as np
import pytest
import torch

from openmm_les.models.response import polarizability
from openmm_les.training.batches import GraphData
from openmm_les.training.loss import Weights, batch_losses, molecule_error, predict_batch
from tests.builders import multipole_model, small_model
from tests.training.toy import toy_configurations

EVERYTHING = {"stress": True, "dipole": True, "born_charges": True}
ALL_TERMS = Weights(force=1.0, energy=2.0, stress=3.0, dipole=4.0, born_charges=5.0, molecule=6.0)


def mixed_batch(strain=None):
    """An isolated and a periodic configuration, the latter strained; labels all there or all missing."""
    toy = toy_configurations(3)
    toy.cell[2] = np.array([[11.0, 0.0, 0.0], [0.6, 8.0, 0.0], [0.0, -0.4, 8.0]])
    if strain is not None:
        atoms = toy.atoms_of(2)
        toy.positions[atoms] = toy.positions[atoms] @ (np.eye(3) + strain)
        toy.cell[2] = toy.cell[2] @ (np.eye(3) + strain)
    toy.stress[2] = 0.01 * np.eye(3)
    return GraphData(toy, 4.0, dtype=torch.float64).batch(np.array([1, 2]))


def test_stress_is_the_slope_of_the_energy():
    model = small_model(cutoff=4.0)
    stress = predict_batch(model, mixed_batch(), train=False, stress=True).stress
    volume = float(torch.linalg.det(mixed_batch().graph.cells[1]))
    rng = np.random.default_rng(1)
    for _ in range(2):
        strain = rng.normal(size=(3, 3))
        strain = 1e-4 * (strain + strain.T)
        high, low = (predict_batch(model, mixed_batch(s), train=False).energy[1] for s in (strain, -strain))
        work = float((stress[1] * torch.from_numpy(strain)).sum()) * volume
        assert float((high - low).detach()) / 2 == pytest.approx(work, rel=2e-5)
    assert (stress[0] == 0.0).all()


def test_no_error_no_loss():
    model = small_model(cutoff=4.0)
    batch = mixed_batch()
    outputs = predict_batch(model, batch, train=False, **EVERYTHING)
    stress = outputs.stress.detach().clone()
    stress[0] = torch.nan
    perfect = batch._replace(
        energy=outputs.energy.detach(),
        forces=outputs.forces.detach(),
        stress=stress,
        dipole=outputs.dipole.detach(),
        born_charges=outputs.born_charges.detach(),
    )
    losses = batch_losses(outputs, perfect, ALL_TERMS)
    for name, term in losses._asdict().items():
        # Lengths that are differentiable at zero are 1e-6 there, and the total has six of each.
        assert float(term.detach()) == pytest.approx(0.0, abs=5e-5), name


def test_terms_measure_what_they_say():
    model = small_model(cutoff=4.0)
    batch = mixed_batch()
    outputs = predict_batch(model, batch, train=False, **EVERYTHING)
    sizes = torch.tensor([6.0, 9.0], dtype=torch.float64)
    volume = torch.linalg.det(batch.graph.cells[1])
    stress = outputs.stress.detach() + torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0, 0]).view(3, 3) * 0.9 / volume
    stress[0] = torch.nan
    off = batch._replace(
        energy=outputs.energy.detach() + 0.2 * sizes,
        forces=outputs.forces.detach() + torch.tensor([0.3, 0.4, 0.0]),
        stress=stress,
        dipole=torch.stack([outputs.dipole[0].detach() + 6.0, torch.full((3,), torch.nan)]),
        born_charges=outputs.born_charges.detach() + 0.1,
    )
    losses = batch_losses(outputs, off, ALL_TERMS)
    expected = {
        "force": 0.5,
        "energy": 0.2,
        "stress": 0.1,
        "dipole": 6 * 3**0.5 / 6**0.5,
        "born_charges": 0.3,
        # Each of the two waters in vacuum: three atoms' errors, which turn nothing.
        "molecule": 1.5,
        "polarizability": 0.0,  # not asked for: the model has none
    }
    for name, value in expected.items():
        assert float(getattr(losses, name).detach()) == pytest.approx(value, rel=2e-6), name
    total = sum(weight * expected[name] for name, weight in ALL_TERMS._asdict().items())
    assert float(losses.total.detach()) == pytest.approx(total, rel=2e-6)


def test_polarizabilities_are_those_of_isolated_configurations_and_train():
    model = multipole_model(polarizability="tensor", cutoff=4.0)
    batch = mixed_batch()  # the second is periodic: it has no label
    outputs = predict_batch(model, batch, train=True, polarizability=True)
    alone = GraphData(toy_configurations(3), 4.0, dtype=torch.float64).batch(np.array([1])).graph
    torch.testing.assert_close(
        outputs.polarizability[0], polarizability(model, alone)[0], rtol=1e-7, atol=1e-7
    )
    labels = outputs.polarizability.detach() + 0.6
    labels[1] = torch.nan
    losses = batch_losses(
        outputs, batch._replace(polarizability=labels), Weights(0.0, 0.0, polarizability=2.0)
    )
    assert float(losses.total.detach()) == pytest.approx(2.0 * 0.6 * 3 / 6)
    losses.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    assert float(model.sources.polarizability_head.element_root.grad.abs().max()) > 0.0


def test_missing_labels_leave_gradients_finite():
    model = small_model(cutoff=4.0)
    batch = mixed_batch()
    batch.born_charges[:] = torch.nan
    batch.dipole[:] = torch.nan
    outputs = predict_batch(model, batch, train=True, **EVERYTHING)
    losses = batch_losses(outputs, batch, ALL_TERMS)
    assert losses.dipole == losses.born_charges == 0.0
    losses.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


def test_molecule_error_knows_net_forces_and_torques_only():
    """Two waters in vacuum; a third and fourth in a box and a fifth alone are not counted."""
    toy = toy_configurations(3)
    toy.cell[2] = 9.0 * np.eye(3)
    graph = GraphData(toy, 4.0, dtype=torch.float64).batch(np.array([0, 1, 2])).graph
    assert graph.offsets.tolist() == [0, 3, 9, 18]
    error = torch.zeros(18, 3, dtype=torch.float64)
    assert float(molecule_error(error, graph)) == pytest.approx(0.0, abs=1e-5)
    # A stretch of a bond is of no concern, nor is anything alone or in a box.
    bond = graph.positions[4] - graph.positions[3]
    error[3], error[4] = -bond, bond
    error[:3], error[9:] = 1.0, 1.0
    assert float(molecule_error(error, graph)) == pytest.approx(0.0, abs=1e-5)
    error[3:6] += torch.tensor([0.3, 0.0, 0.4], dtype=torch.float64)  # a net force of 1.5 on one of two
    assert float(molecule_error(error, graph)) == pytest.approx(0.75, rel=1e-5)
    # A turning force: cross products with the arms, of no net force.
    axis = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand(3, 3)
    x = graph.positions[6:9]
    arms = x - x.mean(0)
    turning = torch.linalg.cross(axis, arms)
    error[3:6], error[6:9] = 0.0, turning
    torque = torch.linalg.norm(torch.linalg.cross(arms, turning).sum(0))
    radius = torch.sqrt((arms * arms).sum() / 3)
    assert float(molecule_error(error, graph)) == pytest.approx(0.5 * float(torque / radius), rel=1e-5)
