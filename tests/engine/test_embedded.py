from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from openmm_les.engine.compile import freeze
from openmm_les.engine.embedded import IsolatedEmbedded, PeriodicEmbedded
from openmm_les.engine.surroundings import CouplingSettings, Surroundings
from openmm_les.units import ANGSTROM_PER_NM, KJ_PER_MOL_PER_EV
from tests.engine.builders import check_forces, quiet_model, run_module, water_and_formamide

POSITIONS, NUMBERS, MOLECULES = water_and_formamide()
BOXES = {
    "isolated": None,
    "cubic": np.diag([1.7, 1.7, 1.7]),
    "triclinic": np.array([[1.7, 0.0, 0.0], [0.3, 1.65, 0.0], [-0.4, 0.35, 1.8]]),
}
ML = list(range(1, 10))
SITES = [0, *range(10, 16)]
# Three waters' worth of charges beside the region, one of them first among the particles.
PLACES = np.array(
    [
        [0.6, 0.5, 0.5],
        [0.1, 0.45, 0.1],
        [0.7, 0.0, 0.3],
        [0.3, 0.3, -0.4],
        [1.2, 0.9, 0.7],
        [0.0, 0.6, 0.9],
        [1.5, 0.0, 1.0],
    ]
)
ALL = np.concatenate([PLACES[:1], POSITIONS, PLACES[1:]])
SETTINGS = CouplingSettings(cutoff=7.5, tolerance=1e-4)


def surroundings(**settings):
    return Surroundings(SITES, [0.4, -0.8, 0.4, 0.4, -0.9, 0.5, 0.2], **settings)


def make_module(box, dtype=torch.float64, settings=SETTINGS, **more):
    kind = IsolatedEmbedded if box is None else PeriodicEmbedded
    model = quiet_model()
    return kind(model, NUMBERS, MOLECULES, [0.0, 0.0], ML, dtype, surroundings(**more), settings)


@pytest.fixture(scope="module", params=BOXES)
def box(request):
    return BOXES[request.param]


@pytest.fixture(scope="module")
def frozen(box):
    """The double-precision module as OpenMM runs it."""
    module = make_module(box, excluded=[(2, 1)], excluded_shares=[0.3])
    return freeze(torch.jit.script(module))


@pytest.mark.parametrize("strengths", [(), (0.35,), (0.6, 0.25)])
def test_frozen_forces_are_the_derivative_of_the_energy_on_ml_and_mm_atoms(frozen, box, strengths):
    components = [(1, 0), (2, 1), (5, 2), (9, 0), (0, 1), (10, 2), (12, 0)]
    forces = check_forces(lambda x: run_module(frozen, x, box, *strengths), ALL, components, 1e-6)
    assert np.abs(forces[SITES]).max() > 1.0


def test_the_energy_is_the_model_plus_its_charges_in_the_potential(box):
    module = make_module(box)
    energy, _ = run_module(module, ALL, box)
    cell = None if box is None else box * ANGSTROM_PER_NM
    model = quiet_model().evaluate(POSITIONS * ANGSTROM_PER_NM, np.array(NUMBERS), cell)
    alone, forces = run_module(module, ALL, box, 0.0)
    assert alone == pytest.approx(model.energy * KJ_PER_MOL_PER_EV, rel=1e-10)
    assert np.abs(forces[SITES]).max() == 0.0
    half, _ = run_module(module, ALL, box, 0.5)
    assert half - alone == pytest.approx(0.5 * (energy - alone), rel=1e-9)
    quarter, _ = run_module(module, ALL, box, 1.0, 0.25)
    assert quarter == pytest.approx(0.25 * energy, rel=1e-12)
    assert run_module(module, ALL, box, 1.0, 0.0) == (0.0, pytest.approx(np.zeros_like(ALL)))


def test_physical_charges_meet_the_surroundings():
    model = quiet_model()
    scaled = quiet_model()
    scaled.charge_scale = -2.0
    couplings = []
    for which in (model, scaled):
        module = IsolatedEmbedded(
            which, NUMBERS, MOLECULES, [0.0, 0.0], ML, torch.float64, surroundings(), SETTINGS
        )
        terms = module.terms(torch.tensor(ALL), None, 1.0)
        couplings.append((float(terms.coupling), float(terms.latent)))
    assert couplings[1][0] == pytest.approx(-2.0 * couplings[0][0], rel=1e-9)
    assert couplings[1][1] == pytest.approx(couplings[0][1], rel=1e-12)


def test_particles_moved_by_box_vectors_change_nothing(frozen, box):
    if box is None:
        pytest.skip("isolated: there are no images")
    energy, forces = run_module(frozen, ALL, box)
    moved = ALL.copy()
    moved[4] += box[0] - 3 * box[2]
    moved[12] -= 2 * box[1]
    other, other_forces = run_module(frozen, moved, box)
    assert other == pytest.approx(energy, abs=1e-7)
    np.testing.assert_allclose(other_forces, forces, atol=1e-6)


def test_single_precision_is_close(box):
    energy, forces = run_module(make_module(box), ALL, box)
    single, single_forces = run_module(make_module(box, torch.float32), ALL, box)
    assert single == pytest.approx(energy, abs=0.02)
    np.testing.assert_allclose(single_forces, forces, atol=1e-3 * np.abs(forces).max())


@pytest.mark.parametrize("box", [BOXES["isolated"], BOXES["triclinic"]], ids=["isolated", "triclinic"])
def test_a_bare_charge_too_close_is_reported_once(box):
    settings = CouplingSettings(cutoff=7.5, guard_distance=1.2)
    near = ALL.copy()
    near[12] = near[1] + [0.0, -0.1, 0.0]  # site 3, 1 Å from an ML atom
    script = freeze(torch.jit.script(make_module(box, settings=settings, bare=[0, 3])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_module(script, ALL, box)
    with pytest.warns(UserWarning, match="closer to an ML atom than the guard"):
        run_module(script, near, box)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_module(script, near, box)
        run_module(make_module(box, settings=settings, bare=[0]), near, box)
        run_module(
            make_module(box, settings=CouplingSettings(cutoff=7.5, guard_distance=0.0), bare=[3]), near, box
        )


def test_the_box_must_hold_the_cutoff():
    module = freeze(torch.jit.script(make_module(BOXES["cubic"])))
    with pytest.raises(torch.jit.Error, match="narrower than twice the cutoff"):
        run_module(module, ALL, 0.85 * BOXES["cubic"])


def test_positions_and_energies_must_be_finite(box):
    module = freeze(torch.jit.script(make_module(box)))
    broken = ALL.copy()
    broken[11, 1] = np.nan
    with pytest.raises(torch.jit.Error, match="positions hold NaN"):
        run_module(module, broken, box)


@pytest.mark.parametrize("name", ["cutoff", "tolerance"])
def test_settings_are_checked(name):
    with pytest.raises(ValueError, match=f"`{name}`.*must be positive"):
        CouplingSettings(**{name: 0.0})
    with pytest.raises(ValueError, match="`mm_smearing`"):
        CouplingSettings(mm_smearing=-1.0)
