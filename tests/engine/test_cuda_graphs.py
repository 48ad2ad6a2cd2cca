"""Replayed force calls; off a GPU the model is called where a graph would be replayed."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from openmm_les.electrostatics import LatentCoulomb
from openmm_les.engine import cuda_graphs
from openmm_les.engine.boundary import LAMBDA_INTERPOLATE, IsolatedForce, PeriodicForce
from openmm_les.engine.cuda_graphs import SWITCH, ReplayedEmbedding, ReplayedForce, can_replay
from openmm_les.engine.embedded import LAMBDA_ELECTROSTATICS, IsolatedEmbedded, PeriodicEmbedded
from openmm_les.engine.field_forces import IsolatedFieldForce
from openmm_les.engine.rows import SEARCHED
from openmm_les.engine.surroundings import CouplingSettings, Surroundings
from openmm_les.models.adapters.convert import convert_mace
from tests.engine.builders import BOXES, equilibrating_model, quiet_model, water_and_formamide
from tests.models.adapters.files import REFERENCES, unpack

POSITIONS, NUMBERS, MOLECULES = water_and_formamide()
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def script_of(box, device=DEVICE, **more) -> torch.jit.ScriptModule:
    """Scripted force of water and formamide; in a box on the mesh."""
    model = quiet_model()
    model.electrostatics = LatentCoulomb(method="auto" if box is None else "pme")
    kind = IsolatedForce if box is None else PeriodicForce
    module = kind(model, NUMBERS, MOLECULES, [0.0, 0.0], **{"dtype": torch.float64, **more})
    return loaded(module, device)


def loaded(module, device=DEVICE) -> torch.jit.ScriptModule:
    """Scripted, on a device."""
    archive = io.BytesIO()
    torch.jit.save(torch.jit.script(module), archive)
    archive.seek(0)
    return torch.jit.load(archive, map_location=device).eval()


def plain(module, positions, box, strength=1.0):
    """Energy and forces of the module itself."""
    arguments = [torch.as_tensor(positions).to(DEVICE)]
    if box is not None:
        arguments.append(torch.as_tensor(box).to(DEVICE))
    energy, forces = module(*arguments, torch.tensor(strength, dtype=torch.float64))
    return float(energy.detach()), forces.detach().cpu().numpy()


def check(module, replayed, positions, box, strength=1.0):
    """Both ways give the same, and leave the same charges for reporters."""
    expected = plain(module, positions, box, strength)
    charges = module.latest_charges.clone()
    cell = None if box is None else torch.as_tensor(box)
    energy, forces = replayed(torch.as_tensor(positions), cell, {LAMBDA_INTERPOLATE: strength})
    assert energy == pytest.approx(expected[0], rel=1e-12)
    np.testing.assert_allclose(forces.numpy(), expected[1], atol=1e-9 * np.abs(expected[1]).max())
    torch.testing.assert_close(module.latest_charges, charges)


@pytest.mark.parametrize("searched", [0, SEARCHED])
@pytest.mark.parametrize("name", BOXES)
def test_a_replay_is_the_module(name, searched, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "SEARCHED", searched)
    box = BOXES[name]
    module = script_of(box)
    replayed = ReplayedForce(module)
    rng = np.random.default_rng(4)
    for strength in (1.0, 0.3, 1.0):
        check(module, replayed, POSITIONS + 0.01 * rng.normal(size=POSITIONS.shape), box, strength)
    if box is not None:
        check(module, replayed, POSITIONS + 3.0 * box[0], box)


@pytest.mark.parametrize("periodic", [False, True])
def test_a_published_architecture(periodic, tmp_path):
    model = convert_mace(unpack("maceles", tmp_path))
    model.electrostatics.method = "pme" if periodic else "auto"
    reference = REFERENCES["maceles"]["molecule"]
    numbers, n = reference["numbers"], len(reference["numbers"])
    box = np.diag([1.1, 1.2, 1.3]) if periodic else None
    kind = PeriodicForce if periodic else IsolatedForce
    module = loaded(kind(model, numbers, [0] * n, [0.0], dtype=torch.float64))
    replayed = ReplayedForce(module)
    positions = 0.1 * np.array(reference["positions"])
    for seed in range(3):
        check(module, replayed, positions + 0.005 * np.random.default_rng(seed).normal(size=(n, 3)), box)


def test_boxes_that_change():
    module = script_of(BOXES["triclinic"])
    replayed = ReplayedForce(module)
    for scale in (1.0, 1.001, 1.3, 0.97, 1.0):
        box = scale * BOXES["triclinic"]
        check(module, replayed, scale * POSITIONS, box)
        check(module, replayed, scale * POSITIONS, box)


def test_rows_grow_with_the_neighbours(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "_ROOM", 1.0)
    module = script_of(None)
    replayed = ReplayedForce(module)
    check(module, replayed, POSITIONS + 2.0 * np.array(MOLECULES)[:, None], None)
    first = replayed._rows.width
    check(module, replayed, 0.7 * POSITIONS, None)
    assert replayed._rows.width > first


def test_single_precision_particles_beside_the_model_and_image_charges():
    charges = (0.1 * np.array([-2, 1, 1, 3, -3, -2, 1, 1, 0])).tolist()
    box = 2.0 * BOXES["cubic"]
    more = {"dtype": torch.float32, "atoms": [11, *range(8)], "image_charges": charges}
    module = script_of(box, **more)
    replayed = ReplayedForce(module, script_of(box, device="cpu", **more))
    positions = np.concatenate([POSITIONS[1:], np.full((3, 3), 0.4), POSITIONS[:1]])
    energy, forces = replayed(torch.as_tensor(positions), torch.as_tensor(box), {})
    expected = plain(module, positions, box)
    assert energy == pytest.approx(expected[0], rel=1e-7)
    np.testing.assert_allclose(forces.numpy(), expected[1], atol=1e-4 * np.abs(expected[1]).max())
    assert not forces[8:11].any()


def test_errors_are_the_module_s():
    module = script_of(None)
    replayed = ReplayedForce(module)
    bad = POSITIONS.copy()
    bad[3, 1] = np.nan
    with pytest.raises(RuntimeError, match="positions hold NaN"):
        replayed(torch.as_tensor(bad), None, {})
    bad[3] = bad[4]
    with pytest.raises(RuntimeError, match="the ML energy is not finite"):
        replayed(torch.as_tensor(bad), None, {})
    check(module, replayed, POSITIONS, None)


@pytest.mark.parametrize("name", BOXES)
def test_regions_among_mm_charges(name):
    box = None if BOXES[name] is None else 1.8 * BOXES[name]
    model = quiet_model()
    model.electrostatics = LatentCoulomb(method="auto" if box is None else "pme")
    kind = IsolatedEmbedded if box is None else PeriodicEmbedded
    around = Surroundings([0, 10, 11], [0.4, -0.8, 0.4], [2], [(2, 1)], [0.3])
    settings = CouplingSettings(cutoff=7.5)
    atoms = list(range(1, 10))
    module = loaded(kind(model, NUMBERS, MOLECULES, [0.0, 0.0], atoms, torch.float64, around, settings))
    replayed = ReplayedEmbedding(module)
    places = np.array([[0.6, 0.5, 0.5], [0.1, 0.45, 0.1], [0.7, 0.0, 0.3]])
    start = np.concatenate([places[:1], POSITIONS, places[1:]])
    for seed, (electrostatics, interpolate) in enumerate([(1.0, 1.0), (0.4, 1.0), (0.4, 0.3)]):
        positions = start + 0.01 * np.random.default_rng(seed).normal(size=start.shape)
        values = {LAMBDA_ELECTROSTATICS: electrostatics, LAMBDA_INTERPOLATE: interpolate}
        arguments = [torch.as_tensor(positions), *([] if box is None else [torch.as_tensor(box)])]
        more = [torch.tensor(value, dtype=torch.float64) for value in values.values()]
        energy, forces = module(*(each.to(DEVICE) for each in arguments), *more)
        expected = forces.detach().cpu().numpy()
        latest = [getattr(module, f"latest_{what}").clone() for what in ("charges", "terms")]
        cell = None if box is None else torch.as_tensor(box)
        found, of_replay = replayed(torch.as_tensor(positions), cell, values)
        assert found == pytest.approx(float(energy.detach()), rel=1e-12)
        np.testing.assert_allclose(of_replay.numpy(), expected, atol=1e-9 * np.abs(expected).max())
        torch.testing.assert_close(module.latest_charges, latest[0])
        torch.testing.assert_close(module.latest_terms, latest[1])


def test_a_box_too_narrow_for_the_coupling():
    around = Surroundings([9], [0.4])
    module = loaded(
        PeriodicEmbedded(
            quiet_model(),
            NUMBERS,
            MOLECULES,
            [0.0, 0.0],
            list(range(9)),
            torch.float64,
            around,
            CouplingSettings(),
        )
    )
    with pytest.raises(RuntimeError, match="narrower than twice the cutoff"):
        positions = torch.as_tensor(np.concatenate([POSITIONS, [[0.6, 0.5, 0.5]]]))
        ReplayedEmbedding(module)(positions, torch.as_tensor(BOXES["cubic"]), {})


def test_who_can_be_replayed(monkeypatch):
    arguments = (NUMBERS, MOLECULES, [0.0, 0.0])
    assert IsolatedForce(quiet_model(), *arguments).replayable
    assert not IsolatedForce(equilibrating_model(), *arguments).replayable
    assert not IsolatedFieldForce(quiet_model(), *arguments).replayable
    module = script_of(None)
    assert not can_replay(module, torch.device("cpu"))
    assert can_replay(module, torch.device("cuda"))
    monkeypatch.setenv(SWITCH, "0")
    assert not can_replay(module, torch.device("cuda"))
