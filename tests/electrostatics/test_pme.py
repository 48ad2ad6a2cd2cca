from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openmm_les.electrostatics import LatentCoulomb, ParticleMesh, ewald_sum, latent_ewald, pme_sum
from openmm_les.electrostatics.influence import influence_function, mesh_self_terms
from openmm_les.electrostatics.tuning import mesh_sizes
from openmm_les.neighbors import all_pairs
from tests.electrostatics.systems import CELLS, KE, scattered_charges, water_box

SHAPES = pytest.mark.parametrize("shape", CELLS)


def relative(found, expected) -> float:
    return float(torch.linalg.norm(found - expected) / torch.linalg.norm(expected))


def summed(solver, positions, charges, cell):
    with torch.no_grad():
        return solver(positions, charges, cell)


@SHAPES
@pytest.mark.parametrize("net_charge", [0.0, 2.0])
@pytest.mark.parametrize(("tolerance", "forces", "energies"), [(1e-4, 5e-4, 1e-6), (1e-6, 2e-5, 1e-8)])
def test_mesh_agrees_with_the_exact_sum(shape, net_charge, tolerance, forces, energies):
    positions, charges, cell = scattered_charges(192, CELLS[shape], net_charge)
    exact = ewald_sum(positions, charges, cell, 1.0, KE, tolerance=1e-12)
    found = summed(ParticleMesh(1.0, KE, tolerance=tolerance), positions, charges, cell)
    assert relative(found[2], exact[2]) < forces
    assert relative(found[1], exact[1]) < forces
    # Scattered charges nearly cancel, so the scale is the energy of the Gaussians by themselves.
    assert abs(float(found[0] - exact[0])) < energies * KE * float(charges.square().sum())


@pytest.mark.parametrize("smearing", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize(("tolerance", "bound"), [(1e-4, 5e-4), (1e-6, 2e-5)])
def test_water(smearing, tolerance, bound):
    positions, charges, cell = water_box(64)
    exact = ewald_sum(positions, charges, cell, smearing, KE, tolerance=1e-12)
    found = summed(ParticleMesh(smearing, KE, tolerance=tolerance), positions, charges, cell)
    assert relative(found[2], exact[2]) < bound
    assert abs(float(found[0] / exact[0]) - 1.0) < 1e-6


@pytest.mark.parametrize("shape", ["cubic", "skewed"])
@pytest.mark.parametrize("copies", [2, 4])
def test_large_systems(shape, copies):
    """1536 and 12288 atoms: a cell repeated along each vector has the forces of one."""
    positions, charges, cell = scattered_charges(192, CELLS[shape])
    exact = ewald_sum(positions, charges, cell, 1.0, KE, tolerance=1e-12)
    steps = torch.arange(copies, dtype=torch.float64)
    images = torch.cartesian_prod(steps, steps, steps) @ cell
    many = (images.unsqueeze(1) + positions).reshape(-1, 3)
    found = summed(ParticleMesh(1.0, KE), many, charges.repeat(len(images)), copies * cell)
    assert relative(found[2], exact[2].repeat(len(images), 1)) < 5e-4
    scale = KE * float(charges.square().sum())
    assert abs(float(found[0]) / len(images) - float(exact[0])) < 1e-6 * scale


@pytest.mark.parametrize("shape", ["cubic", "skewed"])
def test_single_precision(shape):
    positions, charges, cell = scattered_charges(192, CELLS[shape])
    exact = ewald_sum(positions, charges, cell, 1.0, KE, tolerance=1e-12)
    found = summed(ParticleMesh(1.0, KE), positions.float(), charges.float(), cell.float())
    assert all(value.dtype == torch.float32 for value in found)
    assert relative(found[2].double(), exact[2]) < 5e-4
    # Rounding of charges and potentials, 1e-7 each.
    assert abs(float(found[0] - exact[0])) < 2e-6 * KE * float(charges.square().sum())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_positions_that_are_no_numbers_give_no_energy(value):
    positions, charges, cell = scattered_charges(30, CELLS["triclinic"])
    positions[17, 2] = value
    energy, _, _ = summed(ParticleMesh(1.0, KE), positions, charges, cell)
    assert math.isnan(float(energy))


def test_a_box_thinner_than_the_spline():
    # Mesh sizes at their least: nodes of one atom meet themselves around the box.
    positions, charges, _ = scattered_charges(6, CELLS["cubic"])
    cell = torch.diag(torch.tensor([1.5, 2.0, 12.0], dtype=torch.float64))
    exact = ewald_sum(positions, charges, cell, 1.0, KE, tolerance=1e-12)
    for order in (4, 8):
        found = pme_sum(positions, charges, cell, 1.0, KE, [8, 8, 42], order)
        assert relative(found[2], exact[2]) < 1e-3


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), shape=st.sampled_from(sorted(CELLS)))
def test_laws(seed, shape):
    """Whole cell vectors, order of atoms and the sign of all charges change nothing."""
    positions, charges, cell = scattered_charges(12, CELLS[shape], 0.3, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    mesh = mesh_sizes(cell, 0.5, 6)
    energy, potential, gradient = pme_sum(positions, charges, cell, 1.0, KE, mesh, 6)
    shifts = torch.randint(-5, 6, (12, 3), generator=generator).to(cell)
    order = torch.randperm(12, generator=generator)
    other = pme_sum((positions + shifts @ cell)[order], -charges[order], cell, 1.0, KE, mesh, 6)
    torch.testing.assert_close(other[0], energy)
    torch.testing.assert_close(other[1], -potential[order], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(other[2], gradient[order], rtol=1e-9, atol=1e-9)


@SHAPES
def test_energy_is_that_of_the_mirrored_cell(shape):
    positions, charges, cell = scattered_charges(24, CELLS[shape])
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    for mesh in ([14, 16, 20], [15, 21, 15]):
        energy, _, gradient = pme_sum(positions, charges, cell, 1.0, KE, mesh, 5)
        other, _, other_gradient = pme_sum(positions @ mirror, charges, cell @ mirror, 1.0, KE, mesh, 5)
        torch.testing.assert_close(other, energy)
        torch.testing.assert_close(other_gradient @ mirror, gradient, rtol=1e-9, atol=1e-10)


@SHAPES
@pytest.mark.parametrize("mesh", [[14, 12, 20], [15, 21, 9]], ids=["even", "odd"])
def test_influence_function_is_even(shape, mesh):
    _, _, cell = scattered_charges(24, CELLS[shape])
    half = influence_function(cell, mesh, 5, 1.0, KE)
    # Of the planes that hold k and -k both, each must be its own mirror.
    for plane in [0] + ([mesh[2] // 2] if mesh[2] % 2 == 0 else []):
        mirrored = half[:, :, plane].flip(0, 1).roll((1, 1), (0, 1))
        torch.testing.assert_close(half[:, :, plane], mirrored, rtol=1e-12, atol=0.0)
    for axis, size in enumerate(mesh):
        if size % 2 == 0:
            assert float(half.select(axis, size // 2).abs().max()) == 0.0


@pytest.mark.parametrize("order", [4, 5, 6, 7, 8])
@pytest.mark.parametrize("shape", ["cubic", "triclinic"])
def test_self_forces_are_taken_off(shape, order):
    """One charge alone feels no force, wherever it lies between the nodes."""
    _, _, cell = scattered_charges(60, CELLS[shape])
    mesh = mesh_sizes(cell, 0.6, order)
    charge = torch.ones(1, dtype=torch.float64)
    place = torch.tensor([[0.31, 1.17, -0.83]], dtype=torch.float64)
    exact, _, _ = ewald_sum(place, charge, cell, 1.0, KE, tolerance=1e-12)
    influence = influence_function(cell, mesh, order, 1.0, KE)
    without = pme_sum(place, charge, cell, 1.0, KE, mesh, order, self_terms=torch.zeros(4).to(cell))
    found = pme_sum(place, charge, cell, 1.0, KE, mesh, order, influence=influence)
    assert float(torch.linalg.norm(found[2])) < 0.25 * float(torch.linalg.norm(without[2]))
    assert abs(float(found[0] - exact)) < 0.2 * abs(float(without[0] - exact))
    assert mesh_self_terms(influence, mesh, order).shape == (4,)


@pytest.mark.parametrize("shape", ["cubic", "skewed"])
def test_alpha_mesh_and_order_are_numerics(shape):
    positions, charges, cell = scattered_charges(40, CELLS[shape], net_charge=1.5)
    exact = ewald_sum(positions, charges, cell, 0.6, KE, tolerance=1e-13)
    for alpha, order, spacing in ((0.6, 6, 0.30), (0.5, 8, 0.45), (0.4, 7, 0.50)):
        # erfc(5.2) = 2e-13
        pairs = all_pairs(positions, cell, 5.2 / alpha)
        mesh = mesh_sizes(cell, spacing, order)
        found = pme_sum(positions, charges, cell, 0.6, KE, mesh, order, alpha=alpha, pairs=pairs)
        for own, other in zip(found, exact, strict=True):
            assert relative(own, other) < 2e-5


def test_a_small_region_in_a_large_box():
    """What a mixed system needs: broad Gaussians on a coarse mesh, pairs for the rest."""
    positions, charges, _ = scattered_charges(20, CELLS["cubic"])
    cell = 60.0 * torch.eye(3, dtype=torch.float64)
    exact = ewald_sum(positions, charges, cell, 1.0, KE, tolerance=1e-12)
    pairs = all_pairs(positions, cell, 20.0)
    found = pme_sum(positions, charges, cell, 1.0, KE, [45, 45, 45], 6, alpha=0.22, pairs=pairs)
    assert relative(found[2], exact[2]) < 1e-4
    assert abs(float(found[0] / exact[0]) - 1.0) < 1e-6


@pytest.mark.parametrize("k_cutoff", [2.5, math.pi])
def test_sharp_cut(k_cutoff):
    positions, charges, cell = scattered_charges(60, CELLS["triclinic"])
    exact = ewald_sum(positions, charges, cell, 0.7, KE, k_cutoff=k_cutoff)
    found = pme_sum(positions, charges, cell, 0.7, KE, mesh_sizes(cell, 0.35, 6), 6, k_cutoff=k_cutoff)
    assert relative(found[2], exact[2]) < 1e-4
    converged = ewald_sum(positions, charges, cell, 0.7, KE)
    assert relative(found[2], converged[2]) > 1e-2


# --- derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["cubic", "skewed"])
def test_written_derivatives_are_those_of_the_energy(shape):
    positions, charges, cell = scattered_charges(10, CELLS[shape], 0.5)
    mesh = mesh_sizes(cell, 0.6, 5)
    plain = pme_sum(positions, charges, cell, 1.0, KE, mesh, 5)
    r, q = positions.clone().requires_grad_(), charges.clone().requires_grad_()
    recorded = pme_sum(r, q, cell, 1.0, KE, mesh, 5)
    slopes = torch.autograd.grad(recorded[0], (q, r))
    for found, expected in zip(recorded, plain, strict=True):
        torch.testing.assert_close(found.detach(), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(slopes[0], plain[1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(slopes[1], plain[2], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("output", [0, 1, 2], ids=["energy", "potential", "gradient"])
def test_gradcheck(output):
    positions, charges, cell = scattered_charges(4, CELLS["skewed"], 0.5)
    mesh = [10, 12, 9]

    def sums(r, q, box):
        return pme_sum(r, q, box, 1.0, 1.0, mesh, 5)[output]

    arguments = (positions.requires_grad_(), charges.requires_grad_(), cell.requires_grad_())
    assert torch.autograd.gradcheck(sums, arguments, atol=1e-7, fast_mode=True)


def test_gradgradcheck():
    positions, charges, cell = scattered_charges(3, CELLS["triclinic"], 0.5)

    def energy(r, q):
        return pme_sum(r, q, cell, 1.0, 1.0, [9, 8, 10], 5)[0]

    arguments = (positions.requires_grad_(), charges.requires_grad_())
    assert torch.autograd.gradgradcheck(energy, arguments, atol=1e-7, fast_mode=True)


@SHAPES
def test_virial(shape):
    """dE/dstrain by autograd through the cell is that of the exact sum."""
    positions, charges, cell = scattered_charges(60, CELLS[shape])
    found = []
    for solver in (ParticleMesh(1.0, KE, tolerance=1e-6), LatentCoulomb(1.0, KE, method="ewald")):
        strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
        deformation = torch.eye(3, dtype=torch.float64) + strain
        energy, _, _ = solver(positions @ deformation, charges, cell @ deformation)
        found.append(torch.autograd.grad(energy, strain)[0])
    assert relative(found[0], found[1]) < 1e-5


# --- the module ----------------------------------------------------------------------------------


def test_tables_follow_the_cell_and_the_precision():
    positions, charges, cell = scattered_charges(30, CELLS["triclinic"])
    solver = ParticleMesh(1.0, KE)
    grown = 1.1 * cell
    runs = [(positions, cell), (positions.float(), cell.float()), (positions, grown), (positions, cell)]
    for r, box in runs:
        fresh = summed(ParticleMesh(1.0, KE), r, charges.to(r), box)
        for found, expected in zip(summed(solver, r, charges.to(r), box), fresh, strict=True):
            assert torch.equal(found, expected)


def test_instances_do_not_disturb_one_another():
    positions, charges, cell = scattered_charges(30, CELLS["cubic"])
    frozen = [torch.jit.freeze(torch.jit.script(ParticleMesh(1.0, KE)).eval()) for _ in range(2)]
    boxes = [cell, 1.07 * cell]
    expected = [summed(ParticleMesh(1.0, KE), positions, charges, box) for box in boxes]
    for _ in range(4):  # TorchScript optimises from the third run on
        for solver, box, wanted in zip(frozen, boxes, expected, strict=True):
            for found, value in zip(summed(solver, positions, charges, box), wanted, strict=True):
                torch.testing.assert_close(found, value)


def test_tables_are_made_once_per_cell(monkeypatch):
    calls = []
    original = influence_function
    monkeypatch.setattr(
        "openmm_les.electrostatics.influence.influence_function", lambda *a: calls.append(1) or original(*a)
    )
    positions, charges, cell = scattered_charges(30, CELLS["cubic"])
    solver = ParticleMesh(1.0, KE)
    for box in (cell, cell.clone(), cell, 1.01 * cell, 1.01 * cell):
        summed(solver, positions, charges, box)
    assert len(calls) == 2


def test_tables_are_no_weights():
    assert ParticleMesh().state_dict() == {}
    assert LatentCoulomb().state_dict() == {}


def test_averaging_of_weights_leaves_the_tables_alone():
    """torch copies buffers from a module to its average: the tables must not be among them."""
    positions, charges, cell = scattered_charges(30, CELLS["cubic"])
    solver = torch.nn.Sequential(torch.nn.Linear(1, 1), ParticleMesh(1.0, KE))
    average = torch.optim.swa_utils.AveragedModel(solver)
    for box in (cell, 1.3 * cell):
        expected = summed(solver[1], positions, charges, box)
        average.update_parameters(solver)
        for found, value in zip(summed(average.module[1], positions, charges, box), expected, strict=True):
            assert torch.equal(found, value)


@pytest.mark.parametrize("form", ["eager", "scripted", "frozen"])
@pytest.mark.parametrize("recorded", [False, True])
def test_scripted_forms(form, recorded):
    positions, charges, cell = scattered_charges(30, CELLS["skewed"])
    solver = LatentCoulomb(1.0, KE, method="pme")
    expected = summed(solver, positions, charges, cell)
    if form != "eager":
        solver = torch.jit.script(solver.eval())
    if form == "frozen":
        solver = torch.jit.freeze(solver)
    for _ in range(3):
        r = positions.clone().requires_grad_(recorded)
        found = solver(r, charges, cell)
        assert found[0].requires_grad == recorded
        for own, other in zip(found, expected, strict=True):
            torch.testing.assert_close(own.detach(), other, rtol=1e-9, atol=1e-9)


# --- the door ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["cubic", "skewed"])
def test_methods_agree(shape):
    positions, charges, cell = scattered_charges(100, CELLS[shape])
    exact = latent_ewald(positions, charges, cell, method="ewald")
    for method in ("pme", "auto"):
        found = latent_ewald(positions, charges, cell, method=method, self_interaction=False)
        assert relative(found[2], exact[2]) < 5e-4
    both = [
        latent_ewald(positions, charges, cell, method=m, self_interaction=True)[0] for m in ("ewald", "pme")
    ]
    torch.testing.assert_close(both[0], both[1], rtol=1e-6, atol=0.0)


def test_auto_picks_by_size():
    def picks_mesh(n_atoms: int, width: float, **settings) -> bool:
        cell = width * torch.eye(3, dtype=torch.float64)
        return LatentCoulomb(**settings).mesh_is_faster(n_atoms, cell)

    assert not picks_mesh(10, 10.0)
    assert picks_mesh(192, 12.43)
    assert picks_mesh(1536, 24.86)
    # A region of 20 atoms in a box that is empty otherwise.
    assert not picks_mesh(20, 70.0)
    assert picks_mesh(3000, 70.0)
    assert not picks_mesh(10, 12.43, k_cutoff=math.pi)
    assert picks_mesh(1536, 24.86, k_cutoff=math.pi)


def test_auto_runs_what_it_picks():
    positions, charges, cell = scattered_charges(192, CELLS["cubic"])
    automatic = latent_ewald(positions, charges, cell)
    assert torch.equal(automatic[2], latent_ewald(positions, charges, cell, method="pme")[2])
    few = (positions[:8], charges[:8], cell)
    assert torch.equal(latent_ewald(*few)[2], latent_ewald(*few, method="ewald")[2])


def second_differences(solver, positions, charges, cell):
    """Of the energy per atom over 200 box lengths within 4 %, less their smooth part; eV/atom."""
    scales = torch.linspace(0.98, 1.02, 200, dtype=torch.float64)
    energies = torch.stack([summed(solver, s * positions, charges, s * cell)[0] for s in scales])
    bends = torch.diff(energies, n=2) / positions.shape[0]
    return bends - bends.median()


@pytest.mark.parametrize(("method", "n_molecules"), [("ewald", 27), ("pme", 64)])
def test_energy_is_smooth_in_the_volume(method, n_molecules):
    """Fixed scaled positions and charges; where the mesh changes its size the energy must not jump."""
    positions, charges, cell = water_box(n_molecules)
    solver = LatentCoulomb(1.0, KE, method=method)
    sizes = {solver.mesh.tables.sizes(s * cell)[0] for s in (0.98, 1.02)}
    assert len(sizes) > 1 or method == "ewald"  # or the test would show nothing
    assert float(second_differences(solver, positions, charges, cell).abs().max()) < 1e-6


@pytest.mark.parametrize("method", ["ewald", "pme"])
def test_sharp_cut_jumps_with_the_volume(method):
    positions, charges, cell = water_box(64)
    cut = LatentCoulomb(1.0, KE, method=method, k_cutoff=math.pi)
    assert float(second_differences(cut, positions, charges, cell).abs().max()) > 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": 3}, "`order` must lie between 4 and 8, got 3"),
        ({"order": 9}, "`order` must lie between 4 and 8, got 9"),
        ({"mesh": [20, 20, 5]}, r"`mesh` must be three sizes of at least `order` = 6, got \[20, 20, 5\]"),
        ({"mesh": [20, 20]}, "`mesh` must be three sizes"),
        ({"alpha": 0.3}, "`alpha` needs `pairs` and no `k_cutoff`"),
        ({"alpha": 0.3, "k_cutoff": 3.0}, "`alpha` needs `pairs` and no `k_cutoff`"),
        ({"alpha": 0.8, "pairs": "all"}, "`alpha` must lie below .* got 0.8 for smearing 1.0"),
    ],
)
def test_errors(arguments, message):
    positions, charges, cell = scattered_charges(5, CELLS["cubic"])
    if "pairs" in arguments:
        arguments = {**arguments, "pairs": all_pairs(positions, cell, 3.0)}
    with pytest.raises(ValueError, match=message):
        pme_sum(positions, charges, cell, 1.0, KE, **{"mesh": [20, 20, 20], "order": 6, **arguments})


def test_errors_of_the_door():
    positions, charges, cell = scattered_charges(5, CELLS["cubic"])
    with pytest.raises(ValueError, match="`method='pme'` needs a cell, got cell=None"):
        latent_ewald(positions, charges, method="pme")
    with pytest.raises(ValueError, match="`method` must be one of auto, isolated, ewald, pme, got 'mesh'"):
        LatentCoulomb(method="mesh")
    with pytest.raises(ValueError, match="`method='isolated'` takes no cell"):
        LatentCoulomb(method="isolated")(positions, charges, cell)
