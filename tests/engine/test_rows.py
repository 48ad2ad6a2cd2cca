"""Neighbours in rows of one length: taken from a graph, and searched for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openmm_les.engine.rows import Rows
from openmm_les.neighbors import single_graph
from tests.engine.builders import water_and_formamide

POSITIONS, NUMBERS, MOLECULES = water_and_formamide()
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CUTOFF = 4.5
CELLS = {
    "isolated": None,
    "cubic": 9.5 * np.eye(3),
    "triclinic": np.array([[9.6, 0.0, 0.0], [1.5, 9.8, 0.0], [-2.0, 1.0, 10.5]]),
}


def graph_of(positions, cell):
    """Pairs of water and formamide, all tested; positions in Å."""
    return single_graph(
        torch.as_tensor(positions, device=DEVICE),
        torch.tensor(NUMBERS, device=DEVICE),
        None if cell is None else torch.as_tensor(cell, device=DEVICE),
        torch.tensor(MOLECULES, device=DEVICE),
        torch.zeros(2, dtype=torch.float64, device=DEVICE),
        CUTOFF,
    )


def search(rows, positions, cell):
    """Search in numpy positions and cell, on the device."""
    r = torch.as_tensor(positions, device=DEVICE)
    if cell is None:
        return rows.search(r, None, None, CUTOFF)
    c = torch.as_tensor(cell, device=DEVICE)
    return rows.search(r, c, torch.linalg.inv(c), CUTOFF)


def holds(rows, graph):
    """The rows hold a graph's pairs, in their order."""
    real = rows.graph.rows.view(-1)
    assert torch.equal(rows.graph.neighbors[real], graph.neighbors)
    assert torch.equal(rows.graph.shifts[real], graph.shifts)
    assert torch.equal(rows.graph.centers[real], graph.centers)
    torch.testing.assert_close(rows.graph.positions.detach(), graph.positions, rtol=0.0, atol=0.0)
    torch.testing.assert_close(rows.graph.cells, graph.cells, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("name", CELLS)
def test_searched_or_filled_they_hold_the_graph(name):
    rng = np.random.default_rng(8)
    cell = CELLS[name]
    start = 10.0 * POSITIONS
    rows = Rows(graph_of(start, cell), 9)
    for scatter in (0.0, 0.3, 3.0, 0.1):
        positions = start + scatter * rng.normal(size=start.shape)
        graph = graph_of(positions, cell)
        assert int(rows.fill(graph)) == 0
        holds(rows, graph)
        rows.fill(graph_of(start[::-1].copy(), cell))  # what was there before must not shine through
        assert int(search(rows, positions, cell)) == 0
        holds(rows, graph)


@pytest.mark.parametrize("name", CELLS)
def test_pairs_without_a_place_are_counted(name):
    graph = graph_of(10.0 * POSITIONS, CELLS[name])
    counts = torch.bincount(graph.centers)
    most = int(counts.max())
    few = Rows(graph, most - 2)
    expected = int((counts - (most - 2)).clamp(min=0).sum())
    assert expected > 0
    assert int(few.fill(graph)) == expected
    assert int(search(few, 10.0 * POSITIONS, CELLS[name])) == expected


def test_what_does_not_fit_leaves_the_rest_right():
    graph = graph_of(10.0 * POSITIONS, None)
    width = int(torch.bincount(graph.centers).max()) - 3
    filled, searched = Rows(graph, width), Rows(graph, width)
    filled.fill(graph)
    search(searched, 10.0 * POSITIONS, None)
    assert torch.equal(filled.graph.rows, searched.graph.rows)
    assert torch.equal(filled.graph.neighbors, searched.graph.neighbors)
