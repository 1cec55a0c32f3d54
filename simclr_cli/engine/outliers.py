"""Outlier scores: the distance of each row to its nearest neighbors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simclr_cli.engine.nearest import Vectors, find_neighbors

NORMAL_MAD = 1.4826  # the standard deviation of a normal distribution over its median absolute deviation


@dataclass(frozen=True, eq=False)
class OutlierScores:
    """Scores of M rows that were compared with one another."""

    places: NDArray[np.int64]  # (M,) row numbers, ascending
    score: NDArray[np.float32]  # (M,) 1 - mean cosine to the nearest neighbors, 0 to 2; outliers have large ones
    nearest: NDArray[np.int64]  # (M,) row number of the nearest neighbor
    similarity: NDArray[np.float32]  # (M,) cosine to it
    neighbors: int  # k


def score_outliers(
    vectors: Vectors,
    neighbors: int,
    among: NDArray[np.bool_] | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> OutlierScores:
    """Compute the exact distance of each row to its nearest neighbors.

    Points with distant neighbors are outliers: Ramaswamy et al., SIGMOD 2000 (there by the k-th distance); for
    normalized features of a deep network: Sun et al. 2022 (2204.06507), section 3. This uses the mean of the k
    distances (Angiulli & Pizzuti 2002), which one near-duplicate changes less.

    A row is excluded from its own neighbors by its number, so equal rows count as neighbors. Use `among` to exclude
    duplicates, which would otherwise never be outliers.

    Args:
        vectors: (N, D), rows of length 1.
        neighbors: k, at most the number of the other rows.
        among: (N,) True for rows to compare, at least two; None: all.
        progress: called with the number of finished rows and their total.
    """
    places = np.arange(len(vectors)) if among is None else np.flatnonzero(among)
    similarity, nearest = find_neighbors(vectors, neighbors, places, progress)
    score = 1 - similarity.mean(axis=1)
    return OutlierScores(places, score, places[nearest[:, 0]], similarity[:, 0], similarity.shape[1])


def compute_robust_z_scores(score: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Compute (M,) modified z-scores (Iglewicz & Hoaglin 1993); None if half of the scores are equal.

    They are the distance above the median in robust standard deviations. Outliers are those above 3.5.
    """
    deviation = score - np.median(score)
    mad = float(np.median(np.abs(deviation)))
    return deviation.astype(np.float64) / (NORMAL_MAD * mad) if mad > 0 else None


def compute_percentiles(score: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute (M,) the percentage of the other scores that are smaller."""
    below = np.searchsorted(np.sort(score), score, side="left")
    return 100 * below / max(1, len(score) - 1)
