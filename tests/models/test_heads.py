from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openmm_les.models.heads import LatentChargeHead, conserve_charge, starting_charge
from tests.builders import ELEMENTS, WATER_NUMBERS


def test_starting_charges_follow_electronegativity():
    assert starting_charge(8) == pytest.approx(-0.35 * (3.44 - 2.5))
    assert starting_charge(9) < starting_charge(8) < starting_charge(7) < 0.0 < starting_charge(1)
    assert starting_charge(11) > 0.5
    assert starting_charge(2) == 0.0  # helium has no Pauling value


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_every_molecule_carries_its_charge(seed):
    generator = torch.Generator().manual_seed(seed)
    molecules = torch.cat([torch.arange(4), torch.randint(0, 4, (11,), generator=generator)])
    charges = torch.randn(15, dtype=torch.float64, generator=generator)
    weights = torch.rand(15, dtype=torch.float64, generator=generator) + 0.01
    totals = torch.randn(4, dtype=torch.float64, generator=generator)
    conserved = conserve_charge(charges, weights, molecules, totals)
    found = torch.zeros(4, dtype=torch.float64).index_add(0, molecules, conserved)
    torch.testing.assert_close(found, totals, rtol=0.0, atol=1e-13)
    # What was missing is shared by weight.
    share = (conserved - charges) / weights
    for m in range(4):
        own = share[molecules == m]
        torch.testing.assert_close(own, own[:1].expand_as(own))
    # A second application changes nothing.
    again = conserve_charge(conserved, weights.flip(0), molecules, totals)
    torch.testing.assert_close(again, conserved, rtol=0.0, atol=1e-13)


def test_a_molecule_does_not_feel_the_others():
    charges = torch.tensor([0.3, -0.1, 0.5, 0.4], dtype=torch.float64)
    weights = torch.tensor([1.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    molecules = torch.tensor([0, 0, 1, 1])
    first = conserve_charge(charges, weights, molecules, torch.tensor([0.0, 0.0], dtype=torch.float64))
    other = conserve_charge(
        charges + torch.tensor([0.0, 0.0, 0.7, 0.1]), weights, molecules, torch.tensor([0.0, 2.0]).double()
    )
    assert torch.equal(first[:2], other[:2])
    assert first[:2].tolist() == pytest.approx([0.3 - 0.2 / 3, -0.1 - 0.4 / 3])


def test_a_lone_ion_carries_its_charge_whatever_the_network_says():
    found = conserve_charge(
        torch.tensor([0.123]), torch.tensor([0.7]), torch.tensor([0]), torch.tensor([-1.0])
    )
    assert found.tolist() == [pytest.approx(-1.0)]


def test_molecules_without_atoms_do_no_harm():
    # A batch may list charges of molecules that none of its atoms belongs to.
    charges = torch.tensor([0.3, -0.1], dtype=torch.float64, requires_grad=True)
    weights = torch.ones(2, dtype=torch.float64, requires_grad=True)
    totals = torch.tensor([5.0, 0.0], dtype=torch.float64)
    found = conserve_charge(charges, weights, torch.tensor([1, 1]), totals)
    assert found.tolist() == pytest.approx([0.2, -0.2])
    gradients = torch.autograd.grad(found[0], (charges, weights))
    assert all(bool(torch.isfinite(g).all()) for g in gradients)


def test_conservation_is_twice_differentiable():
    generator = torch.Generator().manual_seed(3)
    molecules, totals = torch.tensor([0, 1, 0, 1, 1]), torch.tensor([1.0, -0.5], dtype=torch.float64)
    inputs = (
        torch.randn(5, dtype=torch.float64, generator=generator, requires_grad=True),
        (torch.rand(5, dtype=torch.float64, generator=generator) + 0.5).requires_grad_(),
    )

    def conserved(charges, weights):
        return conserve_charge(charges, weights, molecules, totals)

    assert torch.autograd.gradcheck(conserved, inputs)
    assert torch.autograd.gradgradcheck(conserved, inputs)


def test_head_conserves_and_scripts():
    head = LatentChargeHead(ELEMENTS, 4).double()
    generator = torch.Generator().manual_seed(4)
    arguments = (
        torch.randn(5, 4, dtype=torch.float64, generator=generator),
        torch.tensor([8, 1, 1, 17, 6]),
        torch.tensor([0, 0, 0, 1, 2]),
        torch.tensor([0.0, -1.0, 0.25], dtype=torch.float64),
    )
    charges = head(*arguments)
    assert float(charges[:3].sum().detach()) == pytest.approx(0.0, abs=1e-14)
    assert charges[3:].tolist() == pytest.approx([-1.0, 0.25])
    torch.testing.assert_close(torch.jit.script(head)(*arguments), charges)


@pytest.mark.parametrize("seed", range(4))
def test_untrained_water_starts_with_a_negative_oxygen(seed):
    # Whatever the random start: near zero the energy has no slope in the charges, and with the
    # wrong sign it stays wrong.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = LatentChargeHead(ELEMENTS, 7)
    features = 3.0 * torch.randn(3, 7, generator=torch.Generator().manual_seed(seed))
    charges = head(features, torch.tensor(WATER_NUMBERS), torch.zeros(3).long(), torch.zeros(1)).tolist()
    assert charges[0] < -0.2
    assert min(charges[1:]) > 0.1


def test_unknown_and_repeated_elements_are_refused():
    for elements in ([], [1, 8, 8], [0, 1], [1, 119]):
        with pytest.raises(ValueError, match=r"`elements` must be distinct atomic numbers from 1 to 118"):
            LatentChargeHead(elements, 4)


def test_the_gain_scales_what_the_network_says():
    features = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    one_molecule = (torch.tensor(WATER_NUMBERS), torch.zeros(3, dtype=torch.int64), torch.zeros(1))
    moved = []
    for gain in (0.1, 0.5):
        head = LatentChargeHead(ELEMENTS, 4, gain=gain)
        with torch.no_grad():
            for name, parameter in head.named_parameters():
                seed = torch.Generator().manual_seed(len(name))
                parameter.copy_(torch.randn(parameter.shape, generator=seed))
            head.output.weight[1], head.output.bias[1] = 0.0, 0.0  # what is missing is shared evenly
        start = head.element_charge[head.index[one_molecule[0]]]
        moved.append((head(features, *one_molecule) - start + start.mean()).detach())
        assert head.config()["gain"] == gain
    assert moved[0].abs().max() > 0.01
    torch.testing.assert_close(moved[1], 5.0 * moved[0])
    with pytest.raises(ValueError, match="`gain` must be positive"):
        LatentChargeHead(ELEMENTS, 4, gain=0.0)
