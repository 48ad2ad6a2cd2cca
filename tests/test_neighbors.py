from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openmm_les.neighbors import all_pairs, perpendicular_widths, single_graph
from tests.builders import TRICLINIC, WATER, WATER_NUMBERS, make_graph

CELLS = {
    "cubic": [[8.0, 0, 0], [0, 8.0, 0], [0, 0, 8.0]],
    "orthorhombic": [[7.0, 0, 0], [0, 11.0, 0], [0, 0, 5.0]],
    "triclinic": TRICLINIC,
    "skewed": [[6.0, 0.0, 0.0], [5.0, 6.0, 0.0], [-4.5, 3.5, 6.5]],
    "left-handed": [[0, 8.0, 0.5], [7.0, 0, 0.3], [0.2, 0, 9.0]],
    "dodecahedral": [[8.0, 0, 0], [0, 8.0, 0], [4.0, 4.0, 5.656854249492381]],
}


def brute_force(positions: np.ndarray, cell: np.ndarray | None, cutoff: float) -> set:
    """(centre, neighbour, shift) of every pair, over far more images than can matter."""
    reach = range(-6, 7) if cell is not None else (0,)
    shifts = np.array(list(itertools.product(reach, repeat=3)))
    images = shifts @ (np.zeros((3, 3)) if cell is None else cell)
    vectors = positions[None, :, None] + images - positions[:, None, None]  # [centre, neighbour, image, 3]
    near = np.linalg.norm(vectors, axis=-1) < cutoff
    pairs = {(int(i), int(j), *(int(n) for n in shifts[k])) for i, j, k in np.argwhere(near)}
    return pairs - {(i, i, 0, 0, 0) for i in range(len(positions))}


def as_set(pairs) -> set:
    centers, neighbors, shifts = pairs
    rows = [(int(i), int(j), *(int(s) for s in shift)) for i, j, shift in zip(centers, neighbors, shifts)]
    assert len(set(rows)) == len(rows), "a pair appears twice"
    return set(rows)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("cutoff", [2.5, 4.5, 9.5])  # 9.5 Å: beyond the whole width of some cells
def test_periodic_pairs_are_complete(name, cutoff):
    cell = np.array(CELLS[name])
    rng = np.random.default_rng(3)
    # Unwrapped: some atoms lie several cells away.
    positions = (rng.random((5, 3)) + rng.integers(-1, 2, (5, 3))) @ cell
    found = as_set(all_pairs(torch.tensor(positions), torch.tensor(cell), cutoff))
    assert found == brute_force(positions, cell, cutoff)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), cutoff=st.floats(0.5, 7.0))
def test_pairs_of_random_cells(seed, cutoff):
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(4.0, 8.0, 3)) + rng.uniform(-2.0, 2.0, (3, 3))
    positions = rng.random((4, 3)) @ cell
    widths = perpendicular_widths(torch.tensor(cell)).numpy()
    if widths.min() < 1.5:  # the brute force reaches six images only
        return
    assert as_set(all_pairs(torch.tensor(positions), torch.tensor(cell), cutoff)) == brute_force(
        positions, cell, cutoff
    )


def test_isolated_pairs():
    positions = np.random.default_rng(0).normal(scale=3.0, size=(9, 3))
    found = as_set(all_pairs(torch.tensor(positions), None, 4.0))
    assert 0 < len(found) < 72
    assert found == brute_force(positions, None, 4.0)


@pytest.mark.parametrize("cell", [None, TRICLINIC])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_order_types_and_mirror_pairs(cell, dtype):
    positions = 8.0 * torch.rand(7, 3, dtype=dtype, generator=torch.Generator().manual_seed(1))
    box = None if cell is None else torch.tensor(cell, dtype=dtype)
    centers, neighbors, shifts = all_pairs(positions, box, 5.0)
    assert centers.dtype == neighbors.dtype == torch.int64
    assert shifts.dtype == dtype
    assert shifts.shape == (centers.numel(), 3)
    assert bool((centers[1:] >= centers[:-1]).all())
    found = as_set((centers, neighbors, shifts))
    assert found == {(j, i, -a, -b, -c) for i, j, a, b, c in found}


def test_an_atom_and_its_own_images():
    cell = 3.0 * torch.eye(3, dtype=torch.float64)
    centers, neighbors, shifts = all_pairs(torch.zeros(1, 3, dtype=torch.float64), cell, 3.5)
    assert centers.tolist() == neighbors.tolist() == [0] * 6
    assert sorted(torch.linalg.norm(shifts, dim=1).tolist()) == [1.0] * 6


def test_no_pairs():
    far = torch.tensor([[0.0, 0, 0], [9.0, 0, 0]])
    for cell in (None, 30.0 * torch.eye(3)):
        centers, neighbors, shifts = all_pairs(far, cell, 4.0)
        assert centers.shape == neighbors.shape == (0,)
        assert shifts.shape == (0, 3)


def test_perpendicular_widths():
    cell = torch.tensor(CELLS["skewed"], dtype=torch.float64)
    a, b, c = cell
    volume = torch.abs(torch.linalg.det(cell))
    expected = [volume / torch.linalg.norm(torch.linalg.cross(u, v)) for u, v in ((b, c), (c, a), (a, b))]
    torch.testing.assert_close(perpendicular_widths(cell), torch.stack(expected))
    torch.testing.assert_close(perpendicular_widths(cell[[1, 0, 2]]), torch.stack(expected)[[1, 0, 2]])


def test_scripted_is_eager():
    # The search runs inside TorchForce, so it must script, for both kinds of system.
    scripted = torch.jit.script(all_pairs)
    positions = 8.0 * torch.rand(6, 3, generator=torch.Generator().manual_seed(2))
    for cell in (None, torch.tensor(TRICLINIC)):
        for own, other in zip(all_pairs(positions, cell, 9.0), scripted(positions, cell, 9.0)):
            assert torch.equal(own, other)


def test_gradients_do_not_pass_through_the_search():
    positions = torch.rand(4, 3, requires_grad=True)
    cell = (2.0 * torch.eye(3)).requires_grad_()
    assert not any(t.requires_grad for t in all_pairs(positions, cell, 2.5))


@pytest.mark.parametrize("cell", [None, TRICLINIC])
def test_single_graph(cell):
    box = None if cell is None else torch.tensor(cell, dtype=torch.float64)
    arguments = (
        torch.tensor(WATER),
        torch.tensor(WATER_NUMBERS),
        box,
        torch.zeros(3).long(),
        torch.ones(1).double(),
    )
    expected = make_graph([WATER], [WATER_NUMBERS], [cell], charges=[[1.0]])
    for build in (single_graph, torch.jit.script(single_graph)):
        graph = build(*arguments, 4.5)
        assert graph.periodic == (cell is not None) and graph.rows is None
        for name in expected._fields[:9]:
            assert torch.equal(getattr(graph, name), getattr(expected, name)), name
