"""Exact search against numpy's full sort, and pairs against two nested loops."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from simclr_cli.engine import nearest as search
from simclr_cli.engine.nearest import center_rows, find_nearest, find_similar_pairs


def unit(rows: int, width: int = 8, seed: int = 0) -> NDArray[np.float32]:
    h = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return h / np.linalg.norm(h, axis=1, keepdims=True)


@pytest.fixture(params=[3, 64, 1_024])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Set several block sizes, on which the result must not depend."""
    monkeypatch.setattr(search, "FIRST_BLOCK_ROWS", request.param)
    monkeypatch.setattr(search, "MAX_SIMILARITIES_PER_BLOCK", 10 * request.param)
    monkeypatch.setattr(search, "MAX_QUERIES_PER_PASS", 7)
    return request.param


@pytest.mark.parametrize("queries", [1, 5, 20])
@pytest.mark.parametrize("top", [1, 10, 500])
def test_the_nearest_are_those_of_a_full_sort(block: int, queries: int, top: int) -> None:
    vectors, queries = unit(400), unit(queries, seed=1)
    similarities, places = find_nearest(vectors, queries, top)
    full = queries @ vectors.T
    order = np.argsort(-full, axis=1, kind="stable")[:, :top]
    np.testing.assert_array_equal(places, order)
    np.testing.assert_allclose(similarities, np.take_along_axis(full, order, axis=1), atol=1e-6)
    assert places.dtype == np.int64 and similarities.dtype == np.float32


def test_only_selected_rows_are_found(block: int) -> None:
    vectors, queries = unit(300), unit(3, seed=1)
    among = np.random.default_rng(2).random(300) < 0.1
    _, places = find_nearest(vectors, queries, 5, among)
    full = np.where(among, queries @ vectors.T, -np.inf)
    np.testing.assert_array_equal(places, np.argsort(-full, axis=1, kind="stable")[:, :5])
    assert find_nearest(vectors, queries, 500, among)[1].shape == (3, among.sum())
    assert find_nearest(vectors, queries, 5, np.zeros(300, bool))[1].shape == (3, 0)


@pytest.mark.parametrize("queries", [1, 5, 20])
def test_the_nearest_of_centered_rows_are_those_of_a_full_sort(block: int, queries: int) -> None:
    """All rows near one direction, as embeddings are: their mean is most of each."""
    base = np.float32(2) * unit(1, seed=3) + unit(420)
    rows = base / np.linalg.norm(base, axis=1, keepdims=True)
    vectors, mean = rows[:400], rows[:400].mean(axis=0)
    centered = rows.astype(np.float64) - mean
    centered /= np.linalg.norm(centered, axis=1, keepdims=True)
    similarities, places = find_nearest(vectors, center_rows(rows[400 : 400 + queries], mean), 10, mean=mean)
    full = centered[400 : 400 + queries] @ centered[:400].T
    order = np.argsort(-full, axis=1)[:, :10]
    np.testing.assert_array_equal(places, order)
    np.testing.assert_allclose(similarities, np.take_along_axis(full, order, axis=1), atol=1e-5)


def test_a_row_equal_to_the_mean_has_no_direction(block: int) -> None:
    vectors = np.repeat(unit(1), 30, axis=0)
    similarities, _ = find_nearest(vectors, unit(1, seed=1), 5, mean=vectors[0])
    assert np.isfinite(similarities).all() and (np.abs(similarities) < 0.01).all()


def test_of_equal_rows_the_earlier_comes_first(block: int) -> None:
    vectors = np.repeat(unit(2), 50, axis=0)[np.random.default_rng(0).permutation(100)]
    vectors = np.round(vectors * 4) / 4  # sums without rounding: equal rows are equally similar, whatever the order
    _, places = find_nearest(vectors, vectors[:1], 30)
    same = np.flatnonzero((vectors == vectors[0]).all(axis=1))
    np.testing.assert_array_equal(places[0], same[:30])


def test_no_vectors_and_no_queries() -> None:
    assert find_nearest(unit(0), unit(3), 5)[0].shape == (3, 0)
    assert find_nearest(unit(9), unit(0), 5)[1].shape == (0, 5)


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.7, 0.999, 1.1])
def test_pairs_are_those_of_two_loops(monkeypatch: pytest.MonkeyPatch, threshold: float) -> None:
    monkeypatch.setattr(search, "PAIR_BLOCK_ROWS", 16)
    vectors = unit(50)
    expected = {(i, j) for i in range(50) for j in range(i + 1, 50) if float(vectors[i] @ vectors[j]) >= threshold}
    found = [
        (a, b, s)
        for i, j, similarity in find_similar_pairs(vectors, threshold)
        for a, b, s in zip(i.tolist(), j.tolist(), similarity.tolist(), strict=True)
    ]
    assert {(a, b) for a, b, _ in found} == expected and len(found) == len(expected)
    assert all(s == pytest.approx(float(vectors[a] @ vectors[b]), abs=1e-6) for a, b, s in found)
