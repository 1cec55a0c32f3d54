"""The silhouette, against scikit-learn's, and the number of clusters by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_samples, silhouette_score

from simclr_cli.engine.silhouette import number_of_clusters, silhouette


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
    number, means = number_of_clusters(
        rows, lambda count: torch.Generator().manual_seed(count), (2, 3, 4, 6, 9, 12, 15), lambda *at: told.append(at)
    )
    assert number == groups == max(means, key=lambda count: means[count])
    assert told[-1] == (7, 7)


def test_too_few_rows_are_one_cluster() -> None:
    assert number_of_clusters(unit(0, 7), lambda _: torch.Generator()) == (1, {})
    equal = np.repeat(unit(0, 1), 30, axis=0)
    assert number_of_clusters(equal, lambda _: torch.Generator()) == (1, {})
