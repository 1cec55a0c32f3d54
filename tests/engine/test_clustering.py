"""Spherical k-means, against its definition and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from simclr_cli.engine import clustering as module
from simclr_cli.engine.clustering import centres_of, k_means, plus_plus, sampled

Rows = NDArray[np.float32]


def blobs(
    groups: int, each: int, width: int = 16, spread: float = 0.25, seed: int = 0
) -> tuple[Rows, NDArray[np.int64]]:
    draw = np.random.default_rng(seed)
    middle = draw.normal(size=(groups, width)) / width**0.5
    labels = draw.permutation(np.repeat(np.arange(groups), each))
    rows = middle[labels] + spread * draw.normal(size=(len(labels), width)) / width**0.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_hand(rows: Rows, centres: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64], list[float]]:
    """Dhillon & Modha 2001, section 3.1, with loops; none of its clusters may run empty."""
    history: list[float] = []
    labels = np.full(len(rows), -1)
    while True:
        found = np.array([max(range(len(centres)), key=lambda j: float(row @ centres[j])) for row in rows])
        history.append(sum(float(row @ centres[label]) for row, label in zip(rows, found, strict=True)))
        if (found == labels).all():
            return labels, centres, history
        labels = found
        sums = [sum(row.astype(np.float64) for row in rows[labels == j]) for j in range(len(centres))]
        centres = np.array([total / np.linalg.norm(total) for total in sums])


def test_groups_that_are_apart_are_found() -> None:
    rows, labels = blobs(7, 40)
    found, centres, similarity = k_means(rows, 7, drawn())
    assert adjusted_rand_score(labels, found) == 1
    assert (found.dtype, centres.shape, similarity.shape) == (np.int64, (7, 16), (280,))
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(similarity, (rows * centres[found]).sum(axis=1), atol=1e-5)


def test_lloyds_rounds_are_those_of_the_paper_from_the_same_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLED", -1.0)  # until no row moves
    monkeypatch.setattr(module, "BLOCK", 64)
    rows, _ = blobs(12, 25, spread=1.0)
    start = rows[:9]
    labels, centres, history = by_hand(rows, start.astype(np.float64))
    done, found = module._settle(rows, torch.from_numpy(start.copy()))
    assert done.labels.tolist() == labels.tolist()
    np.testing.assert_allclose(found.numpy(), centres, atol=1e-5)
    assert history == sorted(history)  # lemma 3.1: no round makes it worse
    assert float(done.similarity.sum()) == pytest.approx(history[-1], abs=1e-3)


def test_scikit_learns_k_means_of_unit_rows_ends_the_same_from_the_same_start() -> None:
    rows, _ = blobs(6, 50, spread=0.4)
    start = plus_plus(rows, 6, drawn(3))
    done, _ = module._settle(rows, start)
    theirs = KMeans(6, init=start.numpy(), n_init=1, tol=0).fit(rows)
    assert adjusted_rand_score(theirs.labels_, done.labels.numpy()) == 1


def test_it_is_about_as_good_as_the_best_of_scikit_learns_ten_starts() -> None:
    rows, _ = blobs(30, 20, spread=0.8, seed=5)
    theirs = KMeans(30, n_init=10, random_state=0).fit(rows)
    _, similarity = centres_of(rows, theirs.labels_.astype(np.int64))
    assert k_means(rows, 30, drawn())[2].mean() > similarity.mean() - 0.01


def test_the_seed_decides_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = blobs(10, 30, spread=1.0)
    first = k_means(rows, 8, drawn(1))
    torch.rand(5)
    again, other = k_means(rows, 8, drawn(1)), k_means(rows, 8, drawn(2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first[0] != other[0]).any()


def test_starts_are_tried_on_a_sample_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE", 60)
    rows, labels = blobs(4, 100)
    assert adjusted_rand_score(labels, k_means(rows, 4, drawn())[0]) == 1
    chosen = sampled(rows, 60, drawn(4))
    places = [int(np.flatnonzero((rows == row).all(axis=1))[0]) for row in chosen]
    assert len(set(places)) == 60 and places == sorted(places)


def test_an_empty_cluster_gets_the_row_that_fits_the_least() -> None:
    rows, labels = blobs(3, 20)
    start = np.stack([rows[labels == 0].mean(axis=0), rows[labels == 1].mean(axis=0), -rows.mean(axis=0)])
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    done, centres = module._settle(rows, torch.from_numpy(start.astype(np.float32)))
    assert adjusted_rand_score(labels, done.labels.numpy()) == 1 and len(centres) == 3


@pytest.mark.parametrize("different", [1, 2, 5])
def test_no_more_clusters_than_different_rows(different: int) -> None:
    rows = np.repeat(np.eye(8, dtype=np.float32)[:different], 9, axis=0)
    labels, centres, similarity = k_means(rows, 6, drawn())
    assert np.unique(labels).tolist() == list(range(different)) and len(centres) == different
    np.testing.assert_allclose(similarity, 1, atol=1e-6)


def test_as_many_clusters_as_rows_and_one_cluster() -> None:
    rows, _ = blobs(1, 6, spread=1.0)
    assert sorted(k_means(rows, 6, drawn())[0].tolist()) == list(range(6))
    labels, centres, _ = k_means(rows, 1, drawn())
    mean = rows.sum(axis=0) / np.linalg.norm(rows.sum(axis=0))
    assert labels.tolist() == [0] * 6
    np.testing.assert_allclose(centres[0], mean, atol=1e-6)


def test_starts_are_drawn_by_squared_distance() -> None:
    """Chi squared with 2 degrees of freedom: below 13.8 in 99.9 % of cases."""
    squared = torch.tensor([0.0, 1.0, 0.0, 2.5, 0.5, 0.0])
    seen = torch.bincount(module.drawn_by(squared, 4_000, drawn()), minlength=6)
    expected = 4_000 * squared / squared.sum()
    where = squared > 0
    assert seen[~where].sum() == 0
    assert float(((seen - expected).square()[where] / expected[where]).sum()) < 13.8


def test_starts_are_far_from_one_another() -> None:
    rows, labels = blobs(9, 30, spread=0.1)
    for seed in range(5):
        start = plus_plus(rows, 9, drawn(seed)).numpy()
        assert {int(labels[np.flatnonzero((rows == row).all(axis=1))[0]]) for row in start} == set(range(9))


def test_centres_of_others_clusters_leave_out_those_in_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 50)
    rows, labels = blobs(3, 40)
    labels = np.where(np.arange(120) % 5 == 0, -1, labels)
    centres, similarity = centres_of(rows, labels)
    for label in range(3):
        total = rows[labels == label].sum(axis=0)
        np.testing.assert_allclose(centres[label], total / np.linalg.norm(total), atol=1e-5)
    inside = labels >= 0
    np.testing.assert_allclose(similarity[inside], (rows * centres[labels])[inside].sum(axis=1), atol=1e-5)
    assert (similarity[~inside] == 0).all()
    none, zero = centres_of(rows, np.full(120, -1))
    assert none.shape == (0, 16) and (zero == 0).all()
