from __future__ import annotations

import math

import pytest
import torch

from openmm_les.elements import covalent_radii
from openmm_les.models.radial import BesselBasis, NuclearRepulsion, envelope


def test_envelope_ends_smoothly():
    ends = torch.tensor([0.0, 1.0, 1.5], dtype=torch.float64)
    assert envelope(ends).tolist() == [1.0, 0.0, 0.0]
    x = torch.tensor([1.0 - 1e-9, 1.0 + 1e-9], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(envelope(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert float(first.detach().abs().max()) < 1e-12
    assert float(second.abs().max()) < 1e-5
    inside = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    assert bool((envelope(inside).diff() <= 0.0).all())


def test_envelope_stays_within_bounds_in_float32():
    # Near the cutoff three terms of up to 48 cancel.
    ratio = torch.linspace(0.0, 1.2, 20001)
    assert float((envelope(ratio).double() - envelope(ratio.double())).abs().max()) < 1e-5


def test_bessel_basis():
    basis = BesselBasis(3, 4.0).double()
    r = torch.tensor([0.7, 2.0, 4.0], dtype=torch.float64)
    found = basis(r)
    for n in (1, 2, 3):
        expected = [math.sqrt(0.5) * math.sin(n * math.pi * x / 4.0) / x for x in r.tolist()]
        assert found[:, n - 1].tolist() == pytest.approx(expected, abs=1e-15)
    # Orthonormal with weight r² on [0, cutoff].
    x = (torch.arange(4000, dtype=torch.float64) + 0.5) / 1000.0
    values = basis(x) * x.unsqueeze(-1)
    overlap = values.T @ values / 1000.0
    torch.testing.assert_close(overlap, torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0.0)


def pair_energy(repulsion: NuclearRepulsion, distance: float, first: int, second: int) -> float:
    r = torch.tensor([distance], dtype=torch.float64)
    return float(repulsion(r, torch.tensor([first]), torch.tensor([second])))


def test_nuclear_repulsion_is_zbl_at_short_distance():
    repulsion = NuclearRepulsion([1, 8]).double()
    r = 0.05
    a = 0.8854 * 0.529177210903 / (1.0 + 8.0**0.23)
    phi = sum(
        c * math.exp(-d * r / a)
        for c, d in ((0.18175, 3.1998), (0.50986, 0.94229), (0.28022, 0.4029), (0.02817, 0.20162))
    )
    expected = 14.399645 * 8.0 / r * phi
    assert pair_energy(repulsion, r, 0, 1) == pytest.approx(expected, rel=1e-3)  # the envelope takes a little
    assert pair_energy(repulsion, r, 0, 1) == pair_energy(repulsion, r, 1, 0)


def test_nuclear_repulsion_falls_and_leaves_bonds_alone():
    repulsion = NuclearRepulsion([1, 6]).double()
    r = torch.linspace(0.1, 2.0, 200, dtype=torch.float64)
    for first, second in ((0, 0), (0, 1), (1, 1)):
        energies = repulsion(r, torch.tensor([first]).expand(200), torch.tensor([second]).expand(200))
        assert bool((energies.diff() <= 0.0).all())
        bond = covalent_radii[[1, 6][first]] + covalent_radii[[1, 6][second]]
        assert bool((energies[r >= 0.9 * bond] == 0.0).all())
        assert float(energies[r < 0.5 * bond].min()) > 1.0


def test_nuclear_repulsion_ends_at_a_cutoff_below_the_radii():
    # 0.8 times two caesium radii are 3.9 Å.
    repulsion = NuclearRepulsion([55], cutoff=3.0).double()
    assert pair_energy(repulsion, 2.5, 0, 0) > 1e-3
    assert pair_energy(repulsion, 3.0, 0, 0) == 0.0
    assert pair_energy(repulsion, 2.999, 0, 0) < 1e-6
