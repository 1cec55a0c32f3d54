"""Exact nearest-neighbor search by cosine similarity, block by block.

Vectors are rows of length 1, so an inner product is a cosine. They need not fit in memory: a memory map is read once
per search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FIRST_BLOCK_ROWS = 1_024  # small: it sets the similarity that later rows must exceed; each next block doubles
MAX_SIMILARITIES_PER_BLOCK = 4_194_304  # 16 MB
MAX_QUERIES_PER_PASS = 512
NEIGHBOR_BLOCK_ROWS = 2_048  # a side of a block of similarities: 16 MB
FIRST_STEP_COLUMNS = 128  # few columns come first, so that the next ones have little to add
PAIR_BLOCK_ROWS = 1_024  # a side of a block of similarities: 4 MB
OUTLINE_DIMENSIONS = 63  # directions with most of the length, in which pairs are compared first
OUTLINE_SAMPLE_ROWS = 8_192  # from which the directions are computed
ROUNDING = 1e-5  # largest float32 error of a bound
MIN_ROWS_TO_CENTER = 10  # the mean of fewer says little, and of one or two leaves nothing
MIN_SQUARED_LENGTH = 1e-6  # of a centered row, below which it is rounding errors


class Vectors(Protocol):
    """Rows (N, D) float32, read by slices: an array, a memory map, or an index."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N and D."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> NDArray[np.float32]: ...


def normalize_rows(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale (N, D) rows to length 1; a row of zeros stays as it is."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32)


def compute_mean(vectors: Vectors) -> NDArray[np.float32]:
    """Compute the mean (D,) to subtract; 0 of fewer than MIN_ROWS_TO_CENTER rows."""
    count, width = vectors.shape
    total = np.zeros(width)
    if count >= MIN_ROWS_TO_CENTER:
        for _, rows in iterate_blocks(vectors, FIRST_BLOCK_ROWS):
            total += rows.sum(axis=0, dtype=np.float64)
    return np.asarray(total / max(1, count), np.float32)


def center_rows(rows: NDArray[np.floating], mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """Subtract a mean (D,) from (N, D) rows, and scale them to length 1."""
    return normalize_rows(rows - mean)


def iterate_blocks(vectors: Vectors, size: int) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield all rows in blocks of at most `size`: their slice and the rows."""
    for start in range(0, len(vectors), size):
        part = slice(start, start + size)
        yield part, vectors[part]


def find_nearest(
    vectors: Vectors,
    queries: NDArray[np.float32],
    top: int,
    among: NDArray[np.bool_] | None = None,
    mean: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the `top` most similar rows of each query, of equal ones the earlier.

    Args:
        vectors: (N, D), rows of length 1.
        queries: (Q, D), rows of length 1.
        among: (N,) True for rows that may be found; None: all.
        mean: (D,) to subtract from the vectors before they are compared; the queries are centered already.

    Returns:
        Similarities (Q, k) float32, -1 to 1, descending, and row numbers (Q, k) int64. k is the smaller of `top` and
        the number of rows that may be found.
    """
    count = len(vectors) if among is None else int(among.sum())
    top = min(top, count)
    similarities = np.empty((len(queries), top), np.float32)
    rows = np.empty((len(queries), top), np.int64)
    for start in range(0, len(queries), MAX_QUERIES_PER_PASS):
        part = slice(start, start + MAX_QUERIES_PER_PASS)
        batch = torch.from_numpy(np.ascontiguousarray(queries[part], np.float32))
        similarities[part], rows[part] = _find_nearest(vectors, batch, top, among, mean)
    return similarities, rows


def _find_nearest(
    vectors: Vectors, queries: Tensor, top: int, among: NDArray[np.bool_] | None, mean: NDArray[np.float32] | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    best = torch.full((len(queries), top), -torch.inf)
    best_rows = torch.full((len(queries), top), -1, dtype=torch.int64)
    start, block = 0, FIRST_BLOCK_ROWS
    while start < len(vectors) and top:
        rows = torch.from_numpy(vectors[slice(start, start + block)])
        similarity = rows.mv(queries[0])[None] if len(queries) == 1 else queries @ rows.T
        if mean is not None:
            similarity = _center_similarity(similarity, queries, rows, torch.from_numpy(mean))
        if among is not None:
            similarity[:, ~torch.from_numpy(among[start : start + block])] = -torch.inf
        query, row = (similarity > best[:, -1:]).nonzero(as_tuple=True)
        if len(query):
            best, best_rows = merge_candidates(best, best_rows, query, row + start, similarity[query, row])
        start += len(rows)
        block = min(2 * block, max(FIRST_BLOCK_ROWS, MAX_SIMILARITIES_PER_BLOCK // len(queries)))
    return best.numpy(), best_rows.numpy()


def _center_similarity(similarity: Tensor, queries: Tensor, rows: Tensor, mean: Tensor) -> Tensor:
    """Return the cosines of centered queries with rows - mean, from the inner products with the rows (n, D)."""
    squared_lengths = 1 - 2 * rows.mv(mean) + mean.dot(mean)
    lengths = squared_lengths.clamp(min=MIN_SQUARED_LENGTH).sqrt()
    return ((similarity - queries.mv(mean)[:, None]) / lengths).clamp(-1, 1)


def merge_candidates(
    best: Tensor, best_rows: Tensor, query: Tensor, row: Tensor, similarity: Tensor
) -> tuple[Tensor, Tensor]:
    """Merge candidates into the best similarities and their rows.

    Args:
        best, best_rows: (Q, k), descending.
        query, row, similarity: (n,) one candidate each, ordered by query and row.
    """
    k = best.shape[1]
    counts = torch.bincount(query, minlength=len(best))
    column = torch.arange(len(query)) - (counts.cumsum(0) - counts)[query] + k
    width = k + int(counts.max())
    similarities = torch.full((len(best), width), -torch.inf)
    rows = torch.full((len(best), width), -1, dtype=torch.int64)
    similarities[:, :k], rows[:, :k] = best, best_rows
    similarities[query, column], rows[query, column] = similarity, row
    order = similarities.argsort(dim=1, descending=True, stable=True)[:, :k]
    return similarities.gather(1, order), rows.gather(1, order)


def find_neighbors(
    vectors: Vectors,
    neighbors: int,
    places: NDArray[np.int64] | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the nearest neighbors of all rows; each pair of blocks is multiplied once, for the rows of both.

    A row is excluded from its own neighbors by its number, so equal rows stay among them.

    Args:
        vectors: (N, D), rows of length 1.
        neighbors: k, at most the number of the other rows.
        places: (M,) row numbers to compare, ascending; None: all.
        progress: called with the number of finished rows and their total.

    Returns:
        Cosines (M, k) float32, descending, of equal ones the earlier row first; and the neighbors (M, k) int64 as
        indices into the M rows.
    """
    places = np.arange(len(vectors)) if places is None else places
    k = max(0, min(neighbors, len(places) - 1))
    best = torch.full((len(places), k), -torch.inf)
    best_rows = torch.full((len(places), k), -1, dtype=torch.int64)
    for first in range(0, len(places) if k else 0, NEIGHBOR_BLOCK_ROWS):
        rows = _read_rows(vectors, places[first : first + NEIGHBOR_BLOCK_ROWS])
        for second in range(first, len(places), NEIGHBOR_BLOCK_ROWS):
            columns = rows if second == first else _read_rows(vectors, places[second : second + NEIGHBOR_BLOCK_ROWS])
            similarity = rows @ columns.T
            if second == first:
                similarity.fill_diagonal_(-torch.inf)
            else:
                _update_best(best, best_rows, second, similarity.T, first)
            _update_best(best, best_rows, first, similarity, second)
        progress(min(first + NEIGHBOR_BLOCK_ROWS, len(places)), len(places))
    return best.numpy(), best_rows.numpy()


def _read_rows(vectors: Vectors, places: NDArray[np.int64]) -> Tensor:
    """Return (n, D) rows that are close to one another in the file."""
    first = int(places[0])
    return torch.from_numpy(vectors[slice(first, int(places[-1]) + 1)][places - first])


def _update_best(best: Tensor, best_rows: Tensor, first: int, similarity: Tensor, second: int) -> None:
    """Merge (n, m) similarities of the rows from `first` on to the rows from `second` on into the best, in place."""
    block = slice(first, first + len(similarity))
    is_unfilled = bool((best[block, -1] == -torch.inf).any())
    start, step = 0, FIRST_STEP_COLUMNS if is_unfilled else similarity.shape[1]
    while start < similarity.shape[1]:
        part = similarity[:, start : start + step]
        improved = (part.amax(dim=1) > best[block, -1]).nonzero().squeeze(1)
        if len(improved):
            candidates, rows = part[improved], improved + first
            query, column = (candidates > best[rows, -1:]).nonzero(as_tuple=True)
            best[rows], best_rows[rows] = merge_candidates(
                best[rows], best_rows[rows], query, column + second + start, candidates[query, column]
            )
        start, step = start + step, 2 * step


def find_similar_pairs(
    vectors: Vectors, threshold: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """Find all pairs of rows with at least a similarity, block by block.

    Exact, and faster than a comparison of all rows. A block is compared by outlines first, whose inner products are
    never less than those of the rows. Only pairs whose outlines reach the threshold are compared in full.

    Args:
        vectors: (N, D), rows of length 1.

    Yields:
        Row numbers i and j of n pairs, i < j, and their similarities.
    """
    outlines = _compute_outlines(vectors)
    for first in range(0, len(vectors), PAIR_BLOCK_ROWS):
        rows = torch.from_numpy(vectors[slice(first, first + PAIR_BLOCK_ROWS)])
        for second in range(first, len(vectors), PAIR_BLOCK_ROWS):
            bound = outlines[first : first + PAIR_BLOCK_ROWS] @ outlines[second : second + PAIR_BLOCK_ROWS].T
            if second == first:
                bound = bound.triu(1) - torch.ones_like(bound).tril() * 2
            candidates = (bound.amax(dim=1) >= threshold - ROUNDING).nonzero()[:, 0]
            if not len(candidates):
                continue
            i, j = (bound[candidates] >= threshold - ROUNDING).nonzero(as_tuple=True)
            i, columns = candidates[i], torch.from_numpy(vectors[slice(second, second + PAIR_BLOCK_ROWS)])
            is_dense = len(i) * 64 > bound.numel()  # then one matrix product is faster
            similarity = (rows @ columns.T)[i, j] if is_dense else (rows[i] * columns[j]).sum(dim=1)
            is_pair = similarity >= threshold
            if is_pair.any():
                yield (i[is_pair] + first).numpy(), (j[is_pair] + second).numpy(), similarity[is_pair].numpy()


def _compute_outlines(vectors: Vectors) -> Tensor:
    """Compute (N, k) outlines: the inner product of two is at least that of their vectors.

    The first k - 1 numbers are the vector in the k - 1 directions with most of the length of all vectors. The last is
    the length of the remainder, since x . y <= a . b + |remainder of x| |remainder of y| (Cauchy and Schwarz).
    """
    count, width = vectors.shape
    if width <= 2 * OUTLINE_DIMENSIONS or count <= 2 * PAIR_BLOCK_ROWS:
        return torch.from_numpy(vectors[slice(0, count)])
    starts = range(0, count, max(PAIR_BLOCK_ROWS, count * PAIR_BLOCK_ROWS // OUTLINE_SAMPLE_ROWS))
    sample = torch.from_numpy(np.concatenate([vectors[slice(start, start + PAIR_BLOCK_ROWS)] for start in starts]))
    directions = torch.linalg.eigh((sample.T @ sample).double())[1][:, -OUTLINE_DIMENSIONS:].float()
    outlines = torch.empty((count, OUTLINE_DIMENSIONS + 1))
    for part, block in iterate_blocks(vectors, PAIR_BLOCK_ROWS):
        rows = torch.from_numpy(block)
        along = rows @ directions
        remainder = (rows.square().sum(dim=1) - along.square().sum(dim=1)).clamp(min=0) + ROUNDING / 10
        outlines[part] = torch.cat([along, remainder.sqrt()[:, None]], dim=1)
    return outlines
