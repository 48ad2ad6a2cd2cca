from __future__ import annotations

import numpy as np
import torch

from openmm_les.graph import (
    Graph,
    atoms_of,
    cell_of,
    configuration_index,
    padded_pairs,
    pair_rows,
    pair_vectors,
)
from tests.builders import FORMAMIDE, FORMAMIDE_NUMBERS, TRICLINIC, WATER, WATER_NUMBERS, make_graph


def test_atoms_and_cells_of_configurations():
    cell = np.array(TRICLINIC)
    graph = make_graph([WATER, FORMAMIDE], [WATER_NUMBERS, FORMAMIDE_NUMBERS], [None, cell])
    assert configuration_index(graph).tolist() == [0] * 3 + [1] * 6
    assert [atoms_of(graph, i) for i in (0, 1)] == [(0, 3), (3, 9)]
    assert cell_of(graph, 0) is None
    assert torch.equal(cell_of(graph, 1), graph.cells[1])


def test_atoms_and_cell_of_one_configuration():
    for cell in (None, np.array(TRICLINIC)):
        graph = make_graph([WATER], [WATER_NUMBERS], [cell])
        assert configuration_index(graph).tolist() == [0] * 3
        assert atoms_of(graph, 0) == (0, 3)
        for known in (None, cell is not None):
            found = cell_of(graph._replace(periodic=known), 0)
            assert found is None if cell is None else torch.equal(found, graph.cells[0])


def test_pair_vectors_of_a_batch():
    cubic = 5.0 * np.eye(3)
    graph = make_graph(
        [WATER, FORMAMIDE, WATER + 2.0],
        [WATER_NUMBERS, FORMAMIDE_NUMBERS, WATER_NUMBERS],
        [np.array(TRICLINIC), None, cubic],
    )
    vectors = pair_vectors(graph)
    owner = configuration_index(graph)[graph.centers]
    for k in range(len(vectors)):
        shift = graph.shifts[k] @ graph.cells[owner[k]]
        expected = graph.positions[graph.neighbors[k]] + shift - graph.positions[graph.centers[k]]
        torch.testing.assert_close(vectors[k], expected)
    assert float(torch.linalg.norm(vectors, dim=1).max()) < 4.5
    assert bool((graph.shifts[owner == 2] != 0).any()), "the small box must bring images in"


def test_pair_vectors_of_one_configuration_equal_those_of_a_batch():
    cell = np.array(TRICLINIC)
    alone = make_graph([FORMAMIDE], [FORMAMIDE_NUMBERS], [cell], cutoff=6.0)
    both = make_graph([FORMAMIDE] * 2, [FORMAMIDE_NUMBERS] * 2, [cell] * 2, cutoff=6.0)
    torch.testing.assert_close(pair_vectors(both), pair_vectors(alone).repeat(2, 1))


def test_pair_vectors_are_differentiable_in_positions_and_cells():
    base = make_graph([WATER] * 2, [WATER_NUMBERS] * 2, [3.5 * np.eye(3), np.array(TRICLINIC)])

    def lengths(positions: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        return torch.linalg.norm(pair_vectors(base._replace(positions=positions, cells=cells)), dim=1)

    inputs = (base.positions.clone().requires_grad_(), base.cells.clone().requires_grad_())
    assert torch.autograd.gradcheck(lengths, inputs)


def test_padded_pairs():
    table = padded_pairs(torch.tensor([0, 0, 2, 2, 2]), 4)
    assert table.tolist() == [[0, 1, 5], [5, 5, 5], [2, 3, 4], [5, 5, 5]]


def test_padded_pairs_without_pairs():
    assert padded_pairs(torch.zeros(0, dtype=torch.int64), 3).shape == (3, 0)


def in_rows(graph: Graph, width: int) -> Graph:
    """The same pairs, filled up by those of atoms with themselves."""
    n = len(graph.positions)
    table = padded_pairs(graph.centers, n)
    table = torch.nn.functional.pad(table, (0, width - table.shape[1]), value=len(graph.centers))
    real = table < len(graph.centers)
    centers = torch.arange(n).repeat_interleave(width)
    neighbors, shifts = centers.clone(), graph.shifts.new_zeros((n * width, 3))
    neighbors[real.view(-1)] = graph.neighbors
    shifts[real.view(-1)] = graph.shifts
    return graph._replace(centers=centers, neighbors=neighbors, shifts=shifts, rows=real)


def test_rows_that_are_known_equal_those_that_are_made():
    for cell in (None, np.array(TRICLINIC)):
        graph = make_graph(
            [np.concatenate([WATER, FORMAMIDE + 2.5])], [WATER_NUMBERS + FORMAMIDE_NUMBERS], [cell]
        )
        vectors, neighbors = pair_rows(graph, 9.0)
        width = vectors.shape[1]
        rows = in_rows(graph, width + 2)
        found, places = pair_rows(rows, 9.0)
        real = rows.rows[:, :width]
        assert bool((found[:, width:] == 9.0).all())
        torch.testing.assert_close(found[:, :width], vectors)
        assert torch.equal(places[:, :width][real], neighbors[real])
        scripted = torch.jit.script(pair_rows)
        for each in (graph, rows):
            for one, other in zip(scripted(each, 9.0), pair_rows(each, 9.0), strict=True):
                assert torch.equal(one, other)


def test_rows_without_pairs():
    graph = make_graph([9.0 * np.arange(3.0)[:, None] * np.ones(3)], [[1] * 3], [None])
    vectors, neighbors = pair_rows(graph, 9.0)
    assert vectors.shape == (3, 0, 3) and neighbors.shape == (3, 0)


def test_scripted_is_eager():
    graph = make_graph([WATER, FORMAMIDE], [WATER_NUMBERS, FORMAMIDE_NUMBERS], [None, np.array(TRICLINIC)])
    assert isinstance(graph, Graph)
    assert torch.equal(torch.jit.script(pair_vectors)(graph), pair_vectors(graph))
    for centers, n in ((graph.centers, 9), (graph.centers[:0], 4)):
        assert torch.equal(torch.jit.script(padded_pairs)(centers, n), padded_pairs(centers, n))
