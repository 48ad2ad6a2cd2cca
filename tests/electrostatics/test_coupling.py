from __future__ import annotations

import math

import pytest
import torch

from openmm_les.electrostatics import ChargeCoupling, ewald_sum, image_sum
from openmm_les.electrostatics.bsplines import spline_table
from openmm_les.electrostatics.coupling_mesh import coupling_mesh
from openmm_les.electrostatics.coupling_pairs import Sites
from openmm_les.electrostatics.cross_pairs import cross_pairs
from openmm_les.electrostatics.influence import influence_function
from openmm_les.neighbors import perpendicular_widths
from tests.electrostatics.test_multipoles import as_charges

KE = 14.399645
CELLS = {
    "cubic": [[20.0, 0.0, 0.0], [0.0, 20.0, 0.0], [0.0, 0.0, 20.0]],
    "triclinic": [[22.0, 0.0, 0.0], [3.0, 20.5, 0.0], [-4.0, 2.5, 21.0]],
    "left-handed": [[3.0, 20.5, 0.0], [22.0, 0.0, 0.0], [-4.0, 2.5, 21.0]],
}


def sets(cell, n_gaussians=5, n_points=20, seed=0):
    """Both sets, scattered over a cell and beyond, with net charges."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    matrix = torch.tensor(cell, dtype=torch.float64)
    gaussians = (3.0 * random(n_gaussians, 3) - 1.0) @ matrix
    points = (3.0 * random(n_points, 3) - 1.0) @ matrix
    return gaussians, random(n_gaussians) - 0.3, points, random(n_points) - 0.6, matrix


def direct_sum(gaussians, charges, points, point_charges, cell, width):
    """Gaussians and points by the plain reciprocal sum, k = 0 left out; differentiable."""
    n = torch.arange(-30, 31, dtype=torch.float64)
    integers = torch.cartesian_prod(n, n, n)
    waves = integers[(integers != 0).any(1)] @ (2.0 * math.pi * torch.linalg.inv(cell).t())
    squares = (waves * waves).sum(1)
    volume = torch.abs(torch.linalg.det(cell))
    factors = 4.0 * math.pi * KE / volume * torch.exp(-0.25 * width**2 * squares) / squares
    phases, point_phases = gaussians @ waves.t(), points @ waves.t()
    real = (charges @ torch.cos(phases)) * (point_charges @ torch.cos(point_phases))
    imaginary = (charges @ torch.sin(phases)) * (point_charges @ torch.sin(point_phases))
    return (factors * (real + imaginary)).sum()


@pytest.fixture(scope="module", params=CELLS)
def reference(request):
    """Arguments, and energy, potential and gradients by the direct sum."""
    arguments = sets(CELLS[request.param])
    gaussians, charges, points = (x.clone().requires_grad_(True) for x in arguments[:3])
    energy = direct_sum(gaussians, charges, points, *arguments[3:], width=1.0)
    gradient, potential, point_gradient = torch.autograd.grad(energy, [gaussians, charges, points])
    return arguments, (energy.detach(), potential, gradient, point_gradient)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-4, 1e-6, 1e-9])
@pytest.mark.parametrize("cutoff", [7.5, 9.5])
def test_is_the_direct_sum_to_the_tolerance(reference, tolerance, cutoff):
    arguments, expected = reference
    found = ChargeCoupling(1.0, KE, cutoff, tolerance)(*arguments)
    assert found.energy == pytest.approx(float(expected[0]), abs=10 * tolerance)
    for value, wanted in zip(found[1:4], expected[1:]):
        assert (value - wanted).abs().max() < 10 * tolerance * wanted.abs().max()


def test_energy_does_not_depend_on_the_splitting(reference):
    arguments, _ = reference
    energies = [ChargeCoupling(1.0, KE, cutoff, 1e-7)(*arguments).energy for cutoff in (6.0, 7.0, 8.0, 9.0)]
    assert max(energies) - min(energies) < 1e-6


def test_forces_are_the_derivative_of_the_energy(reference):
    (gaussians, charges, points, point_charges, cell), _ = reference
    coupling = ChargeCoupling(1.0, KE, 8.0, 1e-3, excluded=[(0, 3)], excluded_shares=[0.4])
    found = coupling(gaussians, charges, points, point_charges, cell)
    step = 1e-4
    for places, gradient in ((gaussians, found.gradient), (points, found.point_gradient)):
        for atom, axis in ((0, 0), (3, 1), (4, 2)):
            values = []
            for sign in (-1.0, 1.0):
                places[atom, axis] += sign * step
                values.append(coupling(gaussians, charges, points, point_charges, cell).energy)
                places[atom, axis] -= sign * step
            # A pair that crosses the cutoff within the step changes the energy by the tolerance.
            assert (values[1] - values[0]) / (2 * step) == pytest.approx(
                float(gradient[atom, axis]), abs=1e-6
            )


def test_momentum_is_conserved_to_the_tolerance(reference):
    arguments, _ = reference
    for tolerance in (1e-3, 1e-6):
        found = ChargeCoupling(1.0, KE, 9.0, tolerance)(*arguments)
        total = found.gradient.sum(0) + found.point_gradient.sum(0)
        assert total.abs().max() < 10 * tolerance * found.gradient.abs().max()


def test_action_equals_reaction_on_the_mesh(reference):
    """E = Σ q φ_points = Σ Q φ_gaussians needs an even influence function."""
    (gaussians, charges, points, point_charges, cell), _ = reference
    mesh = [30, 32, 36]
    table = spline_table(5, 1)
    more = (cell, mesh, table, influence_function(cell, mesh, 5, 2.0, KE))
    one = coupling_mesh(Sites(gaussians, charges, None, None), points, point_charges, *more)
    other = coupling_mesh(Sites(points, point_charges, None, None), gaussians, charges, *more)
    energy = float((point_charges * other.potential).sum())
    assert (charges * one.potential).sum() == pytest.approx(energy, rel=1e-12)
    torch.testing.assert_close(one.gradient, other.point_gradient)
    torch.testing.assert_close(one.point_gradient, other.gradient)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7])
@pytest.mark.parametrize("periodic", [True, False], ids=["periodic", "isolated"])
def test_dipoles_are_pairs_of_charges(periodic, tolerance):
    """Each dipole against ±u/2h at ±h along it; exclusions, forces on both sides and the field, too."""
    gaussians, charges, points, point_charges, matrix = sets(CELLS["triclinic"])
    cell = matrix if periodic else None
    generator = torch.Generator().manual_seed(5)
    dipoles = 0.4 * torch.randn(*gaussians.shape, generator=generator, dtype=torch.float64)
    excluded, shares = [(0, 3), (2, 1)], [0.4, 1.0]
    found = ChargeCoupling(1.0, KE, 7.5, tolerance, excluded=excluded, excluded_shares=shares)(
        gaussians, charges, points, point_charges, cell, dipoles
    )
    h, n = 1e-3, len(gaussians)
    axes = dipoles / torch.linalg.norm(dipoles, dim=1, keepdim=True)
    ends = torch.linalg.norm(dipoles, dim=1) / (2.0 * h)
    clouds = torch.cat([gaussians, gaussians + h * axes, gaussians - h * axes])
    every = [(i + k * n, j) for k in range(3) for i, j in excluded]
    expected = ChargeCoupling(1.0, KE, 7.5, tolerance, excluded=every, excluded_shares=shares * 3)(
        clouds, torch.cat([charges, ends, -ends]), points, point_charges, cell
    )
    assert float(found.energy) == pytest.approx(float(expected.energy), abs=20 * tolerance)
    largest = expected.point_gradient.abs().max()
    assert (found.point_gradient - expected.point_gradient).abs().max() < 20 * max(tolerance, 1e-6) * largest
    together = expected.gradient.view(3, n, 3).sum(0)
    assert (found.gradient - together).abs().max() < 20 * max(tolerance, 1e-6) * together.abs().max()
    slope = (expected.potential[n : 2 * n] - expected.potential[2 * n :]) / (2.0 * h)
    assert (-(found.field * axes).sum(1) - slope).abs().max() < 20 * max(tolerance, 1e-6) * slope.abs().max()


def moments_of(n, seed=5):
    """Dipoles and quadrupoles, these with traces."""
    generator = torch.Generator().manual_seed(seed)
    dipoles = 0.4 * torch.randn(n, 3, generator=generator, dtype=torch.float64)
    halves = 0.2 * torch.randn(n, 3, 3, generator=generator, dtype=torch.float64)
    return dipoles, halves + halves.transpose(1, 2)


@pytest.mark.parametrize("shape", CELLS)
@pytest.mark.parametrize(("tolerance", "bound"), [(5e-4, 2e-3), (1e-5, 1e-4), (1e-7, 3e-6)])
def test_multipoles_on_the_mesh_are_those_of_the_plain_sum(shape, tolerance, bound):
    """Potential, slope, curvature and gradients by derivatives of the direct sum.

    What pairs leave out at the cutoff counts more in third derivatives, the more the tighter."""
    gaussians, charges, points, point_charges, cell = sets(CELLS[shape])
    dipoles, quadrupoles = moments_of(len(gaussians))
    places, others = gaussians.clone().requires_grad_(True), points.clone().requires_grad_(True)
    ones = torch.ones_like(charges, requires_grad=True)
    energy = direct_sum(places, ones, others, point_charges, cell, width=1.0)
    (potential,) = torch.autograd.grad(energy, ones, create_graph=True)
    (slope,) = torch.autograd.grad(potential.sum(), places, create_graph=True)
    rows = [torch.autograd.grad(slope[:, a].sum(), places, create_graph=True)[0] for a in range(3)]
    curvature = torch.stack(rows, 1)
    energy = (charges * potential).sum() + (dipoles * slope).sum() + 0.5 * (quadrupoles * curvature).sum()
    gradient, point_gradient = torch.autograd.grad(energy, [places, others])
    energy = energy.detach()
    found = ChargeCoupling(1.0, KE, 9.0, tolerance, quadrupoles=True)(
        gaussians, charges, points, point_charges, cell, dipoles, quadrupoles
    )
    assert float(found.energy) == pytest.approx(float(energy), abs=tolerance)
    for value, wanted in (
        (found.potential, potential),
        (-found.field, slope),
        (found.curvature, curvature),
        (found.gradient, gradient),
        (found.point_gradient, point_gradient),
    ):
        assert (value - wanted).abs().max() < bound * wanted.abs().max()


@pytest.mark.parametrize("periodic", [True, False], ids=["periodic", "isolated"])
def test_quadrupoles_are_clouds_of_charges(periodic):
    """19 charges for each site; exclusions and forces on both sides, too."""
    gaussians, charges, points, point_charges, matrix = sets(CELLS["triclinic"])
    cell = matrix if periodic else None
    dipoles, quadrupoles = moments_of(len(gaussians))
    excluded, shares = [(0, 3), (2, 1)], [0.4, 1.0]
    found = ChargeCoupling(1.0, KE, 8.0, 1e-7, excluded=excluded, excluded_shares=shares, quadrupoles=True)(
        gaussians, charges, points, point_charges, cell, dipoles, quadrupoles
    )
    places, values = as_charges(gaussians, charges, dipoles, quadrupoles, 3e-3)
    every = [(19 * i + k, j) for k in range(19) for i, j in excluded]
    expected = ChargeCoupling(1.0, KE, 8.0, 1e-7, excluded=every, excluded_shares=shares * 19)(
        places, values, points, point_charges, cell
    )
    assert float(found.energy) == pytest.approx(float(expected.energy), abs=1e-4)
    torch.testing.assert_close(found.point_gradient, expected.point_gradient, rtol=1e-4, atol=1e-4)
    together = expected.gradient.view(-1, 19, 3).sum(1)
    torch.testing.assert_close(found.gradient, together, rtol=1e-4, atol=1e-4)


def test_a_quadrupole_beside_a_charge():
    """Far away ``ke Q (3 z·Θ·z - tr Θ)/(2 r³)``; at the Gaussian's centre ``-(2/3) ke Q tr Θ/(√π σ³)``."""
    one = torch.zeros(1, 3, dtype=torch.float64)
    nothing, charge = torch.zeros(1, dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
    quadrupole = torch.diag(torch.tensor([-0.3, 0.1, 0.5], dtype=torch.float64)).unsqueeze(0)
    coupling = ChargeCoupling(1.0, KE, quadrupoles=True)

    def at(z):
        point = torch.tensor([[0.0, 0.0, z]], dtype=torch.float64)
        return coupling(one, nothing, point, charge, None, None, quadrupole)

    expected = KE * 0.7 * (3.0 * 0.5 - 0.3) / (2.0 * 8.0**3)
    assert float(at(8.0).energy) == pytest.approx(expected, rel=1e-9)
    assert float(at(8.0).gradient[0, 2]) == pytest.approx(3.0 * expected / 8.0, rel=1e-9)
    assert float(at(0.0).energy) == pytest.approx(-2.0 / 3.0 * KE * 0.7 * 0.3 / math.sqrt(math.pi), rel=1e-7)
    assert float(at(0.0).gradient.abs().max()) < 1e-3


@pytest.mark.parametrize("rank", [1, 2])
def test_forces_on_multipoles_are_the_derivative_of_the_energy(rank):
    gaussians, charges, points, point_charges, cell = sets(CELLS["triclinic"])
    dipoles, quadrupoles = moments_of(len(gaussians))
    moments = (dipoles, quadrupoles)[:rank]
    coupling = ChargeCoupling(
        1.0, KE, 8.0, 1e-3, excluded=[(0, 3)], excluded_shares=[0.4], quadrupoles=rank == 2
    )
    found = coupling(gaussians, charges, points, point_charges, cell, *moments)
    step = 1e-4
    for places, gradient in ((gaussians, found.gradient), (points, found.point_gradient)):
        for atom, axis in ((0, 0), (3, 1), (4, 2)):
            values = []
            for sign in (-1.0, 1.0):
                places[atom, axis] += sign * step
                values.append(coupling(gaussians, charges, points, point_charges, cell, *moments).energy)
                places[atom, axis] -= sign * step
            assert (values[1] - values[0]) / (2 * step) == pytest.approx(
                float(gradient[atom, axis]), abs=1e-6
            )


def test_isolated_sum_is_the_sum_of_pairs():
    gaussians, charges, points, point_charges, _ = sets(CELLS["cubic"], 40, 6000)
    found = ChargeCoupling(0.8, KE)(gaussians, charges, points, point_charges, None)
    distances = torch.cdist(gaussians, points)
    kernel = KE * torch.erf(distances / 0.8) / distances
    torch.testing.assert_close(found.potential, kernel @ point_charges)
    assert found.energy == pytest.approx(float(charges @ kernel @ point_charges), rel=1e-12)
    assert (found.gradient.sum(0) + found.point_gradient.sum(0)).abs().max() < 1e-10


def whole_energy(length, charge, point_charge, smearing=1.0):
    """An ion of the model 4 Å from a point charge, both with all images; points as MM programs sum them."""
    cell = length * torch.eye(3, dtype=torch.float64)
    ion = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    point = ion + torch.tensor([[0.0, 0.0, 4.0]])
    q, other = (torch.tensor([x], dtype=torch.float64) for x in (charge, point_charge))
    latent = ewald_sum(ion, q, cell, smearing, KE)[0]
    coupling = ChargeCoupling(smearing, KE, 9.0, 1e-8)(ion, q, point, other, cell).energy
    return float(latent + coupling + image_sum(point, other, cell, KE, 1e-9)[0])


def test_a_neutral_box_forgets_its_backgrounds():
    """What is left of the images falls as that of dipoles does, L^-3, whatever the width of the charges."""
    isolated = -KE * math.erf(4.0) / 4.0
    left = [whole_energy(length, 1.0, -1.0) - isolated for length in (20.0, 40.0, 80.0)]
    assert left[0] / left[1] == pytest.approx(8.0, rel=0.05)
    assert left[1] / left[2] == pytest.approx(8.0, rel=0.05)
    # The dipole of 4 e·Å in its own images' field (tin-foil boundary).
    assert left[2] == pytest.approx(-2.0 * math.pi * KE * 16.0 / (3.0 * 80.0**3), rel=0.02)


def test_a_charged_box_keeps_the_backgrounds_it_says():
    """-2.837 ke Q²/(2L) of a cube of charge Q, and π ke σ² Q_ML Q/V for the width of the Gaussian."""
    isolated = KE * math.erf(4.0) / 4.0 * 0.5
    for length in (40.0, 80.0):
        points, gaussians = (whole_energy(length, 1.0, 0.5, s) - isolated for s in (0.2, 1.0))
        width = math.pi * KE * (1.0**2 - 0.2**2) * 1.0 * 1.5 / length**3
        assert gaussians - points == pytest.approx(width, rel=1e-3)
        assert points == pytest.approx(-2.837297 * KE * 1.5**2 / (2.0 * length), rel=0.02)


@pytest.mark.parametrize("periodic", [False, True])
def test_excluded_pairs_lose_their_share(periodic):
    gaussians, charges, points, point_charges, cell = sets(CELLS["triclinic"])
    points[2] = gaussians[1] + torch.tensor([0.9, -0.7, 0.4], dtype=torch.float64) + cell[1] - cell[2]
    box = cell if periodic else None
    if not periodic:
        points[2] -= cell[1] - cell[2]
    arguments = (gaussians, charges, points, point_charges, box)
    whole = ChargeCoupling(1.0, KE, 8.0)(*arguments)
    less = ChargeCoupling(1.0, KE, 8.0, excluded=[(1, 2)], excluded_shares=[0.25])(*arguments)
    distance = math.sqrt(0.9**2 + 0.7**2 + 0.4**2)
    pair = KE * charges[1] * point_charges[2] * math.erf(distance) / distance
    assert whole.energy - less.energy == pytest.approx(0.25 * float(pair), rel=1e-9)


def test_smeared_points_change_what_is_near_and_nothing_else():
    _, _, points, point_charges, cell = sets(CELLS["cubic"])
    points[0] = torch.tensor([11.0, 10.0, 10.0])
    one = torch.tensor([[10.0, 10.0, 10.0]], dtype=torch.float64)
    arguments = (one, torch.ones(1, dtype=torch.float64), points, point_charges, cell)
    sharp, broad = (ChargeCoupling(1.0, KE, 9.0, 1e-8, point_smearing=t)(*arguments) for t in (0.0, 0.75))
    distances = torch.linalg.norm(one - points - torch.round((one - points) / 20.0) * 20.0, dim=1)
    change = torch.erf(distances / 1.25) - torch.erf(distances / 1.0)
    expected = KE * (point_charges * change / distances).sum()
    assert broad.energy - sharp.energy == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize("periodic", [False, True])
def test_reports_the_closest_watched_point(periodic):
    gaussians, charges, points, point_charges, cell = sets(CELLS["cubic"])
    points[4] = gaussians[2] + torch.tensor([0.0, 0.5, 0.0])
    points[7] = gaussians[0] + torch.tensor([0.0, 0.0, 0.8])
    box = cell if periodic else None
    for watched, expected in (([7], 0.8), ([7, 4], 0.5), ([], math.inf)):
        found = ChargeCoupling(1.0, KE, 8.0, watched=watched)(gaussians, charges, points, point_charges, box)
        assert float(found.closest) == pytest.approx(expected)


def test_no_points_no_energy():
    gaussians, charges, _, _, cell = sets(CELLS["cubic"])
    nothing = torch.zeros((0, 3), dtype=torch.float64)
    found = ChargeCoupling(1.0, KE, 8.0)(gaussians, charges, nothing, torch.zeros(0), cell)
    assert float(found.energy) == 0.0 and found.point_gradient.shape == (0, 3)


def test_without_charges_potential_and_field_are_found(reference):
    arguments, _ = reference
    coupling = ChargeCoupling(1.0, KE, 8.0, 1e-4, excluded=[(0, 3)], excluded_shares=[0.4], watched=[0, 1])
    whole, felt = coupling(*arguments), coupling(arguments[0], None, *arguments[2:])
    for name in ("potential", "field", "closest"):
        torch.testing.assert_close(getattr(felt, name), getattr(whole, name), rtol=0, atol=0)
    for name in ("energy", "gradient", "point_gradient"):
        assert float(getattr(felt, name).abs().max()) == 0.0


@pytest.mark.parametrize("rank", [0, 2])
def test_scripted_and_single_precision_give_the_same(reference, rank):
    arguments, _ = reference
    more = {"quadrupoles": rank == 2}
    if rank == 2:
        arguments = (*arguments, *moments_of(len(arguments[0])))
    exact = ChargeCoupling(1.0, KE, 8.0, 1e-4, **more)(*arguments)
    for dtype, error in ((torch.float64, 1e-12), (torch.float32, 3e-6)):
        script = torch.jit.freeze(
            torch.jit.script(ChargeCoupling(1.0, KE, 8.0, 1e-4, dtype=dtype, **more).eval())
        )
        for _ in range(3):  # the third is optimised
            found = script(*arguments)
        for value, wanted in zip(found, exact):
            assert value.dtype == torch.float64
            if wanted.numel() > 0 and torch.isfinite(wanted).all():
                assert (value - wanted).abs().max() <= error * max(1.0, float(wanted.abs().max()))


def test_quadrupoles_must_be_expected():
    arguments = sets(CELLS["cubic"])
    with pytest.raises(ValueError, match=r"`quadrupoles` need a coupling made for them"):
        ChargeCoupling(1.0, KE, 8.0)(*arguments, *moments_of(len(arguments[0])))


def test_a_new_cell_is_noticed():
    arguments = sets(CELLS["cubic"])
    coupling = ChargeCoupling(1.0, KE, 8.0)
    first = coupling(*arguments).energy
    larger = coupling(*arguments[:4], 1.1 * arguments[4]).energy
    assert larger == ChargeCoupling(1.0, KE, 8.0)(*arguments[:4], 1.1 * arguments[4]).energy != first
    assert coupling(*arguments).energy == first


PAIR_CASES = {
    # name: cell, spread of the few (Å), their number, cutoff
    "compact": ("triclinic", 2.0, 8, 5.0),
    "wide": ("triclinic", 30.0, 8, 5.0),
    "many": ("cubic", 30.0, 200, 4.0),
    "half the cell": ("triclinic", 30.0, 5, 9.0),
    "small cell": ("cubic", 2.0, 3, 10.0),
}


@pytest.mark.parametrize("case", PAIR_CASES)
def test_cross_pairs_are_complete(case):
    name, spread, n_few, cutoff = PAIR_CASES[case]
    generator = torch.Generator().manual_seed(3)
    cell = torch.tensor(CELLS[name], dtype=torch.float64)
    few = spread * torch.rand(n_few, 3, generator=generator, dtype=torch.float64) + 19.0
    few += torch.tensor([[1.0, -2.0, 1.0]], dtype=torch.float64) @ cell
    many = (4.0 * torch.rand(2500, 3, generator=generator, dtype=torch.float64) - 2.0) @ cell
    assert cutoff <= 0.5 * float(perpendicular_widths(cell).min())
    vectors = few.unsqueeze(1) - many.unsqueeze(0)
    vectors = vectors - torch.round(vectors @ torch.linalg.inv(cell)) @ cell
    expected = torch.nonzero((vectors * vectors).sum(-1) < cutoff**2)
    first, second, found = cross_pairs(few, many, cell, cutoff)
    order = torch.argsort(first * 2500 + second)
    assert torch.equal(torch.stack([first, second], 1)[order], expected)
    torch.testing.assert_close(found[order], vectors[expected[:, 0], expected[:, 1]])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"smearing": 0.0}, "`smearing` must be positive"),
        ({"cutoff": -1.0}, "`cutoff` must be positive"),
        ({"tolerance": 1.0}, "`tolerance` must lie between"),
        ({"point_smearing": -0.1}, "`point_smearing` must not be negative"),
        ({"excluded": [(0, 0)]}, "one number per pair"),
        ({"smearing": 5.0}, "too short for charges 5 wide"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        ChargeCoupling(**{"smearing": 1.0, "coulomb_constant": KE, **settings})
