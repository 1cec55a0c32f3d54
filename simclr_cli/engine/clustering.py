"""Rows that belong together, by scikit-learn: k-means, how many clusters, and HDBSCAN."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from simclr_cli.api import ClusterCountScore
from simclr_cli.engine.layout import principal_components
from simclr_cli.engine.nearest import Vectors, blocks

BLOCK = 8_192  # rows at once
SAMPLE, ROWS_PER_CLUSTER = 20_000, 50  # rows that k-means is fitted on, at most: the larger of these
STARTS = 2  # of k-means, of which the best is taken
LEAST_ROWS = 4  # rows a cluster, on average, that must be there for a number to be tried
TRIED = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)
MOST_DIMENSIONS = 50  # in more of them all densities are about the same, and the search for neighbors is slow


def k_means(vectors: Vectors, count: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """Cluster rows by the direction of their clusters' means (spherical k-means, Dhillon & Modha 2001).

    k-means by scikit-learn finds the means, on a random sample where there are many rows; then every row goes to the
    most similar one, block by block, so that the vectors need not fit in memory.

    Args:
        vectors: (N, D), rows of length 1.
        count: how many clusters; fewer are found where there are fewer different rows.

    Returns:
        (N,) labels from 0, as `by_size` numbers them.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    sample = sampled(vectors, max(SAMPLE, ROWS_PER_CLUSTER * count), draw)
    seed = int(draw.integers(2**32))
    model = KMeans(min(count, len(sample)), n_init=STARTS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than clusters
        model.fit(sample.astype(np.float64))  # so that the order in which threads add up changes no label
    centers = _unit(model.cluster_centers_)
    return by_size(np.concatenate([(rows @ centers.T).argmax(axis=1) for _, rows in blocks(vectors, BLOCK)]))


def sampled(vectors: Vectors, most: int, draw: np.random.Generator) -> NDArray[np.float32]:
    """Return (n, D) `most` random rows in the order of the rows, or all where there are no more."""
    if len(vectors) <= most:
        return vectors[slice(0, len(vectors))]
    places = np.sort(draw.choice(len(vectors), most, replace=False)).tolist()
    return np.concatenate([vectors[slice(place, place + 1)] for place in places])


def similarity_to_centre(vectors: Vectors, labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return (N,) the cosine of each row to the mean of its cluster; 0 for a row in none.

    Args:
        vectors: (N, D), rows of length 1.
        labels: (N,) from 0; -1: in none.
    """
    count = int(labels.max(initial=-1)) + 1
    own = np.where(labels < 0, count, labels)
    sums = torch.zeros(count + 1, vectors.shape[1], dtype=torch.float64)  # the last one is of the rows in none
    for part, rows in blocks(vectors, BLOCK):
        sums.index_add_(0, torch.from_numpy(own[part]), torch.from_numpy(rows).double())
    sums[count] = 0
    centers = _unit(sums.numpy())
    return np.concatenate([(rows * centers[own[part]]).sum(axis=1) for part, rows in blocks(vectors, BLOCK)])


def by_size(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the same clusters from 0 by falling size, of equal ones the one that begins first; -1 stays."""
    values, first, counts = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    number = np.full(int(labels.max(initial=-1)) + 2, -1)  # the last one is that of -1
    number[values[np.lexsort((first, -counts))]] = np.arange(len(values))
    return number[labels]


def without_clusters(rows: NDArray[np.float32], draw: np.random.Generator) -> NDArray[np.float32]:
    """Draw (n, D) rows of length 1 that have no clusters: normal, with the mean and the covariance of the rows given.

    Args:
        rows: (n, D) of length 1.
    """
    mean = rows.mean(axis=0)
    noise = draw.standard_normal((len(rows), len(rows)), dtype=np.float32)
    return _unit(mean + noise @ (rows - mean) / math.sqrt(len(rows)))


def try_numbers(
    rows: NDArray[np.float32],
    draw: Callable[[int], np.random.Generator],
    candidates: Sequence[int] = TRIED,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[ClusterCountScore]:
    """Measure how far apart each number of clusters is, and how far where there are none.

    By the mean silhouette (Rousseeuw 1987) of cosine distances. Alone it falls with their number whatever the rows
    are like, so that two would nearly always be best; as in the gap statistic (Tibshirani et al. 2001) it is held
    against that of a reference.

    Args:
        rows: (n, D) of length 1, a sample.
        draw: from a number of clusters to its randomness; of 0: to that of the reference.

    Returns:
        As many as there are rows and different ones enough for.
    """
    from sklearn.metrics import silhouette_score

    wanted = [count for count in candidates if count * LEAST_ROWS <= len(rows)]
    arms = [rows, without_clusters(rows, draw(0))] if wanted else []
    distances = [_distances(arm) for arm in arms]
    found = []
    for done, count in enumerate(wanted, start=1):
        labels = [k_means(arm, count, draw(count)) for arm in arms]
        if all(len(np.unique(own)) == count for own in labels):
            means = [silhouette_score(*pair, metric="precomputed") for pair in zip(distances, labels, strict=True)]
            found.append(ClusterCountScore(count, *map(float, means)))
        progress(done, len(wanted))
    return found


def best_number(tried: Sequence[ClusterCountScore]) -> ClusterCountScore | None:
    """Return the one furthest above chance, of equals the first; None of none."""
    return max(tried, key=lambda one: one.silhouette - one.chance, default=None)


def hdbscan(vectors: Vectors, smallest: int) -> NDArray[np.int64]:
    """Cluster rows where they are dense; clusters may have any shape (Campello et al. 2013; 2015).

    By Euclidean distance, which orders unit rows as the cosine does, in at most MOST_DIMENSIONS principal components.

    Args:
        vectors: (N, D), rows of length 1.
        smallest: how many rows make a cluster, at least 2.

    Returns:
        (N,) labels from 0, as `by_size` numbers them; -1: in no cluster.
    """
    from sklearn.cluster import HDBSCAN

    if len(vectors) < smallest:
        return np.full(len(vectors), -1)
    rows, _ = principal_components(vectors, min(MOST_DIMENSIONS, vectors.shape[1]))
    found = HDBSCAN(min_cluster_size=smallest, min_samples=min(5, smallest), copy=True).fit_predict(rows)
    return by_size(found.astype(np.int64))


def _unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    length = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return np.asarray(rows / length, np.float32)


def _distances(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (n, n) 1 - cosine, exactly 0 of a row to itself."""
    distances = np.asarray(np.maximum(1 - rows @ rows.T, 0), np.float32)
    np.fill_diagonal(distances, 0)
    return distances
