"""How unlike all others each row is: its distance to its nearest neighbors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simclr_cli.engine.nearest import Vectors, nearest_others

NORMAL_MAD = 1.4826  # the standard deviation of a normal distribution over its median absolute deviation


@dataclass(frozen=True, eq=False)
class Oddness:
    """Of M rows that were compared with one another."""

    places: NDArray[np.int64]  # (M,) which rows, rising
    score: NDArray[np.float32]  # (M,) 1 - mean cosine to the nearest others: 0 to 2, large is odd
    nearest: NDArray[np.int64]  # (M,) place of the nearest other
    similarity: NDArray[np.float32]  # (M,) cosine to it
    neighbors: int  # how many were looked at


def oddness(
    vectors: Vectors,
    neighbors: int,
    among: NDArray[np.bool_] | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Oddness:
    """Distance of each row to its nearest others, exact.

    That a point is an outlier if its neighbors are far is Ramaswamy et al., SIGMOD 2000 (there the k-th distance); of
    normalized features of a deep network: Sun et al. 2022 (2204.06507), section 3. The mean of the k distances
    (Angiulli & Pizzuti 2002) is used here, which one near copy changes less.

    A row is left out of its own neighbors by its place, so that an equal row counts as a neighbor. What is there
    more than once must be taken out by `among` if it is not to look at home among its copies.

    Args:
        vectors: (N, D), rows of length 1.
        neighbors: k; at most the number of the other rows is used.
        among: (N,) which rows are compared, at least two; None: all.
        progress: told how many rows are done, of how many.
    """
    places = np.arange(len(vectors)) if among is None else np.flatnonzero(among)
    similarity, where = nearest_others(vectors, neighbors, places, progress)
    score = 1 - similarity.mean(axis=1)
    return Oddness(places, score, places[where[:, 0]], similarity[:, 0], similarity.shape[1])


def robust_z(score: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """(M,) how many robust standard deviations over the median each one is; None where half of them are equal.

    The modified z-score of Iglewicz & Hoaglin 1993, who take more than 3.5 for an outlier.
    """
    away = score - np.median(score)
    mad = float(np.median(np.abs(away)))
    return away.astype(np.float64) / (NORMAL_MAD * mad) if mad > 0 else None


def percent_below(score: NDArray[np.float32]) -> NDArray[np.float64]:
    """(M,) percent of the others whose score is smaller."""
    below = np.searchsorted(np.sort(score), score, side="left")
    return 100 * below / max(1, len(score) - 1)
