"""The silhouette, against scikit-learn's, and the number of clusters by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_samples, silhouette_score

from simclr_cli.engine.silhouette import Separation, best, separations, silhouette, without_clusters


def unit(seed: int, count: int, width: int = 10) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_it_is_scikit_learns(count: int) -> None:
    rows = unit(0, 90)
    labels = np.random.default_rng(1).integers(0, count, 90)
    ours = silhouette(rows, labels)
    np.testing.assert_allclose(ours, silhouette_samples(rows, labels, metric="cosine"), atol=1e-5)
    assert ours.mean() == pytest.approx(silhouette_score(rows, labels, metric="cosine"), abs=1e-5)


def test_a_row_alone_in_its_cluster_has_none() -> None:
    labels = np.array([0] * 10 + [3] + [5] * 9)  # numbers may be left out
    ours = silhouette(unit(2, 20), labels)
    assert ours[10] == 0
    np.testing.assert_allclose(ours, silhouette_samples(unit(2, 20), labels, metric="cosine"), atol=1e-5)


@pytest.mark.parametrize("groups", [3, 6, 12])
def test_the_number_of_groups_that_are_apart_is_found(groups: int) -> None:
    draw = np.random.default_rng(groups)
    rows = np.repeat(draw.normal(size=(groups, 24)), 30, axis=0) + 0.4 * draw.normal(size=(groups * 30, 24))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    told: list[tuple[int, int]] = []
    found = separations(rows, torch.Generator().manual_seed, (2, 3, 4, 6, 9, 12, 15), lambda *at: told.append(at))
    assert [one.clusters for one in found] == [2, 3, 4, 6, 9, 12, 15]
    chosen = best(found)
    assert chosen is not None and chosen.clusters == groups
    assert chosen.silhouette > 0.5 > chosen.chance
    assert told[-1] == (7, 7)


def test_the_reference_has_the_mean_and_covariance_of_the_rows_and_no_clusters() -> None:
    draw = np.random.default_rng(0)
    rows = 4 * np.eye(8)[0] + draw.normal(size=(3000, 8)) @ np.diag(np.arange(8) / 8)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    made = without_clusters(rows, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(made.mean(axis=0), rows.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(np.cov(made.T), np.cov(rows.T), atol=0.005)


def test_the_first_of_equals_and_none_of_none() -> None:
    tried = [Separation(2, 0.5, 0.5), Separation(3, 0.5, 0.25), Separation(5, 0.75, 0.5)]
    assert best(tried) == tried[1] and best([]) is None


def test_too_few_different_rows_are_not_tried() -> None:
    assert separations(unit(0, 7), torch.Generator().manual_seed) == []
    assert separations(np.repeat(unit(0, 1), 30, axis=0), torch.Generator().manual_seed) == []
