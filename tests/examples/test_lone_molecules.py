"""Molecules of one system without a box: each at a place of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def lone_molecules(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    import lone_molecules

    return lone_molecules


def test_places_are_apart(lone_molecules):
    points = lone_molecules.places(200)
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    assert distances[np.triu_indices(200, 1)].min() == pytest.approx(lone_molecules.APART)
    assert np.abs(points).max() < 200.0
