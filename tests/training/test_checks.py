from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import units

from openmm_les.exceptions import DataError
from openmm_les.training.checks import check_configurations, energy_force_slope, energy_outliers
from openmm_les.training.data import Configurations, concatenate, make_configurations
from tests.training.toy import energy_and_forces, toy_configurations, water


def test_report_counts_and_drops_outliers():
    toy = toy_configurations(12)
    toy.forces[toy.offsets[3]] = [11.0, 0.0, 0.0]
    checked, report = check_configurations(toy, max_force=10.0)
    assert len(checked) == report.n_configurations == 11
    assert report.dropped == {"a force above 10 eV/Å": 1}
    assert report.elements == {1: 11, 8: 11}
    assert report.labels == {"dipoles": 11, "stress": 0, "Born charges": 11, "polarizabilities": 11}
    assert toy.name[3] not in checked.name
    assert any("dropped 1" in line for line in report.lines())


def _spoil(name, value):
    toy = toy_configurations(12)
    getattr(toy, name)[-1] = value
    return toy


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("forces", np.nan, r"`forces` holds NaN .* configuration 11 \(W3/11\)"),
        ("energy", np.inf, "`energy` holds NaN or infinite"),
        ("positions", np.nan, "`positions` holds NaN"),
        ("numbers", 0, "atomic numbers must lie between"),
    ],
)
def test_bad_labels_are_refused(name, value, message):
    with pytest.raises(DataError, match=message):
        check_configurations(_spoil(name, value))


def test_labels_in_other_units_are_refused():
    toy = toy_configurations(12)
    with pytest.raises(DataError, match="are they in eV/Å"):
        check_configurations(replace(toy, forces=toy.forces * 964.85))


def test_total_energies_in_hartree_are_refused():
    """With forces in hartree/Å, which agree with them."""
    toy = toy_configurations(12)
    energy = toy.energy - np.mean(toy.energy / toy.sizes) * toy.sizes - 76.4 * units.Hartree * toy.sizes / 3
    in_hartree = replace(toy, energy=energy / units.Hartree, forces=toy.forces / units.Hartree)
    with pytest.raises(DataError, match=r"energies are 1\.00\d times .* in hartree: are they"):
        check_configurations(in_hartree)
    checked, _ = check_configurations(replace(toy, energy=energy))
    assert len(checked) == 12


def test_elements_the_model_does_not_know_are_refused():
    with pytest.raises(DataError, match="the data hold O; the model knows H C"):
        check_configurations(toy_configurations(3), elements=[1, 6])


def one_water(n: int = 30, noise: float = 0.03) -> Configurations:
    """Frames of one water molecule, turned at random."""
    rng = np.random.default_rng(5)
    positions = [water(rng, np.zeros(3), noise) for _ in range(n)]
    numbers = np.array([8, 1, 1])
    labels = [energy_and_forces(x, numbers) for x in positions]
    return make_configurations(
        np.full(n, 3),
        np.tile(numbers, n),
        np.concatenate(positions),
        np.concatenate([forces for _, forces in labels]),
        np.array([energy for energy, _ in labels]),
        name=np.array([f"water/{i}" for i in range(n)]),
    )


def test_energies_follow_the_forces():
    slope, r, n = energy_force_slope(one_water())
    assert n == 29
    assert r > 0.99
    assert slope == pytest.approx(1.0, abs=0.1)
    assert energy_force_slope(toy_configurations(2))[2] == 0


def test_energies_in_other_units_than_forces_are_refused():
    frames = one_water()
    with pytest.raises(DataError, match=r"energies change 0\.0\d+ times as much as the forces say"):
        check_configurations(replace(frames, energy=frames.energy / units.Hartree))
    with pytest.raises(DataError, match=r"energies rise along the forces.* gradients"):
        check_configurations(replace(frames, forces=-frames.forces))
    atomic = replace(
        frames,
        energy=frames.energy / units.Hartree,
        forces=frames.forces / (units.Hartree / units.Bohr),
    )
    with pytest.raises(DataError, match=r"change 1\.8.* 1\.89 means hartree and hartree/bohr"):
        check_configurations(atomic)
    assert len(check_configurations(frames)[0]) == 30


@pytest.mark.parametrize(
    ("factor", "message"),
    [(0.1, "0.09. Å apart: are the positions in Å"), (1 / units.Bohr, "1.8. Å from their nearest atom")],
    ids=["nm", "bohr"],
)
def test_positions_in_other_units_are_refused(factor, message):
    toy = toy_configurations(12)
    with pytest.raises(DataError, match=message):
        check_configurations(replace(toy, positions=toy.positions * factor))


def test_repeated_configurations_are_dropped():
    toy = toy_configurations(6)
    again = toy.select(np.array([1, 4]))
    checked, report = check_configurations(concatenate([toy, again]))
    assert len(checked) == 6
    assert report.dropped == {"the same positions as another one": 2}
    again.energy[1] += 3.0
    _, report = check_configurations(concatenate([toy, again]))
    assert report.dropped == {
        "the same positions as another one": 1,
        f"the same positions as another one, but another energy (first {toy.name[4]})": 1,
    }
    again.total_charge[:] = 1.0  # another ionisation state
    assert len(check_configurations(concatenate([toy, again]))[0]) == 8


def test_energies_far_off_are_named():
    toy = toy_configurations(40)
    assert energy_outliers(toy) == []
    toy.energy[7] += 30.0
    _, report = check_configurations(toy)
    assert report.outliers[0] == toy.name[7]
    assert any(f"worst {toy.name[7]}" in line for line in report.lines())


def test_flat_cells_are_refused():
    toy = toy_configurations(6)
    toy.cell[3] = [[9.0, 0, 0], [0, 9.0, 0], [9.0, 9.0, 0]]
    with pytest.raises(DataError, match=r"cell of configuration 3 .* no volume"):
        check_configurations(toy)


def test_rare_elements_are_named():
    toy = toy_configurations(120)
    toy.numbers[1] = 9
    _, report = check_configurations(toy)
    assert "elements in few configurations only: F 1" in list(report.lines())


def test_molecules_are_conserved_as_given_or_refused():
    data = toy_configurations(2)  # one water, and two
    molecules = np.where(np.arange(9) < 6, 0.0, 1.0)
    neutral = replace(data, molecules=molecules, molecule_charges=np.zeros(9))
    checked, _ = check_configurations(neutral)
    assert len(checked) == 2
    for charges, message in (
        (np.where(molecules == 0.0, 1.0, 0.0), "add up to 1 e instead of its total charge 0 e"),
        (np.arange(9) % 2.0, "not one for each"),
        (np.full(9, np.nan), "not one for each"),
    ):
        with pytest.raises(DataError, match=message):
            check_configurations(replace(neutral, molecule_charges=charges))
