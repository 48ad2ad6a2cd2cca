"""A cation and its neutral parent at one geometry: what a backbone that knows the charge says of them."""

from __future__ import annotations

import copy
import json

import numpy as np
import openmm
import pytest
import safetensors
import torch

from openmm_les import create_system, load_model
from openmm_les.electrostatics import LatentCoulomb
from openmm_les.engine.boundary import IsolatedForce
from openmm_les.engine.compile import freeze
from openmm_les.models.charge_embedding import ChargeEmbedding
from openmm_les.models.checkpoint import FORMAT, save_model
from openmm_les.models.equivariant import EquivariantBackbone
from openmm_les.models.heads import NoCharges
from openmm_les.models.model import LESModel
from tests.builders import (
    ELEMENTS,
    FORMAMIDE,
    FORMAMIDE_NUMBERS,
    WATER,
    WATER_NUMBERS,
    make_graph,
    random_rotation,
    small_backbone,
    small_model,
)
from tests.engine.builders import (
    FORMAMIDE_RESIDUE,
    KJ,
    ROUTES_HERE,
    energy_of,
    forces_of,
    make_context,
    quiet_model,
    topology_of,
)

CHARGES = [-2.0, -1.0, 0.0, 1.0, 2.0]


def embedded():
    """The backbone of `small_backbone` with a silent embedding beside."""
    backbone = small_backbone()
    backbone.give_charge_embedding()
    return backbone


def awake(backbone, seed=3):
    """The backbone with random weights in its embedding."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.charge_embedding.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return backbone


@pytest.fixture(scope="module")
def backbone():
    return awake(embedded())


def formamide(charge, positions=FORMAMIDE):
    return make_graph([positions], [FORMAMIDE_NUMBERS], charges=[[charge]])


def energy(backbone, charge):
    return float(backbone(formamide(charge)).energies.sum().detach())


def test_charge_states_differ_and_neutral_molecules_are_as_without(backbone):
    energies = [energy(backbone, charge) for charge in CHARGES]
    assert min(abs(e - energies[2]) for k, e in enumerate(energies) if k != 2) > 1e-2
    assert min(abs(a - b) for k, a in enumerate(energies) for b in energies[:k]) > 1e-4
    without = small_backbone()
    without.load_state_dict(backbone.state_dict(), strict=False)
    neutral, same = backbone(formamide(0.0)), without(formamide(0.0))
    assert torch.equal(neutral.energies, same.energies) and torch.equal(neutral.features, same.features)
    assert energy(without, 1.0) == energy(without, 0.0)


def test_silent_until_trained(backbone):
    silent = embedded()
    plain = small_backbone()
    for charge in CHARGES:
        assert energy(silent, charge) == energy(plain, charge)
    new = set(silent.state_dict()) - set(plain.state_dict())
    assert len(new) == 6 and all(name.startswith("charge_embedding.") for name in new)
    fresh = EquivariantBackbone(ELEMENTS, charge_embedding=True).charge_embedding
    assert all((parameter == 0.0).all() for parameter in fresh.parameters())


def test_continuous_through_zero(backbone):
    steps = [energy(backbone, charge) - energy(backbone, 0.0) for charge in (-1e-4, -1e-5, 1e-5, 1e-4)]
    assert abs(steps[0]) > 5 * abs(steps[1]) > 0 and abs(steps[3]) > 5 * abs(steps[2]) > 0
    assert max(abs(step) for step in steps) < 1e-2


def test_shares_are_the_whole_charge():
    embedding = ChargeEmbedding(4).double()
    torch.nn.init.normal_(embedding.weight.weight)
    scalars = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    molecules = torch.tensor([0, 0, 2, 2, 2, 0, 2])
    charges = torch.tensor([1.0, 5.0, -2.0], dtype=torch.float64)  # of the second there is no atom
    shares = embedding.shares(scalars, molecules, charges)
    sums = torch.zeros(3, dtype=torch.float64).index_add(0, molecules, shares)
    torch.testing.assert_close(sums, torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64))
    assert ((shares > 0) == (molecules == 0)).all()


def test_other_molecules_charges_change_nothing(backbone):
    positions = np.concatenate([FORMAMIDE, WATER + np.array([0.0, 0.0, 30.0])])
    numbers = [FORMAMIDE_NUMBERS + WATER_NUMBERS]
    found = {}
    for charge in (-1.0, 0.0, 1.0):
        graph = make_graph([positions], numbers, [60.0 * np.eye(3)], [[0] * 6 + [1] * 3], [[1.0, charge]])
        found[charge] = backbone(graph).energies[:6]
    alone = backbone(formamide(1.0)).energies
    for energies in found.values():
        torch.testing.assert_close(energies, alone, rtol=0, atol=1e-12)


def test_energies_turn_with_nothing_and_derivatives_are_right(backbone):
    rotation = random_rotation(5)
    turned = formamide(1.0, torch.tensor(FORMAMIDE) @ rotation)
    assert float(backbone(turned).energies.sum().detach()) == pytest.approx(energy(backbone, 1.0), rel=1e-10)

    def total(positions):
        return backbone(formamide(-1.0)._replace(positions=positions)).energies.sum()

    positions = torch.tensor(FORMAMIDE, requires_grad=True)
    assert torch.autograd.gradcheck(total, (positions,), eps=1e-5, atol=1e-7)
    assert torch.autograd.gradgradcheck(total, (positions,), eps=1e-5, atol=1e-5, nondet_tol=1e-12)


def test_frozen_script_is_the_module(backbone):
    script = freeze(torch.jit.script(backbone))
    for _ in range(3):
        for charge in (0.0, 1.0):
            found, expected = script(formamide(charge)), backbone(formamide(charge))
            torch.testing.assert_close(found.energies, expected.energies, rtol=1e-12, atol=1e-12)


def boundary_of(model, charge):
    """The module that OpenMM runs."""
    return IsolatedForce(model, FORMAMIDE_NUMBERS, [0] * len(FORMAMIDE_NUMBERS), [charge])


@pytest.mark.parametrize("route", ROUTES_HERE)
def test_a_cation_and_its_parent_in_openmm(route):
    model = quiet_model(charge_embedding=True)
    awake(model.backbone)
    energies = []
    for charge in (0, 1):
        system = create_system(
            topology_of([FORMAMIDE_RESIDUE]), model, route, precision="double", total_charge=charge
        )
        assert (boundary_of(model, charge).model.backbone.charge_embedding is None) == (charge == 0)
        context = make_context(system, FORMAMIDE / 10)
        expected = model.evaluate(FORMAMIDE, np.array(FORMAMIDE_NUMBERS), total_charge=charge)
        assert energy_of(context) == pytest.approx(KJ * expected.energy, rel=1e-12)
        np.testing.assert_allclose(forces_of(context), 10 * KJ * expected.forces, atol=1e-6)
        energies.append(expected.energy_short_range)
        copied = openmm.XmlSerializer.clone(system) if route == "python" else system
        assert energy_of(make_context(copied, FORMAMIDE / 10)) == energy_of(context)
    assert abs(energies[0] - energies[1]) > 1e-3


def test_saved_and_loaded(tmp_path):
    model = small_model(charge_embedding=True)
    awake(model.backbone)
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    for charge in (0, 1):
        a, b = (
            m.evaluate(FORMAMIDE, np.array(FORMAMIDE_NUMBERS), total_charge=charge) for m in (model, loaded)
        )
        assert a.energy == b.energy
        np.testing.assert_array_equal(a.forces, b.forces)


def test_files_without_the_option_load_and_can_be_given_it(tmp_path):
    plain = small_model()
    save_model(plain, tmp_path / "new.safetensors")
    with safetensors.safe_open(tmp_path / "new.safetensors", framework="pt") as file:
        description = json.loads(file.metadata()[FORMAT])
        weights = {name: file.get_tensor(name) for name in file.keys()}
    del description["backbone"]["charge_embedding"]  # as older versions wrote it
    safetensors.torch.save_file(weights, tmp_path / "old.safetensors", {FORMAT: json.dumps(description)})
    old = load_model(tmp_path / "old.safetensors")
    given = copy.deepcopy(old)
    given.backbone.give_charge_embedding()
    given.backbone.give_charge_embedding()  # there already
    for charge in (0, 1):
        numbers = np.array(FORMAMIDE_NUMBERS)
        results = [m.evaluate(FORMAMIDE, numbers, total_charge=charge) for m in (plain, old, given)]
        assert len({r.energy for r in results}) == 1
        for r in results[1:]:
            np.testing.assert_array_equal(r.forces, results[0].forces)
            np.testing.assert_array_equal(r.latent_charges, results[0].latent_charges)
    save_model(given, tmp_path / "given.safetensors")
    assert load_model(tmp_path / "given.safetensors").backbone.charge_embedding is not None


def test_training_tells_charge_states_apart():
    """Energies of two states at the same geometries, 4 eV apart, with a slope that depends on them."""
    generator = np.random.default_rng(0)
    places = [FORMAMIDE + generator.normal(scale=0.05, size=FORMAMIDE.shape) for _ in range(4)]
    bond = np.array([np.linalg.norm(p[1] - p[0]) for p in places])
    target = torch.tensor(np.concatenate([5 * (bond - 1.2), 4.0 - 5 * (bond - 1.2)]))
    graph = make_graph(places * 2, [FORMAMIDE_NUMBERS] * 8, charges=[[0.0]] * 4 + [[1.0]] * 4)
    errors = {}
    for known in (False, True):
        network = small_backbone(n_channels=16)
        if known:
            network.give_charge_embedding()
        model = LESModel(network, NoCharges(), LatentCoulomb(), ELEMENTS).double()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(180):
            optimizer.zero_grad()
            loss = (model(graph).energy_short_range - target).square().mean()
            loss.backward()
            optimizer.step()
        errors[known] = float(loss.detach()) ** 0.5
    halves = (0.5 * (target[4:] - target[:4])).square().mean().sqrt()
    assert errors[False] > 0.999 * float(halves)  # it sees one molecule: half the gap is the best there is
    assert errors[True] < 0.3
