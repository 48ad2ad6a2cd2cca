from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from openmm_les.electrostatics import LatentCoulomb
from openmm_les.electrostatics.isolated import self_hardness
from openmm_les.exceptions import CheckpointError
from openmm_les.graph import Graph
from openmm_les.models.backbone import BackboneOutput
from openmm_les.models.checkpoint import load_model, model_card, save_model
from openmm_les.models.equilibration import LEAST_HARDNESS, ChargeEquilibration
from openmm_les.models.heads import NoCharges, starting_charge
from openmm_les.models.long_range import External
from openmm_les.models.model import LESModel
from openmm_les.models.response import born_charges, dipole
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

CELL = np.array(TRICLINIC)
PAIR = np.concatenate([WATER, FORMAMIDE + np.array([2.8, 1.0, 0.5])])
PAIR_NUMBERS = WATER_NUMBERS + FORMAMIDE_NUMBERS
PAIR_MOLECULES = [0] * 3 + [1] * 6
KE = 14.399645


def equilibrating_model(electrostatics: LatentCoulomb | None = None, **settings) -> LESModel:
    """Untrained model with charges that equilibrate and depend on their surroundings."""
    sizes = {k: settings.pop(k) for k in ("n_channels", "n_message", "cutoff") if k in settings}
    backbone = small_backbone(**sizes)
    coulomb = LatentCoulomb(tolerance=1e-8) if electrostatics is None else electrostatics
    with torch.random.fork_rng():
        torch.manual_seed(5)
        sources = ChargeEquilibration(ELEMENTS, backbone.n_features, electrostatics=coulomb, **settings)
        torch.nn.init.normal_(sources.output.weight, std=0.5)  # silent at the start: make it count
        torch.nn.init.normal_(sources.hardness_parameter, mean=0.5, std=0.3)
    return LESModel(backbone, NoCharges(), coulomb, ELEMENTS, sources=sources.double())


MODEL = equilibrating_model()


def pair_graph(cell: np.ndarray | None = None, charges: tuple[float, float] = (0.0, 0.0)) -> Graph:
    return make_graph([PAIR], [PAIR_NUMBERS], [cell], [PAIR_MOLECULES], [list(charges)])


def total_energy(model: LESModel, graph: Graph) -> Tensor:
    output = model(graph)
    return (output.energy_short_range + output.energy_long_range).sum()


def uniform(graph: Graph, field: Tensor) -> External:
    """Of a uniform field [3], V/Å."""
    return External(-(graph.positions.detach() @ field), field.expand(len(graph.numbers), 3))


# --- closed forms -----------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [0.7, 2.0, 9.0])
@pytest.mark.parametrize("total", [0.0, 1.0])
def test_two_atoms_share_charge_as_the_closed_form_says(distance, total):
    # W(q) = (χ1 - χ2) q + ½ (J1 + J2) q² ... at q1 = q, q2 = Q - q; dW/dq = 0.
    coulomb = LatentCoulomb(0.8, KE)
    sources = ChargeEquilibration([1, 17], 1, electrostatics=coulomb).double()
    torch.nn.init.normal_(
        sources.hardness_parameter, mean=0.2, std=0.5, generator=torch.Generator().manual_seed(1)
    )
    graph = make_graph([np.array([[0.0, 0, 0], [0, 0, distance]])], [[1, 17]], charges=[[total]])
    features = torch.zeros(2, 1, dtype=torch.float64)
    chi, hardness = (x.detach().numpy() for x in sources.coefficients(features, graph.numbers))
    coupling = KE * math.erf(distance / (math.sqrt(2.0) * 0.8)) / distance
    first = chi[1] - chi[0] + (hardness[1] - coupling) * total
    first /= hardness[0] + hardness[1] - 2.0 * coupling
    expected = np.array([first, total - first])
    found = sources(BackboneOutput(features[:, 0], features), graph, True, None)
    assert np.allclose(found.charges.detach(), expected, rtol=1e-12)
    energy = chi @ expected + 0.5 * hardness @ expected**2 + coupling * expected.prod()
    energy += 0.5 * (chi**2 / hardness).sum()  # counted from atoms alone
    assert float(found.energies.detach()) == pytest.approx(energy, rel=1e-12)


def test_charges_start_near_those_of_the_elements():
    sources = ChargeEquilibration(ELEMENTS, 1, electrostatics=LatentCoulomb()).double()
    for positions, numbers in ((WATER, WATER_NUMBERS), (FORMAMIDE, FORMAMIDE_NUMBERS)):
        graph = make_graph([positions], [numbers])
        features = torch.zeros(len(numbers), 1, dtype=torch.float64)
        charges = sources.moments(BackboneOutput(features[:, 0], features), graph)[0].detach().numpy()
        wanted = np.array([starting_charge(z) for z in numbers])
        wanted -= wanted.mean()
        assert 0.6 < charges @ wanted / (wanted @ wanted) < 1.3


@pytest.mark.parametrize("self_interaction", [False, True])
def test_the_minimum_stays_one_where_atoms_coincide(self_interaction):
    # The guard against a catastrophe: hardness exceeds what a Gaussian's own interaction takes off.
    coulomb = LatentCoulomb(1.0, KE, self_interaction=self_interaction)
    model = equilibrating_model(coulomb)
    with torch.no_grad():
        model.sources.hardness_parameter.fill_(-20.0)
    places = torch.rand(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    places[1] = places[0]
    for cell in (None, 0.3 * torch.tensor(CELL)):
        hessian = coulomb.matrix(places, cell)
        if not self_interaction:
            hessian = hessian + self_hardness(1.0, KE) * torch.eye(20, dtype=torch.float64)
        assert float(torch.linalg.eigvalsh(hessian).min()) > -1e-6 * KE
    assert LEAST_HARDNESS > 0.0


@pytest.mark.parametrize("conserve", ["molecule", "configuration"])
def test_a_thousand_charged_pairs_pushed_together_stay_finite(conserve):
    sources = ChargeEquilibration([1, 8], 1, conserve=conserve, electrostatics=LatentCoulomb()).double()
    with torch.no_grad():
        sources.hardness_parameter.fill_(-20.0)  # as soft as atoms can be
    pairs = []
    for seed in range(1000):
        second = WATER @ random_rotation(seed).numpy()
        direction = np.random.default_rng(seed).normal(size=3)
        direction /= np.linalg.norm(direction)
        reach = [s for s in np.arange(0.0, 4.0, 0.05) if cdist(WATER, second + s * direction).min() >= 1.0]
        pairs.append(np.concatenate([WATER, second + reach[0] * direction]))
    graph = Graph(
        torch.tensor(np.concatenate(pairs)),
        torch.tensor(WATER_NUMBERS * 2000),
        *(torch.zeros(0, dtype=torch.int64),) * 2,
        torch.zeros(0, 3, dtype=torch.float64),
        torch.zeros(1000, 3, 3, dtype=torch.float64),
        torch.arange(0, 6001, 6),
        torch.arange(2000).repeat_interleave(3),
        torch.tensor([1.0, -1.0] * 1000, dtype=torch.float64),
    )
    features = torch.zeros(6000, 1, dtype=torch.float64)
    with torch.no_grad():
        found = sources(BackboneOutput(features[:, 0], features), graph, False, None)
    assert bool(torch.isfinite(found.energies).all() and torch.isfinite(found.gradients).all())
    assert float(found.charges.abs().max()) < 5.0


# --- solvers and cells ------------------------------------------------------------------------


@pytest.mark.parametrize("conserve", ["molecule", "configuration"])
@pytest.mark.parametrize("method", ["isolated", "ewald", "pme"])
def test_iteration_finds_what_equations_find(method, conserve):
    coulomb = LatentCoulomb(tolerance=1e-6, method=method)
    model = equilibrating_model(coulomb, conserve=conserve, solver="iterative", tolerance=1e-9)
    graph = pair_graph(None if method == "isolated" else CELL, (1.0, 0.0))
    with torch.no_grad():
        iterated, solved = model(graph, differentiable=False), model(graph)
    # The mesh has its own error; the equations always use the exact sum.
    tolerance = 1e-5 if method == "pme" else 1e-9
    torch.testing.assert_close(iterated.latent_charges, solved.latent_charges, rtol=0, atol=tolerance)
    torch.testing.assert_close(iterated.energy_long_range, solved.energy_long_range, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(iterated.gradients, solved.gradients, rtol=0, atol=100 * tolerance)


def test_iteration_converges_in_single_precision_too():
    model = equilibrating_model(LatentCoulomb(method="pme"), tolerance=1e-12).float()
    graph = make_graph([PAIR], [PAIR_NUMBERS], [CELL], [PAIR_MOLECULES], [[0.0, 0.0]], dtype=torch.float32)
    charges = model(graph, differentiable=False).latent_charges
    exact = equilibrating_model()(pair_graph(CELL)).latent_charges
    assert float((charges - exact).detach().abs().max()) < 1e-4


def test_isolated_is_periodic_in_a_large_box():
    graph = pair_graph()
    errors = []
    for side in (30.0, 60.0):
        boxed = graph._replace(cells=torch.eye(3, dtype=torch.float64)[None] * side)
        with torch.no_grad():
            errors.append(float((MODEL(boxed).latent_charges - MODEL(graph).latent_charges).abs().max()))
    # Images are dipoles: fields fall with the volume.
    assert errors[1] < 1e-4
    assert errors[1] < 0.2 * errors[0]


@pytest.mark.parametrize("cell", [None, CELL], ids=["isolated", "triclinic"])
def test_molecules_keep_their_charges_and_configurations_exchange_them(cell):
    graph = pair_graph(cell, (1.0, -2.0))
    charges = MODEL(graph).latent_charges
    assert float(charges[:3].sum().detach()) == pytest.approx(1.0, abs=1e-12)
    assert float(charges[3:].sum().detach()) == pytest.approx(-2.0, abs=1e-12)
    whole = equilibrating_model(conserve="configuration")
    charges = whole.physical_charges(whole(graph).latent_charges, graph)
    assert float(charges.sum().detach()) == pytest.approx(-1.0, abs=1e-12)
    assert abs(float(charges[:3].sum().detach()) - 1.0) > 0.05


def test_a_batch_is_its_configurations():
    single = [
        make_graph([FORMAMIDE], [FORMAMIDE_NUMBERS], [CELL]),
        make_graph([PAIR], [PAIR_NUMBERS], [None], [PAIR_MOLECULES], [[1.0, 0.0]]),
    ]
    batch = make_graph(
        [FORMAMIDE, PAIR],
        [FORMAMIDE_NUMBERS, PAIR_NUMBERS],
        [CELL, None],
        [[0] * 6, PAIR_MOLECULES],
        [[0.0], [1.0, 0.0]],
    )
    together, apart = MODEL(batch), [MODEL(graph) for graph in single]
    torch.testing.assert_close(together.latent_charges, torch.cat([p.latent_charges for p in apart]))
    torch.testing.assert_close(together.energy_long_range, torch.cat([p.energy_long_range for p in apart]))


# --- derivatives ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "method"),
    [(cell, m) for cell in (np.diag([9.0, 9.5, 10.0]), CELL) for m in ("auto", "pme")] + [(None, "auto")],
    ids=["box-auto", "box-pme", "triclinic-auto", "triclinic-pme", "isolated"],
)
def test_forces_are_the_slope_of_the_energy(cell, method):
    coulomb = LatentCoulomb(tolerance=1e-8 if method == "auto" else 1e-5, method=method)
    model = equilibrating_model(coulomb, tolerance=1e-10)
    graph = pair_graph(cell, (1.0, 0.0))
    places = graph.positions.clone().requires_grad_()
    output = model(graph._replace(positions=places), differentiable=False)
    (response,) = torch.autograd.grad(output.energy_short_range.sum() + output.response, places)
    found = response + output.gradients
    (full,) = torch.autograd.grad(total_energy(model, graph._replace(positions=places)), places)
    exact = method == "auto"
    torch.testing.assert_close(found, full, rtol=0, atol=(1e-7 if exact else 1e-4))
    step = 1e-4
    for atom, axis in [(0, 0), (2, 1), (5, 2)]:
        ends = []
        for sign in (1.0, -1.0):
            moved = graph.positions.clone()
            moved[atom, axis] += sign * step
            with torch.no_grad():
                p = model(graph._replace(positions=moved), differentiable=False)
            ends.append(float(p.energy_short_range + p.energy_long_range))
        slope = (ends[0] - ends[1]) / (2.0 * step)
        assert float(found[atom, axis]) == pytest.approx(slope, abs=2e-6 * float(found.abs().max()))


@pytest.mark.parametrize("cell", [None, 0.5 * CELL], ids=["isolated", "periodic"])
def test_gradients_to_second_order(cell):
    model = equilibrating_model(n_channels=2, n_message=2, cutoff=3.0)
    graph = make_graph([WATER], [WATER_NUMBERS], [cell], cutoff=3.0)
    places = graph.positions.clone().requires_grad_()

    def long_range(r: Tensor) -> Tensor:
        return model(graph._replace(positions=r)).energy_long_range.sum()

    def charges(r: Tensor) -> Tensor:
        return model(graph._replace(positions=r)).latent_charges

    assert torch.autograd.gradcheck(charges, (places,))
    assert torch.autograd.gradgradcheck(long_range, (places,))


@pytest.mark.parametrize("conserve", ["molecule", "configuration"])
def test_charges_follow_a_uniform_field_as_the_matrix_formula_says(conserve):
    # dq/dE = [H⁻¹ - H⁻¹C(CᵀH⁻¹C)⁻¹CᵀH⁻¹] r with H = J + K and C the membership of atoms.
    model = equilibrating_model(conserve=conserve)
    graph = pair_graph()
    with torch.no_grad():
        _, hardness = model.sources.coefficients(model.backbone(graph).features, graph.numbers)
        hessian = (model.electrostatics.matrix(graph.positions, None) + torch.diag(hardness)).numpy()
    inverse = np.linalg.inv(hessian)
    members = np.eye(2)[PAIR_MOLECULES] if conserve == "molecule" else np.ones((9, 1))
    shifts = inverse @ members
    susceptibility = inverse - shifts @ np.linalg.inv(members.T @ shifts) @ shifts.T
    expected = susceptibility @ graph.positions.numpy()
    step = 1e-2
    for axis in range(3):
        field = step * torch.eye(3, dtype=torch.float64)[axis]
        with torch.no_grad():
            plus = model(graph, external=uniform(graph, field)).latent_charges
            minus = model(graph, external=uniform(graph, -field)).latent_charges
        # Charges are linear in the field.
        assert np.allclose((plus - minus) / (2.0 * step), expected[:, axis], atol=1e-11)
    alpha = graph.positions.numpy().T @ expected
    assert np.linalg.eigvalsh(alpha).min() > -1e-12


def test_forces_in_a_field_are_the_slope_of_the_whole_energy():
    graph = pair_graph()
    field = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)

    def whole(positions: Tensor, differentiable: bool):
        moved = graph._replace(positions=positions)
        external = uniform(moved, field)
        output = MODEL(moved, differentiable, external)
        work = -(output.latent_charges * (positions @ field)).sum()
        return output, (output.energy_short_range + output.energy_long_range).sum() + work

    places = graph.positions.clone().requires_grad_()
    output, _ = whole(places, False)
    (response,) = torch.autograd.grad(output.energy_short_range.sum() + output.response, places)
    found = response + output.gradients - output.latent_charges.unsqueeze(1) * field
    step = 1e-4
    for atom, axis in [(0, 0), (4, 1), (7, 2)]:
        shift = torch.zeros_like(graph.positions)
        shift[atom, axis] = step
        with torch.no_grad():
            ends = [float(whole(graph.positions + s * shift, True)[1]) for s in (1.0, -1.0)]
        assert float(found[atom, axis]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6)


@pytest.mark.parametrize("cell", [None, CELL], ids=["isolated", "triclinic"])
def test_born_charges_are_the_slope_of_the_dipole(cell):
    graph = make_graph([FORMAMIDE], [FORMAMIDE_NUMBERS], [cell])
    found = born_charges(MODEL, graph)
    step = 1e-4
    for atom, axis in [(0, 0), (1, 1), (4, 2)]:
        ends = []
        for sign in (1.0, -1.0):
            moved = graph.positions.clone()
            moved[atom, axis] += sign * step
            with torch.no_grad():
                ends.append(dipole(MODEL, graph._replace(positions=moved))[0])
        slope = (ends[0] - ends[1]) / (2.0 * step)
        torch.testing.assert_close(found[atom, :, axis], slope, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.sum(0), torch.zeros(3, 3, dtype=torch.float64), rtol=0, atol=1e-10)


def test_stress_is_the_slope_of_the_energy():
    arguments = (np.array(WATER_NUMBERS), CELL)
    stress = MODEL.evaluate(WATER, *arguments, stress=True).stress
    step = 1e-5
    strain = np.eye(3)
    ends = []
    for sign in (1.0, -1.0):
        strain = np.eye(3) + sign * step * np.array([[0, 0.5, 0], [0.5, 0, 0], [0, 0, 1.0]])
        ends.append(MODEL.evaluate(WATER @ strain, arguments[0], CELL @ strain).energy)
    slope = (ends[0] - ends[1]) / (2.0 * step) / abs(np.linalg.det(CELL))
    assert stress[0, 1] + stress[2, 2] == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("conserve", ["molecule", "configuration"])
def test_evaluation_by_the_surrogate_is_that_by_all_derivatives(conserve):
    model = equilibrating_model(LatentCoulomb(tolerance=1e-6, method="pme"), conserve=conserve)
    arguments = (PAIR, np.array(PAIR_NUMBERS), CELL, [1.0, 0.0], np.array(PAIR_MOLECULES))
    quick, whole = model.evaluate(*arguments), model.evaluate(*arguments, stress=True)
    assert quick.energy == pytest.approx(whole.energy, rel=1e-8)
    np.testing.assert_allclose(quick.forces, whole.forces, atol=2e-5 * np.abs(whole.forces).max())
    np.testing.assert_allclose(quick.charges, whole.charges, atol=1e-5)


# --- files, scripts, errors -------------------------------------------------------------------


def test_a_saved_model_is_the_same(tmp_path):
    path = tmp_path / "model.safetensors"
    model = equilibrating_model(conserve="configuration", gain=0.2)
    save_model(model, path)
    loaded = load_model(path)
    assert loaded.responds
    assert loaded.sources.electrostatics is loaded.electrostatics
    assert loaded.sources.config() == model.sources.config()
    graph = pair_graph(CELL, (1.0, 0.0))
    for name, value in model(graph)._asdict().items():
        torch.testing.assert_close(getattr(loaded(graph), name), value, rtol=0, atol=0)
    assert "ChargeEquilibration" in model_card(str(path))


def test_a_file_with_a_bad_setting_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    monkeypatch.setitem(MODEL.sources.settings, "conserve", "atom")
    save_model(MODEL, path)
    with pytest.raises(CheckpointError, match="`conserve` must be one of molecule, configuration"):
        load_model(path)


@pytest.mark.parametrize("method", ["auto", "pme"])
def test_scripted_and_frozen_models_give_the_same_numbers(method):
    model = equilibrating_model(LatentCoulomb(method=method)).eval()
    graph = pair_graph(CELL, (1.0, 0.0))
    external = uniform(graph, torch.tensor([0.1, 0.2, -0.1], dtype=torch.float64))
    script = torch.jit.script(copy.deepcopy(model))
    for differentiable in (True, False):
        for given in (None, external):
            expected = model(graph, differentiable, given)
            found = script(graph, differentiable, given)
            for value, other in zip(found, expected):
                torch.testing.assert_close(value, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gain": 0.0}, "`gain` must be positive, got 0.0"),
        ({"tolerance": -1.0}, "`tolerance` must be positive"),
        ({"conserve": "atom"}, "`conserve` must be one of molecule, configuration, got 'atom'"),
        ({"solver": "lu"}, "`solver` must be one of auto, dense, iterative, got 'lu'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ChargeEquilibration(ELEMENTS, 4, electrostatics=LatentCoulomb(), **settings)


@pytest.mark.parametrize("solver", ["dense", "iterative"])
def test_no_minimum_is_an_error_not_a_number(solver):
    model = equilibrating_model(solver=solver)
    model.sources.least_hardness = -30.0
    graph = make_graph([0.5 * FORMAMIDE], [FORMAMIDE_NUMBERS])
    with pytest.raises(RuntimeError, match="charge equilibration"):
        model(graph, differentiable=False)
