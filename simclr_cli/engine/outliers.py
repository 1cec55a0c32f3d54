"""How unlike all others each row is: its distance to its nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simclr_cli.engine.search import Vectors, merged

BLOCK = 2_048  # rows a side of a block of pairs: 16 MB of similarities
FIRST_STEP = 128  # rows, the first that a row is compared to; what is nearer than they are is little
NORMAL_MAD = 1.4826  # the standard deviation of a normal distribution over its median absolute deviation


@dataclass(frozen=True, eq=False)
class Oddness:
    """Of M rows that were compared with one another."""

    places: NDArray[np.int64]  # (M,) which rows, rising
    score: NDArray[np.float32]  # (M,) 1 - mean cosine to the nearest others: 0 to 2, large is odd
    nearest: NDArray[np.int64]  # (M,) place of the nearest other
    similarity: NDArray[np.float32]  # (M,) cosine to it
    neighbours: int  # how many were looked at


def oddness(
    vectors: Vectors,
    neighbours: int,
    among: NDArray[np.bool_] | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Oddness:
    """Distance of each row to its nearest others, exact.

    That a point is an outlier if its neighbours are far is Ramaswamy et al., SIGMOD 2000 (there the k-th distance); of
    normalised features of a deep network: Sun et al. 2022 (2204.06507), section 3. The mean of the k distances
    (Angiulli & Pizzuti 2002) is used here, which one near copy changes less.

    A row is left out of its own neighbours by its place, so that an equal row counts as a neighbour. What is there
    more than once must be taken out by `among` if it is not to look at home among its copies.

    Args:
        vectors: (N, D), rows of length 1.
        neighbours: k; at most the number of the other rows is used.
        among: (N,) which rows are compared, at least two; None: all.
        progress: told how many rows are done, of how many.
    """
    places = np.arange(len(vectors)) if among is None else np.flatnonzero(among)
    similarity, where = nearest_others(vectors, places, neighbours, progress)
    score = 1 - similarity.mean(axis=1)
    return Oddness(places, score, places[where[:, 0]], similarity[:, 0], similarity.shape[1])


def nearest_others(
    vectors: Vectors, places: NDArray[np.int64], neighbours: int, progress: Callable[[int, int], None]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The nearest others of all rows at once: each pair of blocks is compared once, for the rows of both.

    Args:
        vectors: (N, D), rows of length 1.
        places: (M,) which rows, rising, at least two.
        neighbours: k, or the number of the others if that is less.

    Returns:
        Cosines (M, k) float32, falling, of equal ones the earlier row first; and which of the M rows (M, k) int64.
    """
    k = min(neighbours, len(places) - 1)
    best = torch.full((len(places), k), -torch.inf)
    where = torch.full((len(places), k), -1, dtype=torch.int64)
    for first in range(0, len(places), BLOCK):
        rows = _rows(vectors, places[first : first + BLOCK])
        for second in range(first, len(places), BLOCK):
            others = rows if second == first else _rows(vectors, places[second : second + BLOCK])
            similarity = rows @ others.T
            if second == first:
                similarity.fill_diagonal_(-torch.inf)
            else:
                _take(best, where, second, similarity.T, first)
            _take(best, where, first, similarity, second)
        progress(min(first + BLOCK, len(places)), len(places))
    return best.numpy(), where.numpy()


def _rows(vectors: Vectors, places: NDArray[np.int64]) -> Tensor:
    """(n, D) some rows that are near one another in the file."""
    first = int(places[0])
    return torch.from_numpy(vectors[slice(first, int(places[-1]) + 1)][places - first])


def _take(best: Tensor, where: Tensor, first: int, similarity: Tensor, second: int) -> None:
    """Put what is nearer into the best (M, k) of the rows from `first` on, given (n, m) similarities to those from
    `second` on."""
    own = slice(first, first + len(similarity))
    start, step = 0, FIRST_STEP if bool((best[own, -1] == -torch.inf).any()) else similarity.shape[1]
    while start < similarity.shape[1]:
        part = similarity[:, start : start + step]
        rows = (part.amax(dim=1) > best[own, -1]).nonzero().squeeze(1)  # the others have nothing to gain
        if len(rows):
            chosen, at = part[rows], rows + first
            found, place = (chosen > best[at, -1:]).nonzero(as_tuple=True)
            best[at], where[at] = merged(best[at], where[at], found, place + second + start, chosen[found, place])
        start, step = start + step, 2 * step


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
