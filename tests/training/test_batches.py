from __future__ import annotations

from dataclasses import replace
from itertools import chain, islice

import numpy as np
import pytest
import torch

from openmm_les.exceptions import DataError
from openmm_les.molecules import bonded_molecules
from openmm_les.neighbors import all_pairs
from openmm_les.training.batches import Batches, GraphData, TrainingStream, epoch_batches
from openmm_les.training.data import group_shares, make_configurations
from openmm_les.training.loss import predict_batch
from openmm_les.training.settings import TrainingSettings
from openmm_les.training.starting_model import build_model
from tests.training.toy import toy_configurations

CUTOFF = 4.0


@pytest.fixture(scope="module")
def data():
    return GraphData(toy_configurations(24), CUTOFF, dtype=torch.float64)


def test_every_configuration_once_in_batches_of_equal_size():
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 90, 500)
    batches = epoch_batches(sizes, sizes // 2, 160, rng)
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(500))
    atoms = np.array([sizes[b].sum() for b in batches])
    assert abs(atoms.mean() - 160) < 10
    assert atoms.max() <= 160 + 90


def test_sorting_within_pools_wastes_fewer_rows():
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 90, 500)
    widths = sizes // 2
    rows = {
        pool: sum(widths[b].max() * sizes[b].sum() for b in epoch_batches(sizes, widths, 160, rng, pool))
        for pool in (1, 16)
    }
    assert rows[16] < 0.9 * rows[1]


def test_batched_graph_equals_its_parts(data):
    indices = np.array([5, 0, 20])
    batch = data.batch(indices)
    model = build_model(
        TrainingSettings(data=("-",), max_steps=1, dtype="float64", channels=8, cutoff=CUTOFF),
        [1, 8],
        np.array([-13.0, -110.0]),
        4.0,
    )
    energy, forces = predict_batch(model, batch, train=False)[1:3]
    begin = 0
    for k, i in enumerate(indices):
        e, f = predict_batch(model, data.batch(np.array([i])), train=False)[1:3]
        np.testing.assert_allclose(energy[k].detach(), e[0].detach(), rtol=1e-12)
        np.testing.assert_allclose(forces[begin : begin + len(f)], f, atol=1e-10)
        begin += len(f)
    assert begin == len(forces)
    np.testing.assert_array_equal(batch.energy, data.configurations.energy[indices])


def test_waters_are_neutral_molecules(data):
    batch = data.batch(np.array([2]))  # three waters
    np.testing.assert_array_equal(batch.graph.molecules, np.repeat([0, 1, 2], 3))
    np.testing.assert_array_equal(batch.graph.molecule_charges, np.zeros(3))
    assert data.n_unresolved == 0


def test_charge_that_no_molecule_claims_is_kept_by_the_whole():
    toy = toy_configurations(3)
    toy.total_charge[2] = 1.0
    charged = GraphData(toy, CUTOFF)
    assert charged.n_unresolved == 1
    graph = charged.batch(np.array([2])).graph
    assert graph.molecule_charges.tolist() == [1.0]
    assert (graph.molecules == 0).all()


def test_molecules_are_those_of_a_simulation():
    """A sodium ion beside a water: no bond in training, either."""
    toy = toy_configurations(1)
    numbers = np.append(toy.numbers, 11)
    positions = np.append(toy.positions, [toy.positions[0] + [0.0, -2.2, 0.0]], axis=0)
    ion = make_configurations([4], numbers, positions, np.zeros((4, 3)), np.zeros(1), total_charge=np.ones(1))
    graph = GraphData(ion, CUTOFF).batch(np.array([0])).graph
    np.testing.assert_array_equal(graph.molecules, bonded_molecules(positions, numbers))
    assert graph.molecule_charges.tolist() == [0.0, 1.0]


def test_molecules_that_are_given_go_before_bonds():
    data = toy_configurations(1)
    torn = data.positions.copy()
    torn[1] *= 2.5
    for molecules, expected in ((np.full(3, np.nan), 2), (np.full(3, 7.0), 1)):
        given = replace(data, positions=torn, molecules=molecules, molecule_charges=np.zeros(3))
        graph = GraphData(given, 4.0).batch(np.array([0])).graph
        assert len(graph.molecule_charges) == expected == int(graph.molecules.max()) + 1


def test_periodic_pairs_survive_storage():
    toy = toy_configurations(3)
    toy.cell[2] = np.diag([9.7, 7.0, 7.5])
    graph = GraphData(toy, CUTOFF, dtype=torch.float64).batch(np.array([1, 2])).graph
    cell = torch.from_numpy(toy.cell[2])
    centers, neighbors, shifts = all_pairs(torch.from_numpy(toy.positions[toy.atoms_of(2)]), cell, CUTOFF)
    own = graph.centers >= 6
    torch.testing.assert_close(graph.centers[own] - 6, centers)
    torch.testing.assert_close(graph.neighbors[own] - 6, neighbors)
    torch.testing.assert_close(graph.shifts[own], shifts)
    assert (shifts != 0).any()


def test_stream_depends_on_seed_and_step_alone(data):
    def indices(stream, n):
        return [b.indices.tolist() for b in islice(iter(stream), n)]

    first = TrainingStream(data, 20, seed=3)
    long = indices(first, 30)
    later = TrainingStream(data, 20, seed=3)
    later.first_step = 13  # beyond the first pass
    assert first.steps_per_epoch < 13
    assert indices(later, 17) == long[13:]
    assert indices(TrainingStream(data, 20, seed=4), 30) != long
    assert sorted(chain.from_iterable(long[: first.steps_per_epoch])) == list(range(24))


def test_a_group_joins_its_part_of_the_passes(data):
    shares = group_shares(data.configurations, "water1=0.3, water3=0.5")
    stream = TrainingStream(data, 20, seed=3, shares=shares)
    passes = [list(chain.from_iterable(stream._epoch(epoch))) for epoch in range(20)]
    assert all(len(set(each)) == len(each) for each in passes)
    times = np.bincount(list(chain.from_iterable(passes)), minlength=len(data))
    for group, share in (("water1", 0.3), ("water2", 1.0), ("water3", 0.5)):
        assert (times[data.configurations.group == group] == round(20 * share)).all()
    assert len({tuple(sorted(each)) for each in passes}) > 2  # not all of a group at once
    later = TrainingStream(data, 20, seed=3, shares=shares)
    later.first_step = 25
    long = [b.indices.tolist() for b in islice(iter(stream), 40)]
    assert [b.indices.tolist() for b in islice(iter(later), 15)] == long[25:]


def test_processes_share_the_batches(data):
    parts = [TrainingStream(data, 20, seed=3, rank=r, world_size=2) for r in (0, 1)]
    assert parts[0].steps_per_epoch == parts[1].steps_per_epoch
    seen = [{tuple(b.indices.tolist()) for b in islice(iter(p), p.steps_per_epoch)} for p in parts]
    assert not seen[0] & seen[1]


def test_more_processes_than_batches(data):
    with pytest.raises(DataError, match=r"a pass over the data has 1 batches for 2 processes"):
        TrainingStream(data, 10_000, seed=3, rank=1, world_size=2)


def test_validation_batches_cover_everything_once(data):
    seen = torch.cat([b.indices for b in Batches(data, 30)])
    np.testing.assert_array_equal(np.sort(seen.numpy()), np.arange(24))
