"""Exact search by cosine similarity: every vector is compared, block by block, so that a memory map is read once.

Vectors are rows of length 1, so that an inner product is a cosine. What is searched need not fit in memory: anything
that gives its rows by slices will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FIRST_BLOCK = 1_024  # rows; the first block tells what the next ones must exceed, and each is twice as long
SCORES = 4_194_304  # similarities computed at once, at most: 16 MB
MOST_QUERIES = 512  # at once
BLOCK = 2_048  # rows a side of a block of rows and their neighbors: 16 MB of similarities
FIRST_STEP = 128  # rows, the first that a row is compared to; what is nearer than they are is little
PAIRED = 1_024  # rows a side of a block of pairs: 4 MB of similarities
OUTLINED = 63  # dimensions of most of the length, by which pairs are compared first
SAMPLED = 8_192  # rows that say which dimensions those are
ROUNDING = 1e-5  # that float32 may be off by in a bound


class Vectors(Protocol):
    """(N, D) float32 rows, read by slices: an array, a memory map, or an index."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N and D."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> NDArray[np.float32]: ...


def blocks(vectors: Vectors, size: int) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """All rows, so many at a time, and which ones they are."""
    for start in range(0, len(vectors), size):
        part = slice(start, start + size)
        yield part, vectors[part]


def nearest(
    vectors: Vectors, queries: NDArray[np.float32], top: int, among: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `top` most similar rows of each query; of equal ones the earlier.

    Args:
        vectors: (N, D), rows of length 1.
        queries: (Q, D), rows of length 1.
        among: (N,) which rows may be found; None: all.

    Returns:
        Similarities (Q, k) float32, -1 to 1, falling, and places (Q, k) int64; k is the least of `top` and the rows
        that may be found.
    """
    count = len(vectors) if among is None else int(among.sum())
    top = min(top, count)
    similarities = np.empty((len(queries), top), np.float32)
    places = np.empty((len(queries), top), np.int64)
    for start in range(0, len(queries), MOST_QUERIES):
        part = slice(start, start + MOST_QUERIES)
        chosen = torch.from_numpy(np.ascontiguousarray(queries[part], np.float32))
        similarities[part], places[part] = _nearest(vectors, chosen, top, among)
    return similarities, places


def _nearest(
    vectors: Vectors, queries: Tensor, top: int, among: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    best = torch.full((len(queries), top), -torch.inf)
    where = torch.full((len(queries), top), -1, dtype=torch.int64)
    start, block = 0, FIRST_BLOCK
    while start < len(vectors) and top:
        rows = torch.from_numpy(vectors[slice(start, start + block)])
        similarity = rows.mv(queries[0])[None] if len(queries) == 1 else queries @ rows.T
        if among is not None:
            similarity[:, ~torch.from_numpy(among[start : start + block])] = -torch.inf
        found, place = (similarity > best[:, -1:]).nonzero(as_tuple=True)
        if len(found):
            best, where = merged(best, where, found, place + start, similarity[found, place])
        start += len(rows)
        block = min(2 * block, max(FIRST_BLOCK, SCORES // len(queries)))
    return best.numpy(), where.numpy()


def merged(best: Tensor, where: Tensor, found: Tensor, place: Tensor, similarity: Tensor) -> tuple[Tensor, Tensor]:
    """The best, (q, k) each, with some more in them: of every one its query, place and similarity, in order."""
    counts = torch.bincount(found, minlength=len(best))
    column = torch.arange(len(found)) - (counts.cumsum(0) - counts)[found] + best.shape[1]
    width = best.shape[1] + int(counts.max())
    wide = torch.full((len(best), width), -torch.inf)
    places = torch.full((len(best), width), -1, dtype=torch.int64)
    wide[:, : best.shape[1]], places[:, : best.shape[1]] = best, where
    wide[found, column], places[found, column] = similarity, place
    order = wide.argsort(dim=1, descending=True, stable=True)[:, : best.shape[1]]
    return wide.gather(1, order), places.gather(1, order)


def nearest_others(
    vectors: Vectors,
    neighbors: int,
    places: NDArray[np.int64] | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The nearest others of all rows at once: each pair of blocks is compared once, for the rows of both.

    A row is left out of its own neighbors by its place, so that its copies stay among them.

    Args:
        vectors: (N, D), rows of length 1.
        neighbors: k, or the number of the others if that is less.
        places: (M,) which rows, rising; None: all.
        progress: told how many rows are done, of how many.

    Returns:
        Cosines (M, k) float32, falling, of equal ones the earlier row first; and which of the M rows (M, k) int64.
    """
    places = np.arange(len(vectors)) if places is None else places
    k = max(0, min(neighbors, len(places) - 1))
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


def pairs_above(
    vectors: Vectors, threshold: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """All pairs of rows that are at least so similar, block by block.

    Exact, and quicker than comparing all of all rows: a block is compared by outlines first, whose inner products are
    never less than the rows' own, and only the pairs that these leave are compared whole.

    Args:
        vectors: (N, D), rows of length 1.

    Yields:
        Places i and j of n pairs, i < j, and their similarities.
    """
    outlines = _outlines(vectors)
    for first in range(0, len(vectors), PAIRED):
        rows = torch.from_numpy(vectors[slice(first, first + PAIRED)])
        for second in range(first, len(vectors), PAIRED):
            bound = outlines[first : first + PAIRED] @ outlines[second : second + PAIRED].T
            if second == first:
                bound = bound.triu(1) - torch.ones_like(bound).tril() * 2
            hopeful = (bound.amax(dim=1) >= threshold - ROUNDING).nonzero()[:, 0]
            if not len(hopeful):
                continue
            i, j = (bound[hopeful] >= threshold - ROUNDING).nonzero(as_tuple=True)
            i, others = hopeful[i], torch.from_numpy(vectors[slice(second, second + PAIRED)])
            many = len(i) * 64 > bound.numel()  # so many pairs that a product of matrices is quicker
            similarity = (rows @ others.T)[i, j] if many else (rows[i] * others[j]).sum(dim=1)
            found = similarity >= threshold
            if found.any():
                yield (i[found] + first).numpy(), (j[found] + second).numpy(), similarity[found].numpy()


def _outlines(vectors: Vectors) -> Tensor:
    """(N, k) a row for each vector, such that the inner product of two is at least that of their vectors.

    The first k - 1 numbers are the vector's in the directions that hold most of all vectors' lengths; the last is the
    length of what is left, since x . y <= a . b + |rest of x| |rest of y| (Cauchy and Schwarz).
    """
    count, width = vectors.shape
    if width <= 2 * OUTLINED or count <= 2 * PAIRED:
        return torch.from_numpy(vectors[slice(0, count)])
    starts = range(0, count, max(PAIRED, count * PAIRED // SAMPLED))
    sample = torch.from_numpy(np.concatenate([vectors[slice(start, start + PAIRED)] for start in starts]))
    directions = torch.linalg.eigh((sample.T @ sample).double())[1][:, -OUTLINED:].float()
    outlines = torch.empty((count, OUTLINED + 1))
    for part, block in blocks(vectors, PAIRED):
        rows = torch.from_numpy(block)
        along = rows @ directions
        left = (rows.square().sum(dim=1) - along.square().sum(dim=1)).clamp(min=0) + ROUNDING / 10
        outlines[part] = torch.cat([along, left.sqrt()[:, None]], dim=1)
    return outlines
