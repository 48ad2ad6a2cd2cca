from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from openmm_les.electrostatics import LatentCoulomb, ewald_energy, isolated_energy
from openmm_les.graph import Graph, pair_vectors
from openmm_les.models.model import LESModel
from tests.builders import (
    ELEMENTS,
    FORMAMIDE,
    FORMAMIDE_NUMBERS,
    TRICLINIC,
    WATER,
    WATER_NUMBERS,
    make_graph,
    random_rotation,
    small_model,
)

CELL = np.array(TRICLINIC)
MODEL = small_model()
REFERENCES = [-13.6, -1030.0, -1485.25, -2042.0625, -12520.123456789]
TWO_WATERS = np.concatenate([WATER, WATER @ random_rotation(0).numpy() + [2.9, 0.4, 0.1]])


def two_waters(distance: float) -> Graph:
    """Two waters of the same orientation, far apart along x: separate neutral molecules."""
    positions = np.concatenate([WATER, WATER + np.array([distance, 0.0, 0.0])])
    return make_graph([positions], [WATER_NUMBERS * 2], molecules=[[0] * 3 + [1] * 3], charges=[[0.0, 0.0]])


def total_energy(model, graph: Graph) -> Tensor:
    output = model(graph)
    return output.energy_short_range + output.energy_long_range


def energy_and_forces(model, graph: Graph) -> tuple[Tensor, Tensor]:
    graph = graph._replace(positions=graph.positions.detach().clone().requires_grad_())
    energy = total_energy(model, graph)
    (gradient,) = torch.autograd.grad(energy.sum(), graph.positions)
    return energy.detach(), -gradient


# --- what the model is made of ----------------------------------------------------------------


@pytest.mark.parametrize("cell", [None, CELL], ids=["isolated", "periodic"])
def test_energies_are_those_of_the_parts(cell):
    graph = make_graph([FORMAMIDE], [FORMAMIDE_NUMBERS], [cell], charges=[[1.0]])
    model = small_model(electrostatics=LatentCoulomb(0.8, 14.0), reference_energies=REFERENCES)
    output = model(graph)
    references = sum(REFERENCES[ELEMENTS.index(z)] for z in FORMAMIDE_NUMBERS)
    short = model.backbone(graph).energies.sum() + references
    torch.testing.assert_close(output.energy_short_range, short.reshape(1))
    if cell is None:
        long = isolated_energy(graph.positions, output.latent_charges, 0.8, 14.0)
    else:
        long = ewald_energy(graph.positions, output.latent_charges, graph.cells[0], 0.8, 14.0)
    torch.testing.assert_close(output.energy_long_range, long.reshape(1), rtol=1e-8, atol=1e-8)
    assert float(output.latent_charges.sum().detach()) == pytest.approx(1.0, abs=1e-13)


@pytest.mark.parametrize("cell", [None, CELL], ids=["isolated", "periodic"])
def test_forces_hold_the_charge_response(cell):
    # dE/dr = gradient at fixed charges + that of the surrogate: the form that TorchForce evaluates.
    graph = make_graph([TWO_WATERS], [WATER_NUMBERS * 2], [cell], [[0] * 3 + [1] * 3], [[0.0, 0.0]])
    graph = graph._replace(positions=graph.positions.clone().requires_grad_())
    output = MODEL(graph)
    (full,) = torch.autograd.grad(output.energy_long_range.sum(), graph.positions, retain_graph=True)
    (response,) = torch.autograd.grad(output.response, graph.positions, retain_graph=True)
    torch.testing.assert_close(output.gradients + response, full, rtol=1e-9, atol=1e-10)
    assert float(response.abs().max()) > 1e-3


@pytest.mark.parametrize("cell", [None, 0.6 * CELL], ids=["isolated", "periodic"])
def test_forces_are_the_slope_of_the_energy(cell):
    def forces_and_slopes(dimer: np.ndarray):
        def graph(positions):
            return make_graph([positions], [WATER_NUMBERS * 2], [cell], [[0] * 3 + [1] * 3], [[0.0, 0.0]])

        _, forces = energy_and_forces(MODEL, graph(dimer))
        slopes = np.zeros_like(dimer)
        step = 1e-4
        for index in np.ndindex(dimer.shape):
            shift = np.zeros_like(dimer)
            shift[index] = step
            with torch.no_grad():
                ends = [float(total_energy(MODEL, graph(dimer + sign * shift))) for sign in (1.0, -1.0)]
            slopes[index] = (ends[0] - ends[1]) / (2.0 * step)
        return forces.numpy(), -slopes

    forces, slopes = forces_and_slopes(TWO_WATERS)
    # Truncation h²/6 E''' of the repulsive wall.
    assert np.abs(forces - slopes).max() < 1e-5 * np.abs(forces).max()


def test_second_derivatives_for_force_training():
    model = small_model(n_channels=2, n_message=2, cutoff=3.0)
    graph = make_graph([WATER], [WATER_NUMBERS], [0.5 * CELL], cutoff=3.0)
    positions = graph.positions.clone().requires_grad_()

    def energy(r: Tensor) -> Tensor:
        return total_energy(model, graph._replace(positions=r)).sum()

    assert torch.autograd.gradcheck(energy, (positions,))
    assert torch.autograd.gradgradcheck(energy, (positions,))


def test_a_force_loss_trains_the_charge_head():
    model = small_model()
    graph = make_graph([FORMAMIDE], [FORMAMIDE_NUMBERS])
    graph = graph._replace(positions=graph.positions.clone().requires_grad_())
    energy = total_energy(model, graph)
    (gradient,) = torch.autograd.grad(energy.sum(), graph.positions, create_graph=True)
    gradient.square().sum().backward()
    for name, parameter in model.charge_head.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert bool(parameter.grad.any()), name


# --- charges ----------------------------------------------------------------------------------


def test_molecules_keep_their_charges_in_every_company():
    others = (WATER + np.array([3.0, 0.5, 0.2]), [[-2.5, 0.0, 0.3]], FORMAMIDE + np.array([0.0, 4.0, 0.0]))
    positions = np.concatenate([WATER, *others])
    numbers = [*WATER_NUMBERS, *WATER_NUMBERS, 17, *FORMAMIDE_NUMBERS]
    molecules = [0] * 3 + [1] * 3 + [2] + [3] * 6
    for cell in (None, CELL):
        graph = make_graph([positions], [numbers], [cell], [molecules], [[0.0, 0.0, -1.0, 0.0]])
        charges = MODEL(graph).latent_charges.detach()
        totals = torch.zeros(4, dtype=torch.float64).index_add(0, torch.tensor(molecules), charges)
        assert totals.tolist() == pytest.approx([0.0, 0.0, -1.0, 0.0], abs=1e-13)


def test_two_neutral_molecules_far_apart_interact_by_dipoles():
    # Parallel dipoles p along y, side by side: ke p²/R³.
    with torch.no_grad():
        far = {d: float(MODEL(two_waters(d)).energy_long_range) for d in (40.0, 80.0, 4000.0)}
        charges = MODEL(two_waters(40.0)).latent_charges[:3].numpy()
    dipole = charges @ WATER
    for distance in (40.0, 80.0):
        interaction = far[distance] - far[4000.0]
        assert interaction == pytest.approx(14.399645 * dipole @ dipole / distance**3, rel=0.02)
        assert abs(interaction) < 1e-3  # eV
    assert (far[40.0] - far[4000.0]) / (far[80.0] - far[4000.0]) == pytest.approx(8.0, rel=0.02)


def test_energies_of_distant_molecules_add_up():
    with torch.no_grad():
        pair = float(total_energy(MODEL, two_waters(1e5)))
        one = float(total_energy(MODEL, make_graph([WATER], [WATER_NUMBERS])))
    assert pair == pytest.approx(2.0 * one, abs=1e-9)


def test_distant_ions_attract_by_their_full_charges():
    graph = make_graph([[[0.0, 0, 0], [50.0, 0, 0]]], [[17, 7]], molecules=[[0, 1]], charges=[[-1.0, 1.0]])
    assert float(MODEL(graph).energy_long_range.detach()) == pytest.approx(-14.399645 / 50.0, rel=1e-12)


def test_an_ion_polarises_no_distant_molecule():
    # Charges depend on surroundings within reach only; an ion outside leaves them alone.
    positions = np.concatenate([WATER, [[30.0, 0.0, 0.0]]])
    graph = make_graph([positions], [[*WATER_NUMBERS, 17]], molecules=[[0, 0, 0, 1]], charges=[[0.0, -1.0]])
    alone = MODEL(make_graph([WATER], [WATER_NUMBERS])).latent_charges
    torch.testing.assert_close(MODEL(graph).latent_charges[:3], alone, rtol=1e-12, atol=1e-12)


def test_energy_is_even_in_the_charges():
    flipped = copy.deepcopy(MODEL)
    with torch.no_grad():
        flipped.charge_head.element_charge.neg_()
        flipped.charge_head.output.weight[0].neg_()
        flipped.charge_head.output.bias[0].neg_()
    graph = make_graph([FORMAMIDE], [FORMAMIDE_NUMBERS], [CELL], charges=[[1.0]])
    output = MODEL(graph)
    other = flipped(graph._replace(molecule_charges=-graph.molecule_charges))
    torch.testing.assert_close(other.latent_charges, -output.latent_charges)
    torch.testing.assert_close(other.energy_long_range, output.energy_long_range)
    torch.testing.assert_close(other.gradients, output.gradients)


# --- laws -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reflect", [False, True])
def test_rotation_translation_and_permutation_of_a_periodic_system(reflect):
    rotation = random_rotation(4, reflect).numpy()
    order = np.random.default_rng(1).permutation(6)
    molecules = np.array([0] * 3 + [1] * 3)
    numbers = np.array(WATER_NUMBERS * 2)
    before = make_graph([TWO_WATERS], [list(numbers)], [CELL], [list(molecules)], [[0.0, 0.0]])
    moved = (TWO_WATERS @ rotation.T + 3.0)[order]
    after = make_graph(
        [moved], [list(numbers[order])], [CELL @ rotation.T], [list(molecules[order])], [[0.0, 0.0]]
    )
    energy, forces = energy_and_forces(MODEL, before)
    found, turned = energy_and_forces(MODEL, after)
    torch.testing.assert_close(found, energy, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(turned, forces[order] @ torch.tensor(rotation.T), rtol=1e-8, atol=1e-8)


def test_isolated_forces_have_no_resultant():
    _, forces = energy_and_forces(MODEL, make_graph([FORMAMIDE], [FORMAMIDE_NUMBERS]))
    scale = float(forces.abs().max())
    assert float(forces.sum(0).abs().max()) < 1e-12 * scale
    torque = torch.linalg.cross(torch.tensor(FORMAMIDE), forces).sum(0)
    assert float(torque.abs().max()) < 1e-11 * scale


def test_left_handed_cell():
    graphs = [make_graph([FORMAMIDE], [FORMAMIDE_NUMBERS], [cell]) for cell in (CELL, CELL[[1, 0, 2]], -CELL)]
    energies = [float(total_energy(MODEL, graph).detach()) for graph in graphs]
    assert energies[1:] == pytest.approx([energies[0]] * 2, rel=1e-9)


def test_supercell():
    shifts = np.array(list(np.ndindex(2, 2, 2))) @ CELL
    many = (shifts[:, None] + FORMAMIDE).reshape(-1, 3)
    molecules = np.repeat(np.arange(8), 6).tolist()
    with torch.no_grad():
        one = MODEL(make_graph([FORMAMIDE], [FORMAMIDE_NUMBERS], [CELL]))
        eight = MODEL(make_graph([many], [FORMAMIDE_NUMBERS * 8], [2.0 * CELL], [molecules], [[0.0] * 8]))
    torch.testing.assert_close(eight.energy_short_range, 8.0 * one.energy_short_range)
    # Forty-eight atoms may go to another solver: its tolerance.
    torch.testing.assert_close(eight.energy_long_range, 8.0 * one.energy_long_range, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(eight.latent_charges, one.latent_charges.repeat(8))


def test_a_batch_of_isolated_and_periodic_systems_is_each_alone():
    parts = [
        (WATER, WATER_NUMBERS, None, [0] * 3, [0.0]),
        (TWO_WATERS, WATER_NUMBERS * 2, CELL, [0] * 3 + [1] * 3, [0.0, 0.0]),
        (np.zeros((1, 3)), [17], None, [0], [-1.0]),
        (FORMAMIDE, FORMAMIDE_NUMBERS, 5.5 * np.eye(3), [0] * 6, [1.0]),
    ]
    batch = MODEL(make_graph(*(list(column) for column in zip(*parts, strict=True))))
    alone = [MODEL(make_graph(*([value] for value in part))) for part in parts]
    torch.testing.assert_close(batch.response, sum(o.response for o in alone))
    assert batch.latent_quadrupoles is None
    for name in set(batch._fields) - {"response", "latent_quadrupoles"}:
        torch.testing.assert_close(getattr(batch, name), torch.cat([getattr(o, name) for o in alone]))


# --- number types and scripting ---------------------------------------------------------------


def test_reference_energies_stay_double():
    model = small_model(reference_energies=REFERENCES)
    converted = copy.deepcopy(model).float()
    assert converted.reference_energies.dtype == torch.float64
    assert torch.equal(converted.reference_energies, model.reference_energies)
    assert next(converted.parameters()).dtype == torch.float32
    graph = make_graph([FORMAMIDE], [FORMAMIDE_NUMBERS], dtype=torch.float32)
    output = converted(graph)
    assert output.energy_short_range.dtype == torch.float64
    bare = small_model(dtype=torch.float32)(graph).energy_short_range
    # Thousands of eV would leave a float32 sum with errors of meV.
    references = sum(REFERENCES[ELEMENTS.index(z)] for z in FORMAMIDE_NUMBERS)
    difference = float((output.energy_short_range - bare).detach())
    assert difference == pytest.approx(references, abs=1e-8)


def test_state_holds_the_reference_energies_and_no_constants():
    state = small_model(reference_energies=REFERENCES).state_dict()
    assert state["reference_energies"][17] == REFERENCES[-1]
    assert not [name for name in state if "basis" in name or "frequencies" in name or "index" in name]


def test_places_far_out_cost_no_digits():
    model = small_model(dtype=torch.float32)
    near = model.evaluate(FORMAMIDE, FORMAMIDE_NUMBERS)
    far = model.evaluate(np.asarray(FORMAMIDE) + 1e4, FORMAMIDE_NUMBERS)
    np.testing.assert_allclose(far.forces, near.forces, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eager_scripted_and_frozen_agree(dtype):
    model = small_model(dtype=dtype, reference_energies=REFERENCES).eval()
    scripted = torch.jit.script(model)
    frozen = torch.jit.freeze(torch.jit.script(model))
    molecules, charges = [[0] * 3 + [1] * 3], [[0.0, 0.0]]
    # Fused and reordered operations differ by roundings.
    tolerance = 1e-11 if dtype == torch.float64 else 2e-5
    for cell in (None, CELL):
        graph = make_graph([TWO_WATERS], [WATER_NUMBERS * 2], [cell], molecules, charges, dtype=dtype)
        energy, forces = energy_and_forces(model, graph)
        for module in (scripted, frozen):
            for _ in range(2):  # the profiling executor rewrites the graph in its first calls
                found, found_forces = energy_and_forces(module, graph)
            torch.testing.assert_close(found, energy, rtol=tolerance, atol=tolerance)
            scale = float(forces.abs().max())
            torch.testing.assert_close(found_forces, forces, rtol=0.0, atol=tolerance * scale)


@pytest.mark.parametrize("cell", [None, CELL], ids=["isolated", "periodic"])
@pytest.mark.parametrize("form", ["eager", "frozen"])
def test_forces_put_together_from_constants(form, cell):
    # differentiable=False: what a simulation runs. Freezing must neither keep nor cut a wrong path.
    model = small_model().eval()
    graph = make_graph([TWO_WATERS], [WATER_NUMBERS * 2], [cell], [[0] * 3 + [1] * 3], [[0.0, 0.0]])
    energy, forces = energy_and_forces(model, graph)
    module = model if form == "eager" else torch.jit.freeze(torch.jit.script(model))
    for _ in range(3):  # the profiling executor rewrites the graph in its first calls
        positions = graph.positions.clone().requires_grad_()
        output = module(graph._replace(positions=positions), False)
        found = output.energy_short_range + output.energy_long_range
        surrogate = output.energy_short_range.sum() + output.response
        (slope,) = torch.autograd.grad(surrogate, positions)
        assert not output.energy_long_range.requires_grad
        assert not output.gradients.requires_grad
        torch.testing.assert_close(found.detach(), energy, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(-(slope + output.gradients), forces, rtol=1e-10, atol=1e-10)


def test_pairs_beyond_the_cutoff_change_nothing():
    # A neighbour list with a skin hands over pairs that are too far; the envelope removes them.
    tight = make_graph([TWO_WATERS], [WATER_NUMBERS * 2], [CELL], cutoff=4.5)
    wide = make_graph([TWO_WATERS], [WATER_NUMBERS * 2], [CELL], cutoff=5.5)
    assert len(pair_vectors(wide)) > len(pair_vectors(tight))
    energy, forces = energy_and_forces(MODEL, tight)
    found, found_forces = energy_and_forces(MODEL, wide)
    torch.testing.assert_close(found, energy, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found_forces, forces, rtol=1e-11, atol=1e-11)


def test_model_takes_any_backbone_with_the_interface():
    class Springs(torch.nn.Module):
        """Sum of squared distances, and the number of neighbours as the one feature."""

        cutoff = 3.0
        n_features = 1

        def forward(self, graph: Graph):
            from openmm_les.models.backbone import BackboneOutput

            squares = pair_vectors(graph).square().sum(-1)
            n = graph.positions.shape[0]
            energies = torch.zeros(n, dtype=squares.dtype).index_add(0, graph.centers, squares)
            counts = torch.bincount(graph.centers, minlength=n).to(squares.dtype)
            return BackboneOutput(energies, counts.unsqueeze(-1))

    from openmm_les.models.heads import LatentChargeHead

    model = LESModel(Springs(), LatentChargeHead(ELEMENTS, 1).double(), LatentCoulomb(), ELEMENTS)
    found = model.evaluate(WATER, WATER_NUMBERS)
    squares = [np.sum((WATER[i] - WATER[j]) ** 2) for i in range(3) for j in range(3)]
    assert found.energy_short_range == pytest.approx(sum(squares))


# --- physical charges -------------------------------------------------------------------------


def test_physical_charges_of_a_conserving_model_are_the_latent_ones():
    graph = two_waters(4.0)
    charges = MODEL(graph).latent_charges
    torch.testing.assert_close(MODEL.physical_charges(charges, graph), charges, rtol=0, atol=1e-15)


@pytest.mark.parametrize("form", [lambda model: model, torch.jit.script])
def test_physical_charges_have_the_sign_and_the_totals_of_molecules(form):
    model = small_model(charge_scale=-1.5)
    graph = make_graph(
        [TWO_WATERS], [WATER_NUMBERS * 2], molecules=[[0] * 3 + [1] * 3], charges=[[1.0, -2.0]]
    )
    raw = torch.tensor([0.7, -0.2, -0.3, 0.5, -0.5, 0.3], dtype=torch.float64)
    charges = form(model).physical_charges(raw, graph)
    torch.testing.assert_close(charges.view(2, 3).sum(1), graph.molecule_charges)
    change = (charges + 1.5 * raw).view(2, 3)  # one shift for each molecule
    torch.testing.assert_close(change, change.mean(1, keepdim=True).expand(2, 3))


@pytest.mark.parametrize("scale", [0.0, math.nan, math.inf])
def test_charge_scale_that_is_none(scale):
    with pytest.raises(ValueError, match="`charge_scale` must be finite and not zero, got"):
        small_model(charge_scale=scale)
