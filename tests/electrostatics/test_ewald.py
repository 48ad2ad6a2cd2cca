from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from openmm_les.electrostatics import ewald_energy, ewald_sum, isolated_energy
from openmm_les.electrostatics.ewald import splitting, wave_vectors
from openmm_les.neighbors import perpendicular_widths
from tests.builders import TRICLINIC, random_charges_in_cell, random_rotation

KE = 14.399645
TIGHT = 1e-14
SEEDS = st.integers(0, 2**31 - 1)
# Narrow Gaussians are split, wide ones are summed in reciprocal space alone (see `splitting`).
WIDTHS = pytest.mark.parametrize("sigma", [0.25, 1.6], ids=["split", "unsplit"])
# The same cell as rows (a, b, c): left-handed order, and one with a mirrored axis.
LEFT_HANDED = [TRICLINIC[1], TRICLINIC[0], TRICLINIC[2]]


def assert_same(found, expected, rtol: float = 1e-10, atol: float = 1e-10) -> None:
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=rtol, atol=atol)


def test_the_widths_of_these_tests_take_both_roads():
    cell = torch.tensor(TRICLINIC, dtype=torch.float64)
    assert splitting(cell, 0.25, TIGHT) > 0.0
    assert splitting(cell, 1.6, TIGHT) == 0.0


# Crystals: (ion positions in cubic cell of side 1, charges, nearest distance, Madelung constant).
# Constants: OEIS A085469 (NaCl), A181152 (CsCl), A182566 (ZnS, zincblende: 1.63805505338879...).
FCC = [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]
CRYSTALS = {
    "NaCl": (FCC + [(x + 0.5, y, z) for x, y, z in FCC], [1] * 4 + [-1] * 4, 0.5, 1.747564594633182),
    "CsCl": ([(0, 0, 0), (0.5, 0.5, 0.5)], [1, -1], math.sqrt(0.75), 1.762674773070988),
    "ZnS": (
        FCC + [(x + 0.25, y + 0.25, z + 0.25) for x, y, z in FCC],
        [1] * 4 + [-1] * 4,
        math.sqrt(3.0) / 4.0,
        1.638055053388789,
    ),
}


@pytest.mark.parametrize("crystal", CRYSTALS)
def test_madelung_constants(crystal):
    fractions, charges, distance, constant = CRYSTALS[crystal]
    side = 2.0
    cell = side * torch.eye(3, dtype=torch.float64)
    positions = torch.tensor(fractions, dtype=torch.float64) @ cell
    q = torch.tensor(charges, dtype=torch.float64)
    # Neighbours are more than ten widths apart: the Gaussians act as points, erfc(7) = 4e-23.
    energy, potential, gradient = ewald_sum(positions, q, cell, 0.08 * side / 2.0, 1.0, tolerance=TIGHT)
    pairs = len(charges) / 2
    assert float(energy) / pairs == pytest.approx(-constant / (distance * side), rel=1e-12)
    expected = -constant / (distance * side) * q
    torch.testing.assert_close(potential, expected, rtol=1e-12, atol=0.0)
    assert float(gradient.abs().max()) < 1e-11  # every site is a centre of symmetry or tetrahedral


def test_one_charge_in_a_cubic_lattice():
    # Point charge with neutralising background, -ξ q²/(2L) (ξ: Nijboer and Ruijgrok, J. Stat. Phys. 53, 361
    # (1988)); a Gaussian adds the k = 0 term of what it lacks against a point, π σ² q²/V.
    side, sigma, q = 10.0, 0.5, 2.0
    cell = side * torch.eye(3, dtype=torch.float64)
    energy = ewald_energy(
        torch.rand(1, 3, dtype=torch.float64), torch.tensor([q], dtype=torch.float64), cell, sigma, KE
    )
    expected = KE * q * q * (-2.837297479480620 / (2.0 * side) + math.pi * sigma**2 / side**3)
    assert float(energy) == pytest.approx(expected, rel=1e-9)


def naive_sum(positions, charges, cell, sigma, k_cutoff):
    """The formula of the design, loop by loop: energy less self term, over |k| <= k_cutoff."""
    volume = abs(np.linalg.det(cell))
    reciprocal = 2.0 * np.pi * np.linalg.inv(cell).T
    reach = range(-9, 10)
    energy = 0.0
    for n in itertools.product(reach, reach, reach):
        k = np.array(n) @ reciprocal
        k2 = k @ k
        if k2 == 0.0 or k2 > k_cutoff**2:
            continue
        assert max(abs(i) for i in n) < 9, "the loop must reach beyond the sphere"
        structure = sum(q * np.exp(1j * (k @ r)) for q, r in zip(charges, positions, strict=True))
        energy += 2.0 * np.pi * KE / volume * np.exp(-(sigma**2) * k2 / 2.0) / k2 * abs(structure) ** 2
    return energy - KE / (np.sqrt(2.0 * np.pi) * sigma) * (charges**2).sum()


@pytest.mark.parametrize("sigma", [0.4, 1.0])
@pytest.mark.parametrize("cell", [TRICLINIC, LEFT_HANDED, np.diag([7.0, 9.0, 11.0]).tolist()])
def test_sharp_cut_against_a_naive_loop(sigma, cell):
    positions, charges, matrix = random_charges_in_cell(7, 4, cell)
    charges = charges + 0.1  # net charge too
    k_cutoff = 2.0 * math.pi / 2.0  # dl = 2 Å as in the published models
    energy = ewald_energy(positions, charges, matrix, sigma, KE, k_cutoff)
    expected = naive_sum(positions.numpy(), charges.numpy(), matrix.numpy(), sigma, k_cutoff)
    assert float(energy) == pytest.approx(expected, rel=1e-11)


def test_converged_sum_against_a_naive_loop():
    positions, charges, cell = random_charges_in_cell(8, 4)
    expected = naive_sum(positions.numpy(), charges.numpy(), cell.numpy(), 1.6, 4.5)  # exp(-26) left out
    assert float(ewald_energy(positions, charges, cell, 1.6, KE, tolerance=1e-11)) == pytest.approx(
        expected, rel=1e-9
    )


def test_sharp_cut_jumps_with_the_box_and_the_converged_sum_does_not():
    # The reason why new models do not use the cut: a wave vector enters the sphere at L = 2π n/k.
    positions, charges, _ = random_charges_in_cell(9, 4, np.diag([8.0] * 3).tolist())

    def step(k_cutoff):
        energies = [
            float(ewald_energy(positions, charges, side * torch.eye(3).double(), 0.5, KE, k_cutoff))
            for side in (8.0 - 1e-7, 8.0 + 1e-7)
        ]
        return abs(energies[1] - energies[0])

    assert step(2.0 * math.pi / 2.0) > 1e-3
    assert step(None) < 1e-5


@pytest.mark.parametrize("net_charge", [0.0, 1.7])
def test_energy_does_not_depend_on_alpha(net_charge):
    positions, charges, cell = random_charges_in_cell(10)
    charges = charges + net_charge / len(charges)
    half_width = 0.5 * float(perpendicular_widths(cell).min())
    least = math.sqrt(math.log(1e13)) / half_width
    reference = ewald_sum(positions, charges, cell, 0.3, KE, tolerance=TIGHT, alpha=0.0)
    for alpha in (least, 1.3 * least, 1.6 * least):
        assert alpha < 1.0 / (math.sqrt(2.0) * 0.3)
        found = ewald_sum(positions, charges, cell, 0.3, KE, tolerance=TIGHT, alpha=alpha)
        assert_same(found, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tolerance", [1e-5, 1e-7, 1e-9])
@WIDTHS
def test_tolerance_is_kept(sigma, tolerance):
    positions, charges, cell = random_charges_in_cell(11, 12)
    energy, _, gradient = ewald_sum(positions, charges, cell, sigma, KE, tolerance=tolerance)
    exact, _, exact_gradient = ewald_sum(positions, charges, cell, sigma, KE, tolerance=TIGHT)
    rms = float(exact_gradient.square().mean().sqrt())
    assert float((gradient - exact_gradient).square().mean().sqrt()) < 10.0 * tolerance * rms
    assert abs(float(energy - exact)) < 10.0 * tolerance * abs(float(exact))


def openmm_point_charges(positions, charges, cell):
    """Energy (eV) and gradient (eV/Å) of point charges by OpenMM's PME, and its Coulomb constant."""
    openmm = pytest.importorskip("openmm")
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(0.1 * cell.numpy()))
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.PME)
    cutoff = 0.049 * float(perpendicular_widths(cell).min())  # nm
    force.setCutoffDistance(cutoff)
    alpha = math.sqrt(math.log(1e9)) / cutoff
    # Differences fall as mesh⁵ to the sixth digit of forces at 144 (1e-6 at 192).
    force.setPMEParameters(alpha, 144, 144, 144)
    for q in charges:
        system.addParticle(1.0)
        force.addParticle(float(q), 1.0, 0.0)
    system.addForce(force)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(0.1 * positions.numpy())
    state = context.getState(energy=True, forces=True)
    per_ev = 96.48533212331
    energy = state.getPotentialEnergy()._value / per_ev
    gradient = -np.array(state.getForces(asNumpy=True)._value) / per_ev / 10.0
    return energy, gradient, 1389.3545764438198 / per_ev


def spread_charges(cell):
    """Eight neutral charges of the cell, at least 2 Å from each other."""
    rng = np.random.default_rng(5)
    matrix = np.array(cell)
    grid = np.array(list(itertools.product((0.0, 0.5), repeat=3))) + 0.1 * rng.random((8, 3))
    charges = rng.normal(size=8)
    return torch.tensor(grid @ matrix), torch.tensor(charges - charges.mean()), torch.tensor(matrix)


OPENMM_CELLS = {
    "cubic": np.diag([9.0, 9.0, 9.0]).tolist(),
    # OpenMM wants reduced vectors: a along x, b in xy.
    "triclinic": [[9.0, 0.0, 0.0], [2.0, 10.0, 0.0], [-3.0, 4.0, 11.0]],
}


@pytest.mark.parametrize("name", OPENMM_CELLS)
def test_narrow_gaussians_against_openmm_point_charges(name):
    positions, charges, cell = spread_charges(OPENMM_CELLS[name])
    energy, gradient, constant = openmm_point_charges(positions, charges, cell)
    # 2 Å are more than 14 widths: no overlap.
    found, _, found_gradient = ewald_sum(positions, charges, cell, 0.1, constant, tolerance=1e-10)
    assert float(found) == pytest.approx(energy, rel=1e-7)
    assert np.abs(found_gradient.numpy() - gradient).max() < 1e-5 * np.abs(gradient).max()


@pytest.mark.parametrize("name", OPENMM_CELLS)
def test_wide_gaussians_against_openmm_and_overlap(name):
    # Gaussians of the models' width overlap: points, less what each pair of images loses,
    # q q erfc(r/√2σ)/r.
    sigma = 1.0
    positions, charges, cell = spread_charges(OPENMM_CELLS[name])
    energy, _, constant = openmm_point_charges(positions, charges, cell)
    q, r, a = charges.numpy(), positions.numpy(), cell.numpy()
    for i, j, shift in itertools.product(range(8), range(8), itertools.product((-1, 0, 1), repeat=3)):
        if i != j or any(shift):
            distance = np.linalg.norm(r[j] - r[i] + np.array(shift) @ a)
            energy -= 0.5 * constant * q[i] * q[j] * math.erfc(distance / (math.sqrt(2) * sigma)) / distance
    found = ewald_energy(positions, charges, cell, sigma, constant)
    assert float(found) == pytest.approx(energy, rel=1e-7)


def test_growing_boxes_approach_the_isolated_molecule():
    # A dipole μ in a conducting lattice of cubes lowers the energy by 2π μ²/(3V); the rest falls
    # off as L⁻⁵ (Makov and Payne, Phys. Rev. B 51, 4014 (1995), eq. 15).
    positions = torch.tensor([[0.0, 0, 0], [0.9, 0.3, 0.1], [-0.4, 0.8, 0.2]], dtype=torch.float64)
    charges = torch.tensor([-0.8, 0.5, 0.3], dtype=torch.float64)
    isolated = float(isolated_energy(positions, charges, 1.0, KE))
    dipole2 = float(((charges @ positions) ** 2).sum())
    remainders, differences = [], []
    for side in (15.0, 30.0, 60.0):
        energy = float(ewald_energy(positions, charges, side * torch.eye(3).double(), 1.0, KE))
        lattice = 2.0 * math.pi / 3.0 * KE * dipole2 / side**3
        differences.append(energy - isolated)
        remainders.append(abs(energy - isolated + lattice))
    assert abs(differences[-1]) < 1e-4
    assert remainders[0] < 0.02 * abs(differences[0])
    assert remainders[1] < remainders[0] / 25.0
    assert remainders[2] < 1e-7


@WIDTHS
def test_supercell_has_eight_times_the_energy(sigma):
    positions, charges, cell = random_charges_in_cell(12, 5)
    charges = charges + 0.05
    images = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64) @ cell
    many = (images.unsqueeze(1) + positions).reshape(-1, 3)
    energy, potential, gradient = ewald_sum(positions, charges, cell, sigma, KE, tolerance=TIGHT)
    found = ewald_sum(many, charges.repeat(8), 2.0 * cell, sigma, KE, tolerance=TIGHT)
    assert_same(found, (8.0 * energy, potential.repeat(8), gradient.repeat(8, 1)), 1e-9, 1e-9)


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, reflect=st.booleans(), sigma=st.sampled_from([0.25, 1.6]))
def test_translation_rotation_permutation_and_cell_shifts(seed, reflect, sigma):
    positions, charges, cell = random_charges_in_cell(seed)
    charges = charges + 0.1
    energy, potential, gradient = ewald_sum(positions, charges, cell, sigma, KE, tolerance=TIGHT)
    rotation = random_rotation(seed, reflect)  # a reflection turns the cell left-handed
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(6, generator=generator)
    shifts = torch.randint(-2, 3, (6, 3), generator=generator).double() @ cell
    moved = (positions + shifts + 1.7)[order] @ rotation.T
    found = ewald_sum(moved, charges[order], cell @ rotation.T, sigma, KE, tolerance=TIGHT)
    expected = (energy, potential[order], gradient[order] @ rotation.T)
    # Close pairs make forces of hundreds of eV/Å, of which rounding takes its share.
    scale = max(1.0, float(gradient.abs().max()))
    assert_same(found, expected, rtol=1e-9, atol=1e-10 * scale)
    assert float(gradient.sum(0).abs().max()) < 1e-9 * scale  # momentum


@WIDTHS
@pytest.mark.parametrize(
    "basis",
    [
        [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
        [[0, 1, 0], [1, 0, 0], [0, 0, 1]],  # left-handed order
        [[-1, 0, 0], [0, 1, 0], [0, 0, 1]],  # left-handed sign
        [[1, 1, 0], [0, 1, 0], [-1, 0, 1]],  # another basis of the same lattice
    ],
)
def test_any_basis_of_the_lattice(sigma, basis):
    positions, charges, cell = random_charges_in_cell(13)
    expected = ewald_sum(positions, charges, cell, sigma, KE, tolerance=TIGHT)
    other = torch.tensor(basis, dtype=torch.float64) @ cell
    assert_same(ewald_sum(positions, charges, other, sigma, KE, tolerance=TIGHT), expected, 1e-9, 1e-9)


def test_left_handed_cell_with_a_sharp_cut():
    positions, charges, cell = random_charges_in_cell(14)
    expected = ewald_sum(positions, charges, cell, 1.0, KE, 3.0)
    assert_same(ewald_sum(positions, charges, cell[[1, 0, 2]], 1.0, KE, 3.0), expected)


@settings(max_examples=8, deadline=None)
@given(
    seed=SEEDS,
    length=st.floats(0.5, 3.0),
    factor=st.floats(-2.0, 2.0),
    constant=st.floats(0.1, 20.0),
    k_cutoff=st.sampled_from([None, 2.9]),
)
def test_scale_laws(seed, length, factor, constant, k_cutoff):
    positions, charges, cell = random_charges_in_cell(seed)
    sigma = 0.5
    energy = ewald_energy(positions, charges, cell, sigma, KE, k_cutoff)
    cut = None if k_cutoff is None else k_cutoff / length
    scaled = ewald_energy(length * positions, factor * charges, length * cell, length * sigma, constant, cut)
    torch.testing.assert_close(scaled, energy * factor**2 / length * constant / KE, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("k_cutoff", [None, 2.9])
@WIDTHS
def test_potential_and_gradient_are_the_derivatives(sigma, k_cutoff):
    positions, charges, cell = random_charges_in_cell(15)
    charges = charges + 0.2
    positions.requires_grad_()
    charges.requires_grad_()
    energy, potential, gradient = ewald_sum(positions, charges, cell, sigma, KE, k_cutoff)
    by_charge, by_position = torch.autograd.grad(energy, (charges, positions))
    assert_same((potential, gradient), (by_charge, by_position))


def small_inputs(with_cell: bool) -> tuple[Tensor, Tensor, Tensor]:
    positions, charges, cell = random_charges_in_cell(16, 3, (0.45 * np.array(TRICLINIC)).tolist())
    return positions.requires_grad_(), (charges + 0.2).requires_grad_(), cell.requires_grad_(with_cell)


@pytest.mark.parametrize(("sigma", "k_cutoff"), [(0.2, None), (0.9, None), (0.5, 3.3)])
def test_gradcheck_of_every_output(sigma, k_cutoff):
    # Positions, charges and cell (stress).
    def outputs(r: Tensor, q: Tensor, h: Tensor):
        return ewald_sum(r, q, h, sigma, 1.0, k_cutoff, tolerance=TIGHT)

    assert torch.autograd.gradcheck(outputs, small_inputs(with_cell=True), atol=1e-5)


@pytest.mark.parametrize(("sigma", "k_cutoff"), [(0.2, None), (0.9, None), (0.5, 3.3)])
def test_gradgradcheck_of_the_energy(sigma, k_cutoff):
    def energy(r: Tensor, q: Tensor, h: Tensor):
        return ewald_energy(r, q, h, sigma, 1.0, k_cutoff, tolerance=TIGHT)

    assert torch.autograd.gradgradcheck(energy, small_inputs(with_cell=True), atol=1e-5)


def test_wave_vectors_are_half_of_the_sphere():
    cell = torch.tensor(TRICLINIC, dtype=torch.float64)
    cutoff = 3.0
    waves = wave_vectors(cell, cutoff)
    reciprocal = 2.0 * math.pi * np.linalg.inv(np.array(TRICLINIC)).T
    reach = range(-9, 10)
    expected = set()
    for n in itertools.product(reach, reach, reach):
        if any(n) and np.linalg.norm(np.array(n) @ reciprocal) <= cutoff:
            expected.add(n)
    found = [tuple(n) for n in torch.round(waves @ cell.T / (2.0 * math.pi)).int().tolist()]
    mirrored = [tuple(-i for i in n) for n in found]
    assert len(set(found + mirrored)) == 2 * len(found)
    assert set(found + mirrored) == expected


def test_no_wave_vector_in_the_sphere():
    cell = 3.0 * torch.eye(3, dtype=torch.float64)
    positions, charges = torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    energy, _, gradient = ewald_sum(positions, charges, cell, 1.0, KE, k_cutoff=1.0)
    assert float(energy) == pytest.approx(-2.0 * KE / math.sqrt(2.0 * math.pi))  # the self term is left
    assert float(gradient.abs().max()) == 0.0


@WIDTHS
def test_coincident_charges_have_finite_derivatives(sigma):
    positions = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    charges = torch.tensor([1.0, -0.5], dtype=torch.float64, requires_grad=True)
    cell = torch.tensor(TRICLINIC, dtype=torch.float64, requires_grad=True)
    energy = ewald_energy(positions, charges, cell, sigma, KE)
    first = torch.autograd.grad(energy, (positions, charges, cell), create_graph=True)
    second = torch.autograd.grad(sum((g**2).sum() for g in first), (positions, charges, cell))
    assert all(bool(torch.isfinite(g).all()) for g in first + second)


@WIDTHS
def test_float32_against_float64(sigma):
    cell = (2.0 * np.array(TRICLINIC)).tolist()
    positions, charges, matrix = random_charges_in_cell(17, 60, cell)
    exact = ewald_sum(positions, charges, matrix, sigma, KE)
    single = ewald_sum(positions.float(), charges.float(), matrix.float(), sigma, KE)
    for low, high in zip(single, exact, strict=True):
        assert low.dtype == torch.float32
        # Phases k·r reach hundreds, whose roundings are 1e-5.
        assert float((low - high).abs().max()) < 5e-5 * float(high.abs().max())


@WIDTHS
def test_float32_far_from_the_cell(sigma):
    # Unwrapped trajectories drift away from the box; ten box lengths must cost no more than
    # the rounding of the coordinates themselves.
    positions, charges, cell = random_charges_in_cell(18)
    far = (positions + 10.0 * cell.sum(0)).float()
    expected = ewald_sum(far.double(), charges.float().double(), cell.float().double(), sigma, KE)
    found = ewald_sum(far, charges.float(), cell.float(), sigma, KE)
    for low, high in zip(found, expected, strict=True):
        assert float((low - high).abs().max()) < 1e-3 * float(high.abs().max())


@pytest.mark.parametrize("k_cutoff", [None, 2.9])
@WIDTHS
def test_scripted_is_eager(sigma, k_cutoff):
    positions, charges, cell = random_charges_in_cell(19)
    scripted = torch.jit.script(ewald_sum)
    found = scripted(positions, charges, cell, sigma, KE, k_cutoff)
    assert_same(found, ewald_sum(positions, charges, cell, sigma, KE, k_cutoff), 1e-12, 1e-12)


def test_compiles():
    # The number of wave vectors depends on the cell's values, so that dynamo breaks the graph there.
    positions, charges, cell = random_charges_in_cell(20)
    compiled = torch.compile(ewald_energy, backend="eager")
    expected = ewald_energy(positions, charges, cell, 1.6, KE)
    torch.testing.assert_close(compiled(positions, charges, cell, 1.6, KE), expected)
