"""Clustering by scikit-learn: k-means, the number of clusters, and HDBSCAN."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from simclr_cli.api import ClusterCountScore
from simclr_cli.engine.layout import compute_principal_components
from simclr_cli.engine.nearest import Vectors, iterate_blocks, normalize_rows

BLOCK_ROWS = 8_192
MAX_SAMPLE_ROWS, SAMPLE_ROWS_PER_CLUSTER = 20_000, 50  # k-means is fitted on at most the larger number
STARTS = 2  # of k-means; the best is used
MIN_ROWS_PER_CLUSTER = 4  # on average, for a number of clusters to be scored
CANDIDATE_COUNTS = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)
MAX_HDBSCAN_DIMENSIONS = 50  # in more, all densities are similar and the search for neighbors is slow


def k_means(vectors: Vectors, count: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """Cluster rows by the directions of cluster means (spherical k-means, Dhillon & Modha 2001).

    scikit-learn's k-means computes the means, from a random sample of many rows. Every row is then assigned to the
    most similar mean, block by block, so the vectors need not fit in memory.

    Args:
        vectors: (N, D), rows of length 1.
        count: number of clusters; there are fewer if there are fewer distinct rows.

    Returns:
        (N,) labels from 0, numbered by `number_by_size`.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    sample = sample_rows(vectors, max(MAX_SAMPLE_ROWS, SAMPLE_ROWS_PER_CLUSTER * count), draw)
    seed = int(draw.integers(2**32))
    model = KMeans(min(count, len(sample)), n_init=STARTS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        model.fit(sample.astype(np.float64))  # the order in which threads add must not change a label
    centers = normalize_rows(model.cluster_centers_)
    labels = [(rows @ centers.T).argmax(axis=1) for _, rows in iterate_blocks(vectors, BLOCK_ROWS)]
    return number_by_size(np.concatenate(labels))


def sample_rows(vectors: Vectors, max_rows: int, draw: np.random.Generator) -> NDArray[np.float32]:
    """Draw (n, D) at most `max_rows` random rows, in their order."""
    if len(vectors) <= max_rows:
        return vectors[slice(0, len(vectors))]
    numbers = np.sort(draw.choice(len(vectors), max_rows, replace=False)).tolist()
    return np.concatenate([vectors[slice(number, number + 1)] for number in numbers])


def compute_center_similarity(vectors: Vectors, labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Compute (N,) the cosine of each row to the mean of its cluster; 0 for a row without a cluster.

    Args:
        vectors: (N, D), rows of length 1.
        labels: (N,) from 0; -1: no cluster.
    """
    count = int(labels.max(initial=-1)) + 1
    clusters = np.where(labels < 0, count, labels)
    sums = torch.zeros(count + 1, vectors.shape[1], dtype=torch.float64)  # the last one is of rows without a cluster
    for part, rows in iterate_blocks(vectors, BLOCK_ROWS):
        sums.index_add_(0, torch.from_numpy(clusters[part]), torch.from_numpy(rows).double())
    sums[count] = 0
    centers = normalize_rows(sums.numpy())
    cosines = [(rows * centers[clusters[part]]).sum(axis=1) for part, rows in iterate_blocks(vectors, BLOCK_ROWS)]
    return np.concatenate(cosines)


def number_by_size(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the clusters from 0 by descending size, equal ones by their first row; -1 stays."""
    values, first, counts = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    number = np.full(int(labels.max(initial=-1)) + 2, -1)  # the last one maps -1
    number[values[np.lexsort((first, -counts))]] = np.arange(len(values))
    return number[labels]


def draw_reference(rows: NDArray[np.float32], draw: np.random.Generator) -> NDArray[np.float32]:
    """Draw (n, D) rows of length 1 without clusters: normal, with the mean and covariance of the given rows.

    Args:
        rows: (n, D) of length 1.
    """
    mean = rows.mean(axis=0)
    noise = draw.standard_normal((len(rows), len(rows)), dtype=np.float32)
    return normalize_rows(mean + noise @ (rows - mean) / math.sqrt(len(rows)))


def score_cluster_counts(
    rows: NDArray[np.float32],
    draw: Callable[[int], np.random.Generator],
    candidates: Sequence[int] = CANDIDATE_COUNTS,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[ClusterCountScore]:
    """Measure how well each number of clusters separates the rows, and rows without clusters.

    The measure is the mean silhouette (Rousseeuw 1987) of cosine distances. It falls with the number of clusters
    whatever the rows are, so 2 would nearly always be best. As in the gap statistic (Tibshirani et al. 2001), it is
    therefore compared with that of a reference.

    Args:
        rows: (n, D) of length 1, a sample.
        draw: returns the random generator of a number of clusters, or of the reference for 0.

    Returns:
        Scores of the candidates for which there are enough distinct rows.
    """
    from sklearn.metrics import silhouette_score

    counts = [count for count in candidates if count * MIN_ROWS_PER_CLUSTER <= len(rows)]
    samples = [rows, draw_reference(rows, draw(0))] if counts else []
    distances = [_compute_distances(sample) for sample in samples]
    scores = []
    for done, count in enumerate(counts, start=1):
        labelings = [k_means(sample, count, draw(count)) for sample in samples]
        if all(len(np.unique(labels)) == count for labels in labelings):
            pairs = zip(distances, labelings, strict=True)
            scores.append(ClusterCountScore(count, *(float(silhouette_score(*p, metric="precomputed")) for p in pairs)))
        progress(done, len(counts))
    return scores


def choose_cluster_count(scores: Sequence[ClusterCountScore]) -> ClusterCountScore | None:
    """Return the score furthest above chance, of equal ones the first; None if there are none."""
    return max(scores, key=lambda score: score.silhouette - score.chance, default=None)


def hdbscan(vectors: Vectors, min_cluster_size: int) -> NDArray[np.int64]:
    """Cluster dense rows; clusters may have any shape (Campello et al. 2013; 2015).

    The distance is Euclidean, which orders rows of length 1 as the cosine does, in at most MAX_HDBSCAN_DIMENSIONS
    principal components.

    Args:
        vectors: (N, D), rows of length 1.
        min_cluster_size: in rows, at least 2.

    Returns:
        (N,) labels from 0, numbered by `number_by_size`; -1: no cluster.
    """
    from sklearn.cluster import HDBSCAN

    if len(vectors) < min_cluster_size:
        return np.full(len(vectors), -1)
    rows, _ = compute_principal_components(vectors, min(MAX_HDBSCAN_DIMENSIONS, vectors.shape[1]))
    min_samples = min(5, min_cluster_size)
    labels = HDBSCAN(min_cluster_size=min_cluster_size, min_samples=min_samples, copy=True).fit_predict(rows)
    return number_by_size(labels.astype(np.int64))


def _compute_distances(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute (n, n) 1 - cosine, exactly 0 on the diagonal."""
    distances = np.asarray(np.maximum(1 - rows @ rows.T, 0), np.float32)
    np.fill_diagonal(distances, 0)
    return distances
