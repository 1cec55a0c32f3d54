"""The nearest others of every row, by comparing all rows with one another, block by block."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simclr_cli.engine.search import Vectors, merged

BLOCK = 2_048  # rows a side of a block of pairs: 16 MB of similarities
FIRST_STEP = 128  # rows, the first that a row is compared to; what is nearer than they are is little


def nearest_others(
    vectors: Vectors,
    neighbours: int,
    places: NDArray[np.int64] | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The nearest others of all rows at once: each pair of blocks is compared once, for the rows of both.

    A row is left out of its own neighbours by its place, so that its copies stay among them.

    Args:
        vectors: (N, D), rows of length 1.
        neighbours: k, or the number of the others if that is less.
        places: (M,) which rows, rising; None: all.
        progress: told how many rows are done, of how many.

    Returns:
        Cosines (M, k) float32, falling, of equal ones the earlier row first; and which of the M rows (M, k) int64.
    """
    places = np.arange(len(vectors)) if places is None else places
    k = max(0, min(neighbours, len(places) - 1))
    best = torch.full((len(places), k), -torch.inf)
    where = torch.full((len(places), k), -1, dtype=torch.int64)
    for first in range(0, len(places) if k else 0, BLOCK):
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
