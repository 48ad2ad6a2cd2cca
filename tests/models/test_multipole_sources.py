from __future__ import annotations

import numpy as np
import pytest
import torch

from openmm_les.electrostatics import LatentCoulomb
from openmm_les.engine.compile import freeze
from openmm_les.models import PairBackbone, add_latent_charges
from openmm_les.models.checkpoint import load_model, save_model
from openmm_les.models.equivariant import EquivariantBackbone
from openmm_les.models.heads import NoCharges
from openmm_les.models.long_range import External
from openmm_les.models.model import LESModel
from openmm_les.models.multipole_sources import MultipoleSources, add_multipoles
from openmm_les.models.response import born_charges, dipole, polarizability
from openmm_les.units import COULOMB_CONSTANT
from tests.builders import (
    ELEMENTS,
    FORMAMIDE,
    FORMAMIDE_NUMBERS,
    TRICLINIC,
    WATER,
    WATER_NUMBERS,
    make_graph,
    multipole_model,
    random_rotation,
    small_backbone,
    small_model,
)

KINDS = {
    "dipoles": {},
    "quadrupoles": {"quadrupoles": True},
    "isotropic": {"dipoles": False, "polarizability": "isotropic"},
    "tensor": {"polarizability": "tensor"},
    "direct": {"polarizability": "isotropic", "induction": "direct"},
    "all": {"quadrupoles": True, "polarizability": "tensor"},
}
MODELS = {name: multipole_model(**kind) for name, kind in KINDS.items()}
POSITIONS = np.concatenate([WATER @ random_rotation(0).numpy() + [2.6, 1.4, 2.1], FORMAMIDE])
NUMBERS = WATER_NUMBERS + FORMAMIDE_NUMBERS
CELL = np.array(TRICLINIC)
CELLS = pytest.mark.parametrize("cell", [None, CELL], ids=["isolated", "periodic"])


def graph_of(positions: np.ndarray, cell=None):
    graph = make_graph([positions], [NUMBERS], [cell], [[0] * 3 + [1] * 6], [[0.0, 0.0]])
    return graph._replace(positions=graph.positions.requires_grad_())


def energy(model, positions, cell=None) -> float:
    output = model(graph_of(positions, cell))
    return float((output.energy_short_range + output.energy_long_range).detach())


def slope(function, positions: np.ndarray, atom: int, axis: int, step: float = 2e-4):
    """Central difference of fourth order."""
    ends = []
    for multiple in (-2, -1, 1, 2):
        moved = positions.copy()
        moved[atom, axis] += multiple * step
        ends.append(function(moved))
    return (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)


@pytest.fixture(params=KINDS)
def model(request):
    return MODELS[request.param]


@CELLS
def test_forces_are_the_slope_of_the_energy_and_what_simulations_add_up(model, cell):
    graph = graph_of(POSITIONS, cell)
    output = model(graph)
    total = (output.energy_short_range + output.energy_long_range).sum()
    (gradient,) = torch.autograd.grad(total, graph.positions)
    for atom, axis in [(0, 0), (4, 1)]:
        expected = slope(lambda x: energy(model, x, cell), POSITIONS, atom, axis)
        assert float(gradient[atom, axis]) == pytest.approx(expected, abs=2e-7)
    graph = graph_of(POSITIONS, cell)
    output = model(graph, False)
    surrogate = output.energy_short_range.sum() + output.response
    (response,) = torch.autograd.grad(surrogate, graph.positions)
    torch.testing.assert_close(response + output.gradients, gradient, rtol=1e-7, atol=1e-7)
    simulated = (output.energy_short_range + output.energy_long_range).sum()
    assert float(simulated.detach()) == pytest.approx(float(total.detach()), abs=1e-9)


@pytest.mark.parametrize("kind", ["dipoles", "all"])
def test_frozen_script_is_the_model(kind):
    model, cell = MODELS[kind].eval(), CELL
    script = freeze(torch.jit.script(model))
    results = []
    with torch.jit.optimized_execution(False):
        for run in (model, script):
            graph = graph_of(POSITIONS, cell)
            output = run(graph, False)
            (response,) = torch.autograd.grad(output[0].sum() + output[4], graph.positions)
            results.append((*output[:4], response + output[5]))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_moments_turn_with_the_molecules_and_are_inverted_with_them(model):
    _, energy_before, charges, dipoles, *_ = model(graph_of(POSITIONS))
    for seed, reflect in ((1, False), (2, True)):
        turn = random_rotation(seed, reflect)
        found = model(graph_of(POSITIONS @ turn.numpy().T))
        torch.testing.assert_close(found.energy_long_range, energy_before, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(found.latent_charges, charges, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(found.latent_dipoles, dipoles @ turn.T, rtol=1e-9, atol=1e-10)
    assert float(dipoles.detach().abs().max()) > 0.01


def test_born_charges_are_the_slopes_of_the_dipole(model):
    born = born_charges(model, graph_of(POSITIONS)).detach().numpy()
    for atom, axis in [(0, 1), (5, 0)]:
        expected = slope(lambda x: dipole(model, graph_of(x)).detach().numpy()[0], POSITIONS, atom, axis)
        np.testing.assert_allclose(born[atom, :, axis], expected, atol=1e-7)
    np.testing.assert_allclose(born.sum(0), np.zeros((3, 3)), atol=1e-9)  # neutral


def test_a_batch_is_its_parts(model):
    graphs = [(POSITIONS, NUMBERS, None), (FORMAMIDE, FORMAMIDE_NUMBERS, CELL)]
    batch = make_graph(*zip(*graphs))  # one molecule each
    together = model(batch)
    for k, parts in enumerate(graphs):
        alone = model(make_graph(*([part] for part in parts)))
        torch.testing.assert_close(together.energy_long_range[k], alone.energy_long_range[0])
        part = slice(int(batch.offsets[k]), int(batch.offsets[k + 1]))
        torch.testing.assert_close(together.latent_dipoles[part], alone.latent_dipoles)


def test_force_training_sees_the_moments(model):
    """Derivatives of a sum of forces over weights, as a loss needs them, against differences."""
    graph = graph_of(POSITIONS)

    def squared_forces():
        output = model(graph)
        total = (output.energy_short_range + output.energy_long_range).sum()
        return torch.autograd.grad(total, graph.positions, create_graph=True)[0].square().sum()

    weights = [p for name, p in model.sources.named_parameters() if "gates.bias" in name or "root" in name]
    gradients = torch.autograd.grad(squared_forces(), weights)
    for weight, gradient in zip(weights, gradients, strict=True):
        step, values = 1e-4, []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                weight[0] += sign * step
            values.append(float(squared_forces().detach()))
            with torch.no_grad():
                weight[0] -= sign * step
        assert float(gradient[0]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", ["isotropic", "direct", "tensor"])
def test_induced_dipoles_follow_an_external_field(kind):
    """The energy with the field is stationary in them: its slope over the field is minus the dipole."""
    model = MODELS[kind]
    graph = graph_of(POSITIONS)
    atoms = model.backbone(graph)
    generator = torch.Generator().manual_seed(3)
    potential = torch.randn(len(POSITIONS), dtype=torch.float64, generator=generator)
    field = torch.randn(len(POSITIONS), 3, dtype=torch.float64, generator=generator)

    def found(scale: float):
        return model.sources(atoms, graph, True, External(potential, scale * field))

    def whole(scale: float) -> float:
        result = found(scale)
        return float((result.energies.sum() - scale * (field * result.dipoles).sum()).detach())

    step = 1e-3
    expected = (whole(1.0 + step) - whole(1.0 - step)) / (2 * step)
    assert float(-(field * found(1.0).dipoles).sum().detach()) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("kind", ["isotropic", "direct", "tensor", "all"])
def test_polarizability_is_the_change_of_the_dipole_in_a_field(kind):
    model = MODELS[kind]
    graphs = (POSITIONS, FORMAMIDE), (NUMBERS, FORMAMIDE_NUMBERS)
    both = make_graph(*map(list, graphs), molecules=[[0] * 3 + [1] * 6, [0] * 6], charges=[[0.0, 0.0], [0.0]])
    alpha = polarizability(model, both)
    torch.testing.assert_close(alpha, alpha.transpose(1, 2), rtol=1e-8, atol=1e-10)
    assert float(torch.linalg.eigvalsh(alpha.detach()).min()) > 0.5
    graph = graph_of(POSITIONS)

    def dipole_in(field: torch.Tensor) -> torch.Tensor:
        external = External(-(graph.positions @ field), field.expand(9, 3))
        found = model(graph, False, external)
        return (found.latent_charges @ graph.positions + found.latent_dipoles.sum(0)).detach()

    for axis in range(3):
        field = torch.zeros(3, dtype=torch.float64)
        field[axis] = 1e-3
        change = (dipole_in(field) - dipole_in(-field)) / 2e-3  # e·Å²/V
        torch.testing.assert_close(
            alpha[0, :, axis].detach(), COULOMB_CONSTANT * change, rtol=1e-6, atol=1e-8
        )
    with torch.no_grad():
        assert not polarizability(model, both).requires_grad


@pytest.mark.parametrize("kind", ["tensor", "direct", "all"])
def test_evaluation_in_a_field_and_under_strain(kind):
    """Dipoles change by the polarizability, forces and stress are slopes of the energy."""
    model, numbers = MODELS[kind], np.array(FORMAMIDE_NUMBERS)
    alpha = polarizability(model, model.make_graph(FORMAMIDE, numbers))[0].detach().numpy()

    def in_field(field, positions=FORMAMIDE):
        return model.evaluate(positions, numbers, electric_field=np.array(field))

    def moment(result):
        return result.charges @ FORMAMIDE + result.dipoles.sum(0)

    change = moment(in_field([0.0, 1e-3, 0.0])) - moment(in_field([0.0, -1e-3, 0.0]))
    np.testing.assert_allclose(COULOMB_CONSTANT * change / 2e-3, alpha[:, 1], atol=1e-8)
    field = [0.1, 0.2, 0.0]
    expected = -slope(lambda x: in_field(field, x).energy, FORMAMIDE, 1, 0)
    assert in_field(field).forces[1, 0] == pytest.approx(expected, abs=2e-7)

    strain = 1e-4 * np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    shapes = [np.eye(3) + sign * strain for sign in (1.0, -1.0)]
    high, low = (model.evaluate(FORMAMIDE @ shape, numbers, CELL @ shape).energy for shape in shapes)
    stress = model.evaluate(FORMAMIDE, numbers, CELL, stress=True).stress
    assert (stress * strain).sum() * np.linalg.det(CELL) == pytest.approx((high - low) / 2.0, rel=1e-5)


def test_no_polarizability_where_nothing_responds_or_in_a_cell():
    with pytest.raises(ValueError, match="does not respond to a field"):
        polarizability(MODELS["dipoles"], graph_of(POSITIONS))
    with pytest.raises(ValueError, match="these are periodic"):
        polarizability(MODELS["tensor"], graph_of(POSITIONS, CELL))


class Crowd(torch.nn.Module):
    """A backbone's module of scalars alone."""

    def __init__(self):
        super().__init__()
        self.width = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, positions, numbers, pairs, vectors):
        r = torch.linalg.vector_norm(vectors, dim=1)
        weight = torch.exp(-r / self.width) * (1 - r / 4.0).clamp(min=0.0) ** 2
        crowd = torch.zeros_like(positions[:, 0]).index_add(0, pairs[0], weight)
        return -crowd, torch.stack([crowd, numbers.to(crowd.dtype)], 1)


def test_a_backbone_of_scalars_becomes_polarizable_and_no_more():
    model = add_latent_charges(PairBackbone(Crowd(), cutoff=4.0, n_features=2), ELEMENTS)
    with pytest.raises(ValueError, match="MultipoleSources reads vectors, which this PairBackbone does not"):
        add_multipoles(model)
    add_multipoles(model, dipoles=False, polarizability="isotropic")
    alpha = polarizability(model, graph_of(POSITIONS)).detach()
    assert float(torch.linalg.eigvalsh(alpha).min()) > 1.0


def test_multipoles_join_a_trained_model():
    model = small_model()
    before = model(graph_of(POSITIONS))
    add_multipoles(model, dipoles=True, quadrupoles=True)
    after = model(graph_of(POSITIONS))  # the new moments are zero at the start
    torch.testing.assert_close(after.energy_long_range, before.energy_long_range)
    torch.testing.assert_close(after.latent_charges, before.latent_charges)
    with pytest.raises(ValueError, match="these are of MultipoleSources"):
        add_multipoles(model, polarizability="isotropic")


def test_iterative_is_dense_in_a_model():
    model = MODELS["tensor"]
    dense = model(graph_of(POSITIONS, CELL), False)
    model.sources.electrostatics.dense_atoms = 0
    iterative = model(graph_of(POSITIONS, CELL), False)
    model.sources.electrostatics.dense_atoms = 150
    torch.testing.assert_close(iterative.latent_dipoles, dense.latent_dipoles, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(iterative.energy_long_range, dense.energy_long_range, rtol=1e-11, atol=1e-11)


def test_what_a_backbone_lacks_is_said_by_name():
    backbone = small_backbone()
    for settings, what in (({}, "vectors"), ({"quadrupoles": True}, "vectors")):
        sources = MultipoleSources(ELEMENTS, backbone.n_features, backbone.n_equivariants, **settings)
        with pytest.raises(ValueError, match=rf"MultipoleSources reads {what}.*EquivariantBackbone"):
            LESModel(backbone, NoCharges(), LatentCoulomb(), ELEMENTS, sources=sources)
    vectors_only = small_backbone(equivariants=1)
    with pytest.raises(ValueError, match=r"reads tensors.*equivariants=2"):
        LESModel(vectors_only, NoCharges(), LatentCoulomb(), ELEMENTS, sources=sources)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"polarizability": "huge"}, "`polarizability` must be"),
        ({"induction": "slow"}, "`induction` must be one of mutual, direct"),
        ({"dipoles": False}, "charges alone"),
        ({"electrostatics": LatentCoulomb(k_cutoff=3.0)}, "converged Coulomb sum"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        MultipoleSources(ELEMENTS, 12, 6, **settings)


def test_equivariants_of_the_backbone():
    graph = graph_of(POSITIONS)
    plain = small_backbone()(graph)
    assert plain.vectors is None and plain.tensors is None
    output = small_backbone(equivariants=2)(graph)
    torch.testing.assert_close(output.energies, plain.energies)
    torch.testing.assert_close(output.features, plain.features)
    tensors = output.tensors
    assert output.vectors.shape == (9, 6, 3) and tensors.shape == (9, 6, 3, 3)
    torch.testing.assert_close(tensors, tensors.transpose(2, 3))
    assert float(tensors.detach().diagonal(dim1=2, dim2=3).sum(-1).abs().max()) < 1e-12
    with pytest.raises(ValueError, match="`equivariants` must be 0, 1 or 2"):
        EquivariantBackbone(ELEMENTS, equivariants=3)


def test_saved_and_loaded(tmp_path):
    model = MODELS["all"]
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.sources.config() == model.sources.config()
    assert loaded.responds and loaded.dipolar
    for one, other in zip(loaded(graph_of(POSITIONS)), model(graph_of(POSITIONS)), strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=0.0)
