"""Distance to the nearest neighbors, against nested loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from simclr_cli.engine import nearest as module
from simclr_cli.engine.outliers import compute_percentiles, compute_robust_z_scores, score_outliers


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def rows() -> NDArray[np.float32]:
    return unit(np.random.default_rng(0).normal(size=(150, 12)))


@pytest.mark.parametrize("k", [1, 4, 10])
def test_scores_are_those_of_nested_loops(rows: NDArray[np.float32], k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEIGHBOR_BLOCK_ROWS", 32)
    monkeypatch.setattr(module, "FIRST_STEP_COLUMNS", 5)
    found = score_outliers(rows, k)
    for i, row in enumerate(rows.astype(np.float64)):
        others = sorted(((float(row @ other), -j) for j, other in enumerate(rows) if j != i), reverse=True)[:k]
        assert found.score[i] == pytest.approx(1 - sum(cosine for cosine, _ in others) / k, abs=1e-6)
        assert (found.nearest[i], found.neighbors) == (-others[0][1], k)
        assert found.similarity[i] == pytest.approx(others[0][0], abs=1e-6)
    assert found.places.tolist() == list(range(150))


def test_scores_are_those_of_scikit_learn(rows: NDArray[np.float32]) -> None:
    distance, _ = NearestNeighbors(n_neighbors=11, metric="cosine").fit(rows).kneighbors(rows)
    np.testing.assert_allclose(score_outliers(rows, 10).score, distance[:, 1:].mean(axis=1), atol=1e-6)


def test_only_selected_rows_are_compared(rows: NDArray[np.float32]) -> None:
    among = np.random.default_rng(1).random(150) < 0.3
    found, alone = score_outliers(rows, 5, among), score_outliers(rows[among], 5)
    assert found.places.tolist() == np.flatnonzero(among).tolist()
    np.testing.assert_allclose(found.score, alone.score, atol=1e-6)
    assert found.nearest.tolist() == found.places[alone.nearest].tolist()


def test_equal_rows_are_neighbors_and_a_row_is_not_its_own_neighbor() -> None:
    rows = unit(np.array([[1.0, 0.0]] * 20 + [[0.0, 1.0]]))
    found = score_outliers(rows, 3)
    assert found.score.tolist() == pytest.approx([0.0] * 20 + [1.0])
    assert (found.nearest != np.arange(21)).all()


def test_fewer_rows_than_neighbors() -> None:
    found = score_outliers(unit(np.array([[1.0, 0.0], [0.0, 1.0]])), 10)
    assert (found.neighbors, found.score.tolist(), found.nearest.tolist()) == (1, [1.0, 1.0], [1, 0])


def test_progress_is_reported_up_to_the_end(rows: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEIGHBOR_BLOCK_ROWS", 100)
    calls: list[tuple[int, int]] = []
    score_outliers(rows, 1, progress=lambda *done: calls.append(done))
    assert calls == [(100, 150), (150, 150)]


def test_robust_z_of_normal_scores_is_in_standard_deviations() -> None:
    score = np.random.default_rng(0).normal(5, 2, 100_001).astype(np.float32)
    z = compute_robust_z_scores(score)
    assert z is not None and float(z.std()) == pytest.approx(1, abs=0.02) and float(np.median(z)) == 0
    assert compute_robust_z_scores(np.array([1, 1, 1, 1, 9], np.float32)) is None


def test_percentiles_count_the_smaller_scores() -> None:
    assert compute_percentiles(np.array([3, 1, 2, 2, 9], np.float32)).tolist() == [75, 0, 25, 25, 100]
    assert compute_percentiles(np.array([3, 1], np.float32)).tolist() == [100, 0]
    assert compute_percentiles(np.array([3], np.float32)).tolist() == [0]
