from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from openmm_les.graph import Graph
from openmm_les.models.equivariant import EquivariantBackbone
from openmm_les.models.tensor_product import Features, TensorProduct, angular_functions, tensor_basis
from tests.builders import (
    ELEMENTS,
    FORMAMIDE,
    FORMAMIDE_NUMBERS,
    TRICLINIC,
    WATER,
    WATER_NUMBERS,
    make_graph,
    random_rotation,
    small_backbone,
)

BACKBONE = small_backbone()
EMBEDDINGS = ("species", "radial_center", "radial_neighbor", "element_energy")


def formamide(positions=FORMAMIDE, cell=None, dtype=torch.float64) -> Graph:
    return make_graph([positions], [FORMAMIDE_NUMBERS], [cell], dtype=dtype)


def energy_and_forces(backbone, graph: Graph) -> tuple[Tensor, Tensor]:
    graph = graph._replace(positions=graph.positions.detach().clone().requires_grad_())
    energy = backbone(graph).energies.sum()
    (gradient,) = torch.autograd.grad(energy, graph.positions)
    return energy.detach(), -gradient


def assert_same_output(found, expected, rtol=1e-11, atol=1e-11) -> None:
    torch.testing.assert_close(found.energies, expected.energies, rtol=rtol, atol=atol)
    torch.testing.assert_close(found.features, expected.features, rtol=rtol, atol=atol)


# --- pieces ---------------------------------------------------------------------------------


def test_tensor_basis_is_orthonormal_symmetric_traceless():
    basis = tensor_basis()
    gram = torch.einsum("mab,nab->mn", basis, basis)
    torch.testing.assert_close(gram, torch.eye(5, dtype=torch.float64))
    assert torch.equal(basis, basis.transpose(1, 2))
    assert float(torch.einsum("maa->m", basis).abs().max()) < 1e-15


def test_angular_functions_have_unit_mean_square_and_rotate():
    directions = torch.nn.functional.normalize(
        torch.randn(200_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    values = angular_functions(directions, tensor_basis())
    # Statistical error of a mean of 200 000 values.
    torch.testing.assert_close(values.square().mean(0), torch.ones(9).double(), atol=1e-2, rtol=0.0)
    # In matrix form the tensor turns as R T Rᵀ.
    rotation = random_rotation(1)
    few = directions[:5]

    def matrices(vectors: Tensor) -> Tensor:
        return torch.einsum("nm,mab->nab", angular_functions(vectors, tensor_basis())[:, 4:], tensor_basis())

    torch.testing.assert_close(matrices(few @ rotation.T), rotation @ matrices(few) @ rotation.T)


def test_tensor_product_against_matrices():
    n, c = 4, 3
    generator = torch.Generator().manual_seed(1)
    product = TensorProduct(c).double()

    def random_features() -> Features:
        shapes = ((n, c), (3, n, c), (5, n, c))
        return Features(*(torch.randn(*s, dtype=torch.float64, generator=generator) for s in shapes))

    x, y = random_features(), random_features()
    basis = tensor_basis()
    x_matrix = torch.einsum("mnc,mab->ncab", x.tensor, basis)
    y_vector = y.vector.permute(1, 2, 0)  # [n, c, 3]
    turned = torch.einsum("ncab,ncb->nca", x_matrix, y_vector).permute(2, 0, 1) * 0.6**0.5
    outer = torch.einsum("anc,bnc->ncab", x.vector, y.vector)
    dyad = torch.einsum("ncab,mab->mnc", outer, basis)
    expected = product.mix(
        Features(
            torch.cat([x.scalar * y.scalar, (x.vector * y.vector).sum(0), (x.tensor * y.tensor).sum(0)], -1),
            torch.cat([x.scalar * y.vector, x.vector * y.scalar, turned], -1),
            torch.cat([x.scalar * y.tensor, x.tensor * y.scalar, dyad], -1),
        )
    )
    for found, wanted in zip(product(x, y), expected, strict=True):
        torch.testing.assert_close(found, wanted)


# --- laws -----------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), reflect=st.booleans(), periodic=st.booleans())
def test_rotation_reflection_translation_permutation(seed, reflect, periodic):
    rotation = random_rotation(seed, reflect)
    order = np.random.default_rng(seed).permutation(6)
    cell = 0.45 * np.array(TRICLINIC) if periodic else None
    before = BACKBONE(formamide(cell=cell))
    moved = (FORMAMIDE @ rotation.T.numpy() + 5.0)[order]
    turned = None if cell is None else cell @ rotation.T.numpy()
    after = BACKBONE(make_graph([moved], [[FORMAMIDE_NUMBERS[i] for i in order]], [turned]))
    torch.testing.assert_close(after.energies, before.energies[order], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(after.features, before.features[order], rtol=1e-10, atol=1e-10)


def test_features_tell_geometry_and_elements_apart():
    # Guards the invariance tests: a network that ignored its input would pass them.
    with torch.no_grad():
        base = BACKBONE(formamide())
        stretched = BACKBONE(formamide(1.05 * FORMAMIDE))
        exchanged = BACKBONE(make_graph([FORMAMIDE], [[6, 8, 8, 1, 1, 1]]))
    for other in (stretched, exchanged):
        assert float((other.features - base.features).abs().max()) > 1e-3
        assert float((other.energies - base.energies).abs().max()) > 1e-3
    _, forces = energy_and_forces(BACKBONE, formamide())
    assert float(torch.linalg.norm(forces, dim=1).min()) > 1e-3


def test_network_sees_angles():
    # Equal distances from the centre, another angle: pairs 1-2 lie beyond the cutoff.
    def bent(angle: float) -> float:
        r = np.array([[0.0, 0, 0], [3.0, 0, 0], [3.0 * np.cos(angle), 3.0 * np.sin(angle), 0]])
        return float(BACKBONE(make_graph([r], [[8, 1, 1]])).energies[0].detach())

    assert abs(bent(1.8) - bent(2.6)) > 1e-5


def test_atoms_of_a_lattice_moved_by_cell_vectors():
    cell = 0.45 * np.array(TRICLINIC)
    shifts = np.random.default_rng(0).integers(-2, 3, (6, 3)) @ cell
    assert_same_output(BACKBONE(formamide(FORMAMIDE + shifts, cell)), BACKBONE(formamide(cell=cell)))


def test_supercell_repeats_energies():
    cell = 0.6 * np.array(TRICLINIC)
    base = BACKBONE(formamide(cell=cell))
    double = make_graph(
        [np.concatenate([FORMAMIDE, FORMAMIDE + cell[0]])],
        [FORMAMIDE_NUMBERS * 2],
        [cell * np.array([[2.0], [1.0], [1.0]])],
    )
    torch.testing.assert_close(BACKBONE(double).energies, base.energies.repeat(2), rtol=1e-10, atol=1e-10)


def test_energy_and_force_are_continuous_across_the_cutoff():
    def probe(distance: float) -> tuple[float, np.ndarray]:
        r = np.concatenate([WATER, [[0.0, -distance, 0.0]]])
        energy, forces = energy_and_forces(BACKBONE, make_graph([r], [[*WATER_NUMBERS, 17]]))
        return float(energy), forces.numpy()

    inside, beyond = probe(4.5 - 1e-6), probe(4.5 + 1e-6)
    assert inside[0] == pytest.approx(beyond[0], abs=1e-12)
    assert np.abs(inside[1] - beyond[1]).max() < 1e-9
    # Finite differences of the energy on a fine path across it give the force.
    step = 1e-5
    for distance in (4.49, 4.4999, 4.5, 4.5001):
        slope = (probe(distance + step)[0] - probe(distance - step)[0]) / (2.0 * step)
        assert slope == pytest.approx(float(probe(distance)[1][3, 1]), abs=5e-8)


# --- systems of every size ------------------------------------------------------------------


def test_an_atom_without_neighbours_has_its_own_energy():
    lone = BACKBONE(make_graph([np.zeros((1, 3))], [[17]]))
    far = np.concatenate([FORMAMIDE, [[50.0, 0.0, 0.0]]])
    together = BACKBONE(make_graph([far], [[*FORMAMIDE_NUMBERS, 17]]))
    torch.testing.assert_close(together.energies[6:], lone.energies)
    torch.testing.assert_close(together.features[6:], lone.features)
    torch.testing.assert_close(together.energies[:6], BACKBONE(formamide()).energies)


def test_single_atom_and_no_pairs():
    graph = make_graph([np.zeros((1, 3)), [[0.0, 0, 0], [20.0, 0, 0]]], [[8], [8, 1]])
    assert graph.centers.numel() == 0
    output = BACKBONE(graph)
    assert output.energies.shape == (3,)
    assert output.features.shape == (3, BACKBONE.n_features)
    assert float(output.energies[0].detach()) == float(output.energies[1].detach())
    _, forces = energy_and_forces(BACKBONE, graph)
    assert float(forces.abs().max()) == 0.0


def test_a_batch_is_each_alone():
    periodic = 0.45 * np.array(TRICLINIC)
    parts = [(WATER, WATER_NUMBERS, None), (FORMAMIDE, FORMAMIDE_NUMBERS, periodic)]
    parts += [(np.zeros((1, 3)), [17], None), (WATER + 0.3, WATER_NUMBERS, 3.1 * np.eye(3))]
    batch = make_graph(*(list(column) for column in zip(*parts, strict=True)))
    alone = [BACKBONE(make_graph([r], [z], [cell])) for r, z, cell in parts]
    output = BACKBONE(batch)
    torch.testing.assert_close(output.energies, torch.cat([o.energies for o in alone]))
    torch.testing.assert_close(output.features, torch.cat([o.features for o in alone]))


def test_order_of_the_elements_is_the_embedding_order():
    # The element list of a model file, not the atomic number, picks the row.
    first = small_backbone()
    second = EquivariantBackbone(**{**first.config(), "elements": ELEMENTS[::-1]})
    state = {
        name: value.flip(0) if name.split(".")[0] in EMBEDDINGS else value
        for name, value in first.state_dict().items()
    }
    second.double().load_state_dict(state)
    assert_same_output(second(formamide()), first(formamide()))


# --- derivatives and number types -----------------------------------------------------------


@pytest.mark.parametrize("cell", [None, 0.45 * np.array(TRICLINIC)], ids=["isolated", "periodic"])
def test_forces_and_second_derivatives(cell):
    graph = make_graph([WATER], [WATER_NUMBERS], [cell], cutoff=3.0)
    backbone = small_backbone(cutoff=3.0, n_channels=3, n_message=2)

    def outputs(positions: Tensor):
        output = backbone(graph._replace(positions=positions))
        return output.energies, output.features.sum(0)

    positions = graph.positions.clone().requires_grad_()
    assert torch.autograd.gradcheck(outputs, (positions,))
    assert torch.autograd.gradgradcheck(lambda r: outputs(r)[0].sum(), (positions,))


def test_stress_is_the_derivative_over_strain():
    graph = formamide(cell=0.45 * np.array(TRICLINIC))

    def energy(strain: Tensor) -> Tensor:
        deformation = torch.eye(3, dtype=torch.float64) + strain
        return BACKBONE(
            graph._replace(positions=graph.positions @ deformation, cells=graph.cells @ deformation)
        ).energies.sum()

    assert torch.autograd.gradcheck(energy, (torch.zeros(3, 3, dtype=torch.float64, requires_grad=True),))


def test_weight_gradients_of_a_force_loss_reach_every_parameter():
    graph = formamide()
    graph = graph._replace(positions=graph.positions.clone().requires_grad_())
    backbone = small_backbone()
    output = backbone(graph)
    (gradient,) = torch.autograd.grad(output.energies.sum(), graph.positions, create_graph=True)
    (gradient.square().sum() + output.features.sum() + output.energies.sum()).backward()
    unreached = [n for n, p in backbone.named_parameters() if p.grad is None or not bool(p.grad.any())]
    # The first layer has no messages to weigh, the last one's vectors and tensors feed nothing.
    assert all(
        name.startswith("layers.1.") or "message" in name.removeprefix("layers.0.") for name in unreached
    ), unreached


def test_float32_against_float64():
    single = small_backbone(dtype=torch.float32)
    energy, forces = energy_and_forces(single, formamide(dtype=torch.float32))
    exact, exact_forces = energy_and_forces(small_backbone(), formamide())
    assert forces.dtype == torch.float32
    # Some ten thousand operations of 6e-8 each, products of several factors.
    assert float(abs(energy - exact)) < 2e-5 * max(1.0, float(abs(exact)))
    assert float((forces - exact_forces).abs().max()) < 5e-5 * float(exact_forces.abs().max())


@pytest.mark.parametrize("built", [torch.float32, torch.float64])
def test_conversion_keeps_constants_exact(built):
    # A model trained and stored in single precision runs in double where forces are tested or a
    # long NVE run is wanted: constants of seven digits would spoil invariance there.
    before = torch.get_default_dtype()
    torch.set_default_dtype(built)
    try:
        backbone = small_backbone(dtype=built).float().double()
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close(backbone.basis, tensor_basis(), rtol=0.0, atol=0.0)
    turned = FORMAMIDE @ random_rotation(5).T.numpy()
    assert_same_output(backbone(formamide(turned)), backbone(formamide()), rtol=1e-12, atol=1e-12)
    fresh = small_backbone(dtype=torch.float32)
    fresh.load_state_dict(backbone.state_dict())
    assert_same_output(fresh.double()(formamide()), backbone(formamide()), rtol=0.0, atol=0.0)


# --- scripting ------------------------------------------------------------------------------


def test_eager_scripted_and_frozen_agree_in_energies_and_forces():
    cell = 0.45 * np.array(TRICLINIC)
    graphs = [formamide(), formamide(cell=cell), make_graph([np.zeros((1, 3))], [[8]])]
    backbone = small_backbone().eval()
    scripted = torch.jit.script(backbone)
    frozen = torch.jit.freeze(torch.jit.script(backbone))
    for graph in graphs:
        energy, forces = energy_and_forces(backbone, graph)
        for module in (scripted, frozen):
            for _ in range(2):  # the profiling executor rewrites the graph in its first calls
                found, found_forces = energy_and_forces(module, graph)
            torch.testing.assert_close(found, energy, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(found_forces, forces, rtol=1e-11, atol=1e-11)


def test_output_is_named():
    output = BACKBONE(formamide())
    assert output.energies.shape == (6,)
    assert output.features.shape == (6, BACKBONE.n_features) == (6, 12)
    assert BACKBONE.cutoff == 4.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"elements": []}, r"`elements` must be distinct atomic numbers from 1 to 118, got \[\]"),
        ({"elements": [1, 6, 1]}, "`elements` must be distinct"),
        ({"elements": [1, 500]}, "`elements` must be distinct"),
        ({"cutoff": 0.0}, r"`cutoff` must be positive, got 0.0"),
        ({"cutoff": float("nan")}, "`cutoff` must be positive, got nan"),
        ({"n_channels": 0}, "`n_channels` must be positive, got 0"),
        ({"n_layers": -1}, "`n_layers` must be positive, got -1"),
        ({"mean_neighbors": -2.0}, "`mean_neighbors` must be positive, got -2.0"),
    ],
)
def test_constructor_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        EquivariantBackbone(**{"elements": ELEMENTS, **arguments})
