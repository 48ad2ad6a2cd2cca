"""Backbones from outside the package: checked, given charges, trained, saved, run in OpenMM."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from openmm_les.engine.system import create_system
from openmm_les.models import checkpoint
from openmm_les.models.adapters.any_backbone import PairBackbone, add_latent_charges
from openmm_les.models.adapters.convert import convert_mace
from openmm_les.models.checkpoint import load_model, register_backbone, save_model
from openmm_les.units import KJ_PER_MOL_PER_EV
from tests.builders import WATER, WATER_NUMBERS
from tests.engine.builders import (
    BOXES,
    ROUTES_HERE,
    WATER_RESIDUE,
    energy_of,
    make_context,
    topology_of,
)
from tests.models.adapters.files import unpack

ELEMENTS = [1, 6, 8]


def load_toy() -> type[nn.Module]:
    """The toy of ``examples/own_backbone.py``."""
    path = Path(__file__).parents[3] / "examples" / "own_backbone.py"
    spec = importlib.util.spec_from_file_location("own_backbone", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Toy


Toy = load_toy()


class SavedToy(PairBackbone):
    """Toy that knows how to be built again."""

    def __init__(self, cutoff: float = 4.0) -> None:
        super().__init__(Toy(cutoff).double(), cutoff, 32)

    @torch.jit.unused
    def config(self):
        return {"cutoff": self.cutoff}


def toy_model(elements=ELEMENTS, **options):
    torch.manual_seed(0)
    return add_latent_charges(SavedToy(), elements, reference_energies=[-13.0, -1000.0, -2000.0], **options)


def test_charges_are_added():
    model = toy_model()
    result = model.evaluate(WATER, np.array(WATER_NUMBERS))
    assert result.latent_charges[0] < -0.2 and abs(result.latent_charges.sum()) < 1e-12
    assert result.energy_long_range != 0.0
    assert result.energy_short_range == pytest.approx(-2026.0, abs=5.0)


@pytest.mark.parametrize("route", ROUTES_HERE)
@pytest.mark.parametrize("box", ["isolated", "triclinic"])
def test_in_openmm(route, box):
    model = toy_model()
    system = create_system(topology_of([WATER_RESIDUE], BOXES[box]), model, route, precision="double")
    expected = model.evaluate(WATER, np.array(WATER_NUMBERS), None if BOXES[box] is None else 10 * BOXES[box])
    context = make_context(system, 0.1 * WATER)
    assert energy_of(context) == pytest.approx(expected.energy * KJ_PER_MOL_PER_EV, abs=1e-6)


def force_loss(model, forces):
    graph = model.make_graph(WATER, np.array(WATER_NUMBERS))
    places = graph.positions.clone().requires_grad_(True)
    output = model(graph._replace(positions=places))
    energy = (output.energy_short_range + output.energy_long_range).sum()
    (gradient,) = torch.autograd.grad(energy, places, create_graph=True)
    return ((gradient + forces) ** 2).mean()


@pytest.mark.parametrize("frozen", [True, False])
def test_training_the_head_alone_or_all(frozen):
    model = toy_model(freeze_backbone=frozen)
    backbone = {name: p.clone() for name, p in model.backbone.named_parameters()}
    head = {name: p.clone() for name, p in model.charge_head.named_parameters()}
    target = torch.zeros(3, 3, dtype=torch.float64)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=1e-2)
    first = float(force_loss(model, target).detach())
    for _ in range(10):
        optimizer.zero_grad()
        force_loss(model, target).backward()
        optimizer.step()
    assert float(force_loss(model, target).detach()) < first
    assert any(not torch.equal(p, head[n]) for n, p in model.charge_head.named_parameters())
    moved = any(not torch.equal(p, backbone[n]) for n, p in model.backbone.named_parameters())
    assert moved is not frozen


def test_charges_on_top_of_a_converted_mace(tmp_path):
    plain = convert_mace(unpack("plain", tmp_path))
    references = [float(plain.reference_energies[z]) for z in plain.elements]
    model = add_latent_charges(
        plain.backbone, plain.elements, reference_energies=references, freeze_backbone=True
    )
    before = plain.evaluate(WATER, np.array(WATER_NUMBERS))
    after = model.evaluate(WATER, np.array(WATER_NUMBERS))
    assert after.energy_short_range == pytest.approx(before.energy, abs=1e-9)
    assert after.energy_long_range != 0.0
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors").evaluate(WATER, np.array(WATER_NUMBERS))
    assert again.energy == after.energy


def test_saved_once_registered(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "BACKBONES", dict(checkpoint.BACKBONES))
    path = tmp_path / "toy.safetensors"
    model = toy_model()
    with pytest.raises(TypeError, match=r"SavedToy cannot be saved; .* register_backbone"):
        save_model(model, path)
    assert register_backbone(SavedToy) is SavedToy
    model = toy_model(list(np.array(ELEMENTS)))  # whose numbers JSON does not take
    save_model(model, path)
    again = load_model(path)
    numbers = np.array(WATER_NUMBERS)
    assert again.evaluate(WATER, numbers).energy == model.evaluate(WATER, numbers).energy
    with pytest.raises(ValueError, match="a backbone named SavedToy is registered already"):
        register_backbone(type("SavedToy", (SavedToy,), {}))
    with pytest.raises(TypeError, match=r"Linear needs a method config\(\)"):
        register_backbone(nn.Linear)
    monkeypatch.setattr(checkpoint, "BACKBONES", {})
    with pytest.raises(checkpoint.CheckpointError, match=r"unknown part 'SavedToy'.*registered first"):
        load_model(path)


class Bad(nn.Module):
    """Backbone with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, positions, numbers, pairs, vectors):
        r2 = (vectors * vectors).sum(1)
        energies = self.weight * torch.zeros_like(positions[:, 0]).index_add(0, pairs[0], torch.exp(-r2))
        features = energies.unsqueeze(1)
        if self.fault == "features of wrong size":
            features = features.expand(-1, 2)
        if self.fault == "dtype":
            energies = energies.double()
        if self.fault == "constant":
            energies = 0.0 * energies + 1.0
        if self.fault == "translation":
            energies = energies + positions[:, 0]
        if self.fault == "rotation":
            features = features.index_add(0, pairs[0], vectors[:, :1] * torch.exp(-r2).unsqueeze(1))
        if self.fault == "order":
            energies = energies + 0.1 * torch.arange(len(positions))
        if self.fault == "batch":
            features = features + energies.sum()
        return energies, features


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("features of wrong size", r"features must be \[7, 1\] of torch.float32, got \[7, 2\]"),
        ("dtype", r"energies must be \[7\] of torch.float32, got \[7\] of torch.float64"),
        ("constant", "do not depend on positions"),
        ("translation", "energies change when all atoms are moved together"),
        ("rotation", "features change when all atoms are turned together"),
        ("order", "energies depend on the order of atoms"),
        ("batch", "features of one configuration depend on others in the batch"),
    ],
)
def test_faults_are_found_at_once(fault, message):
    with pytest.raises(ValueError, match=message):
        add_latent_charges(PairBackbone(Bad(fault), 4.0, 1), ELEMENTS)
    add_latent_charges(PairBackbone(Bad(""), 4.0, 1), ELEMENTS)


def test_a_backbone_must_say_what_it_is():
    with pytest.raises(TypeError, match="a backbone needs the number `cutoff`; Bad has none"):
        add_latent_charges(Bad(""), ELEMENTS)
