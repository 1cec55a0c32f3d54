"""Places in the plane: components as scikit-learn finds them, t-SNE that keeps neighbors, an order that keeps near."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from simclr_cli.engine import layout as projection
from simclr_cli.engine.layout import along_a_curve, neighbors_wanted, principal_components, t_sne
from simclr_cli.engine.nearest import nearest


def rows(count: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """Unit rows around five directions."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(5, width))
    drawn = centers[np.arange(count) % 5] + 0.4 * rng.normal(size=(count, width))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def test_t_sne_keeps_neighbors_and_repeats_itself() -> None:
    pytest.importorskip("openTSNE")
    vectors = rows(150, 16)
    similarity, found = nearest(vectors, vectors, neighbors_wanted(150) + 1)
    start, _ = principal_components(vectors, 2)
    places = t_sne(similarity[:, 1:], found[:, 1:], start)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(150)
    same = (distance.argmin(1) % 5) == (np.arange(150) % 5)
    assert same.mean() > 0.97  # the directions that the rows were drawn around
    assert np.array_equal(places, t_sne(similarity[:, 1:], found[:, 1:], start))


def test_too_little_for_t_sne_stays_where_it_was() -> None:
    pytest.importorskip("openTSNE")
    start = np.array([[0, 0], [1, 0]], np.float32)
    assert t_sne(np.ones((2, 1), np.float32), np.array([[1], [0]]), start) is start


def test_no_more_neighbors_are_wanted_than_there_are() -> None:
    assert [neighbors_wanted(count) for count in (1, 2, 90, 91, 92, 10**6)] == [0, 1, 89, 90, 90, 90]


def test_three_are_enough_to_be_arranged() -> None:
    pytest.importorskip("openTSNE")
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    similarity, found = nearest(vectors, vectors, 3)
    a, b, c = t_sne(similarity[:, 1:], found[:, 1:], np.array([[0, 0], [1, 0], [0, 1]], np.float32))
    assert 0 < np.linalg.norm(a - b) < np.linalg.norm(a - c)


def test_the_curve_goes_from_square_to_square_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "CURVE_BITS", 5)
    grid = np.stack(np.meshgrid(np.arange(32), np.arange(32)), -1).reshape(-1, 2).astype(np.float32)
    order = along_a_curve(np.random.default_rng(0).permutation(grid))
    assert sorted(order) == list(range(1024))
    ordered = np.random.default_rng(0).permutation(grid)[order]
    assert np.all(np.abs(np.diff(ordered, axis=0)).sum(1) == 1)
    moved = np.random.default_rng(0).permutation(grid) - np.array([100, 7], np.float32)
    assert (along_a_curve(moved) == order).all()  # wherever the map lies


def test_the_curve_takes_one_place_and_none() -> None:
    assert along_a_curve(np.zeros((3, 2), np.float32)).tolist() == [0, 1, 2]
    assert along_a_curve(np.zeros((0, 2), np.float32)).tolist() == []
