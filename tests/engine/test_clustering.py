"""k-means, the number of clusters and HDBSCAN, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, silhouette_score

from simclr_cli.api import ClusterCountScore
from simclr_cli.engine import clustering as module
from simclr_cli.engine.clustering import (
    choose_cluster_count,
    compute_center_similarity,
    draw_reference,
    hdbscan,
    k_means,
    number_by_size,
    sample_rows,
    score_cluster_counts,
)  # fmt: skip

Rows = NDArray[np.float32]


def blobs(
    groups: int, each: int, width: int = 16, spread: float = 0.25, seed: int = 0
) -> tuple[Rows, NDArray[np.int64]]:
    draw = np.random.default_rng(seed)
    middle = draw.normal(size=(groups, width)) / width**0.5
    labels = draw.permutation(np.repeat(np.arange(groups), each))
    rows = middle[labels] + spread * draw.normal(size=(len(labels), width)) / width**0.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def drawn(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def unit(seed: int, count: int, width: int = 10) -> Rows:
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


# k-means


def test_groups_that_are_apart_are_found() -> None:
    rows, labels = blobs(7, 40)
    found = k_means(rows, 7, drawn())
    assert adjusted_rand_score(labels, found) == 1 and found.dtype == np.int64


def test_many_clusters_are_found_in_as_many_more_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SAMPLE_ROWS", 1)
    rows, labels = blobs(7, 40)
    assert adjusted_rand_score(labels, k_means(rows, 7, drawn())) == 1


def test_every_row_is_in_the_cluster_whose_mean_direction_is_the_nearest() -> None:
    """Dhillon & Modha 2001, section 3.1, with loops: one more round moves next to nothing."""
    rows, _ = blobs(12, 25, spread=1.0)
    found = k_means(rows, 9, drawn())
    means = [sum(row.astype(np.float64) for row in rows[found == j]) for j in range(9)]
    centers = [mean / np.linalg.norm(mean) for mean in means]
    again = [max(range(9), key=lambda j: float(row @ centers[j])) for row in rows]
    assert np.mean(found == again) > 0.98


def test_a_sample_is_fitted_and_all_rows_are_assigned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SAMPLE_ROWS", 60)
    monkeypatch.setattr(module, "SAMPLE_ROWS_PER_CLUSTER", 1)
    monkeypatch.setattr(module, "BLOCK_ROWS", 64)
    rows, labels = blobs(4, 100)
    assert adjusted_rand_score(labels, k_means(rows, 4, drawn())) == 1
    sample = sample_rows(rows, 60, drawn(4))
    places = [int(np.flatnonzero((rows == row).all(axis=1))[0]) for row in sample]
    assert len(set(places)) == 60 and places == sorted(places)


def test_the_seed_decides_and_nothing_else() -> None:
    rows, _ = blobs(10, 30, spread=1.0)
    first, again, other = (k_means(rows, 8, drawn(seed)) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("different", [1, 2, 5])
def test_no_more_clusters_than_distinct_rows(different: int) -> None:
    rows = np.repeat(unit(3, different, 8), 9, axis=0)
    labels = k_means(rows, 6, drawn())
    assert labels.tolist() == np.repeat(np.arange(different), 9).tolist()


def test_as_many_clusters_as_rows_and_more_and_one() -> None:
    rows, _ = blobs(1, 6, spread=1.0)
    assert k_means(rows, 6, drawn()).tolist() == k_means(rows, 9, drawn()).tolist() == list(range(6))
    assert k_means(rows, 1, drawn()).tolist() == [0] * 6


def test_similarity_is_to_the_direction_of_the_mean_and_0_without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", 50)
    rows, labels = blobs(3, 40)
    labels = np.where(np.arange(120) % 5 == 0, -1, labels)
    similarity = compute_center_similarity(rows, labels)
    for label in range(3):
        total = rows[labels == label].sum(axis=0)
        expected = rows[labels == label] @ (total / np.linalg.norm(total))
        np.testing.assert_allclose(similarity[labels == label], expected, atol=1e-5)
    assert similarity.dtype == np.float32 and (similarity[labels < 0] == 0).all()
    assert (compute_center_similarity(rows, np.full(120, -1)) == 0).all()


def test_numbers_go_by_size_and_then_by_place() -> None:
    labels = np.array([4, 0, 2, 2, -1, 0, 7, 7, 7])
    assert number_by_size(labels).tolist() == [3, 1, 2, 2, -1, 1, 0, 0, 0]
    assert number_by_size(np.array([-1, -1])).tolist() == [-1, -1]


# How many


@pytest.mark.parametrize("groups", [3, 6, 12])
def test_the_number_of_groups_that_are_apart_is_found(groups: int) -> None:
    rows, labels = blobs(groups, 30, width=24, spread=0.4, seed=groups)
    calls: list[tuple[int, int]] = []
    scores = score_cluster_counts(rows, drawn, (2, 3, 4, 6, 9, 12, 15), lambda *at: calls.append(at))
    assert [score.clusters for score in scores] == [2, 3, 4, 6, 9, 12, 15]
    best = choose_cluster_count(scores)
    assert best is not None and best.clusters == groups
    assert best.silhouette == pytest.approx(silhouette_score(rows, labels, metric="cosine"), abs=1e-4)
    assert best.silhouette > 0.5 and best.silhouette - best.chance > 0.2
    assert calls[-1] == (7, 7)


def test_the_reference_has_the_mean_and_covariance_of_the_rows_and_no_clusters() -> None:
    draw = np.random.default_rng(0)
    rows = 4 * np.eye(8)[0] + draw.normal(size=(3000, 8)) @ np.diag(np.arange(8) / 8)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    made = draw_reference(rows, drawn())
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(made.mean(axis=0), rows.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(np.cov(made.T), np.cov(rows.T), atol=0.005)


def test_the_first_of_equal_scores_is_chosen() -> None:
    tried = [ClusterCountScore(2, 0.5, 0.5), ClusterCountScore(3, 0.5, 0.25), ClusterCountScore(5, 0.75, 0.5)]
    assert choose_cluster_count(tried) == tried[1] and choose_cluster_count([]) is None


def test_numbers_with_too_few_distinct_rows_are_not_scored() -> None:
    assert score_cluster_counts(unit(0, 7), drawn) == []
    assert score_cluster_counts(np.repeat(unit(0, 1), 30, axis=0), drawn) == []


# HDBSCAN


def test_dense_groups_are_found_and_rows_between_them_have_no_cluster() -> None:
    draw = np.random.default_rng(0)
    labels = np.concatenate([np.repeat(np.arange(4), 40), np.full(30, -1)])
    rows = np.concatenate([draw.normal(size=(4, 64)).repeat(40, axis=0), np.zeros((30, 64))])
    rows += np.where(labels >= 0, 0.15, 1.0)[:, None] * draw.normal(size=rows.shape)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    found = hdbscan(rows, 8)
    inside = labels >= 0
    assert found.dtype == np.int64 and adjusted_rand_score(labels[inside], found[inside]) == 1
    assert (found[~inside] == -1).sum() >= 15


def test_fewer_rows_than_a_cluster_have_no_cluster() -> None:
    assert hdbscan(np.eye(4, dtype=np.float32), 5).tolist() == [-1] * 4
