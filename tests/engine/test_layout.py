"""t-SNE keeps neighbors, and the order along the curve keeps close points together."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from simclr_cli.engine import layout as projection
from simclr_cli.engine.layout import compute_principal_components, compute_tsne, count_tsne_neighbors, order_along_curve
from simclr_cli.engine.nearest import find_nearest


def rows(count: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """Draw rows of length 1 around five directions."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(5, width))
    drawn = centers[np.arange(count) % 5] + 0.4 * rng.normal(size=(count, width))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def test_t_sne_keeps_neighbors_and_is_deterministic() -> None:
    pytest.importorskip("openTSNE")
    vectors = rows(150, 16)
    similarity, found = find_nearest(vectors, vectors, count_tsne_neighbors(150) + 1)
    start, _ = compute_principal_components(vectors, 2)
    places = compute_tsne(similarity[:, 1:], found[:, 1:], start)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(150)
    same = (distance.argmin(1) % 5) == (np.arange(150) % 5)
    assert same.mean() > 0.97  # the directions that the rows were drawn around
    assert np.array_equal(places, compute_tsne(similarity[:, 1:], found[:, 1:], start))


def test_too_few_rows_for_t_sne_stay_at_the_start() -> None:
    pytest.importorskip("openTSNE")
    start = np.array([[0, 0], [1, 0]], np.float32)
    assert compute_tsne(np.ones((2, 1), np.float32), np.array([[1], [0]]), start) is start


def test_the_number_of_neighbors_is_limited_by_the_rows() -> None:
    assert [count_tsne_neighbors(count) for count in (1, 2, 90, 91, 92, 10**6)] == [0, 1, 89, 90, 90, 90]


def test_three_rows_are_enough_for_t_sne() -> None:
    pytest.importorskip("openTSNE")
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    similarity, found = find_nearest(vectors, vectors, 3)
    a, b, c = compute_tsne(similarity[:, 1:], found[:, 1:], np.array([[0, 0], [1, 0], [0, 1]], np.float32))
    assert 0 < np.linalg.norm(a - b) < np.linalg.norm(a - c)


def test_the_curve_connects_neighboring_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "CURVE_BITS", 5)
    grid = np.stack(np.meshgrid(np.arange(32), np.arange(32)), -1).reshape(-1, 2).astype(np.float32)
    order = order_along_curve(np.random.default_rng(0).permutation(grid))
    assert sorted(order) == list(range(1024))
    ordered = np.random.default_rng(0).permutation(grid)[order]
    assert np.all(np.abs(np.diff(ordered, axis=0)).sum(1) == 1)
    moved = np.random.default_rng(0).permutation(grid) - np.array([100, 7], np.float32)
    assert (order_along_curve(moved) == order).all()  # wherever the map lies


def test_the_curve_of_one_point_and_of_none() -> None:
    assert order_along_curve(np.zeros((3, 2), np.float32)).tolist() == [0, 1, 2]
    assert order_along_curve(np.zeros((0, 2), np.float32)).tolist() == []
