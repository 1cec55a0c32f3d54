"""Rows that belong together: spherical k-means, in blocks, so that the vectors need not fit in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from simclr_cli.engine.search import Vectors

BLOCK = 8_192  # rows at once
SAMPLE = 10_000  # rows on which starts are tried
STARTS = 3  # of which the best goes on
MOST_ROUNDS = 100
SETTLED = 1e-5  # a round that adds no more than this to the mean similarity is the last
APART = 1e-6  # a cosine of 1 less this is that of equal rows


@dataclass(frozen=True, eq=False)
class Assigned:
    """What one pass over the rows gives: which centre each is nearest to."""

    labels: Tensor  # (N,) int64
    similarity: Tensor  # (N,) float32, cosine to the own centre
    sums: Tensor  # (k, D) float64, of the rows of each cluster
    counts: Tensor  # (k,) int64


def k_means(
    vectors: Vectors, count: int, generator: torch.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Spherical k-means (Dhillon & Modha 2001): clusters whose rows are similar to the direction of their mean.

    Starts by k-means++ (Arthur & Vassilvitskii 2007) are tried on a random sample of the rows; the best goes on with
    all of them, by Lloyd's rounds. An empty cluster is given the row that fits its own the least.

    Args:
        vectors: (N, D), rows of length 1.
        count: how many clusters; fewer are found where there are fewer different rows.

    Returns:
        Labels (N,) int64 from 0 to k - 1, each of them used; centres (k, D) float32, rows of length 1; and the cosine
        of each row to its own centre (N,) float32.
    """
    sample = sampled(vectors, SAMPLE, generator)
    tried = [_settle(sample, plus_plus(sample, count, generator)) for _ in range(STARTS)]
    best = max(tried, key=lambda pair: float(pair[0].similarity.mean()))
    done, centres = best if len(sample) == len(vectors) else _settle(vectors, best[1])
    return done.labels.numpy(), centres.numpy(), done.similarity.numpy()


def sampled(vectors: Vectors, most: int, generator: torch.Generator) -> NDArray[np.float32]:
    """(n, D) `most` random rows in the order of the rows, or all where there are no more."""
    if len(vectors) <= most:
        return vectors[slice(0, len(vectors))]
    places = torch.randperm(len(vectors), generator=generator)[:most].sort().values.tolist()
    return np.concatenate([vectors[slice(place, place + 1)] for place in places])


def plus_plus(rows: NDArray[np.float32], count: int, generator: torch.Generator) -> Tensor:
    """(k, D) rows to begin with, far from one another: greedy k-means++.

    Each is drawn by its squared distance to those before (Arthur & Vassilvitskii 2007, section 2.2), which of unit
    vectors is 2 - 2 cosine; of 2 + log k draws the one that leaves the least distance is taken (their last section).
    k is at most the number of different rows.

    Args:
        rows: (N, D) of length 1.
    """
    x = torch.from_numpy(rows)
    chosen = [int(torch.randint(len(x), (), generator=generator))]
    distance = torch.full((len(x),), torch.inf)
    while True:
        distance = torch.minimum(distance, _distance(x, x[chosen[-1:]])[:, 0])
        if len(chosen) == count or not bool(distance.any()):
            return x[chosen].clone()
        candidates = drawn_by(distance, 2 + int(math.log(count)), generator)
        left = torch.minimum(distance[:, None], _distance(x, x[candidates])).sum(dim=0)
        chosen.append(int(candidates[left.argmin()]))


def _distance(x: Tensor, centres: Tensor) -> Tensor:
    """(N, k) squared, 0 where rounding leaves next to nothing."""
    squared = 2 - 2 * x @ centres.T
    return torch.where(squared > APART, squared, 0)


def drawn_by(weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count,) places drawn with probabilities in proportion to (N,) weights, not all 0; one may come twice."""
    total = weight.double().cumsum(0)
    aims = torch.rand(count, generator=generator, dtype=torch.float64) * total[-1]
    return torch.searchsorted(total, aims, right=True).clamp(max=int(weight.nonzero().max()))


def _settle(vectors: Vectors, centres: Tensor) -> tuple[Assigned, Tensor]:
    """Lloyd's rounds from these centres until no row changes its cluster, or next to nothing is gained."""
    done = assigned(vectors, centres)
    for _ in range(MOST_ROUNDS):
        moved = _moved(vectors, centres, done)
        after = assigned(vectors, moved)
        gained = float(after.similarity.mean() - done.similarity.mean())
        same = len(moved) == len(centres) and torch.equal(after.labels, done.labels)
        done, centres = after, moved
        if (same or gained <= SETTLED) and int(done.counts.min()) > 0:
            break
    if int(done.counts.min()) == 0:  # nothing was found to fill it with
        centres = centres[done.counts > 0]
        done = assigned(vectors, centres)
    return done, centres


def assigned(vectors: Vectors, centres: Tensor) -> Assigned:
    """Every row to its most similar centre, of equal ones the first."""
    labels, similarity = torch.empty(len(vectors), dtype=torch.int64), torch.empty(len(vectors))
    sums = torch.zeros(centres.shape, dtype=torch.float64)
    for start in range(0, len(vectors), BLOCK):
        rows = torch.from_numpy(vectors[slice(start, start + BLOCK)])
        part = slice(start, start + len(rows))
        similarity[part], labels[part] = (rows @ centres.T).max(dim=1)
        sums += torch.zeros_like(centres).index_add_(0, labels[part], rows)
    return Assigned(labels, similarity, sums, torch.bincount(labels, minlength=len(centres)))


def _moved(vectors: Vectors, centres: Tensor, done: Assigned) -> Tensor:
    """(k, D) each centre in the direction of its rows' mean; those without rows at the rows that fit the least."""
    centres = torch.where(done.sums.norm(dim=1, keepdim=True) > APART, F.normalize(done.sums, dim=1).float(), centres)
    empty = (done.counts == 0).nonzero().squeeze(1).tolist()
    worst = done.similarity.topk(min(len(empty), len(done.labels)), largest=False).indices.tolist() if empty else []
    for cluster, row in zip(empty, worst, strict=False):
        if done.similarity[row] < 1 - APART:
            centres[cluster] = torch.from_numpy(vectors[slice(row, row + 1)])[0]
    return centres


def centres_of(vectors: Vectors, labels: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The centres of clusters that something else has found.

    Args:
        vectors: (N, D), rows of length 1.
        labels: (N,) from 0 to k - 1; -1: in none.

    Returns:
        (k, D) float32, the directions of the means; and each row's cosine to its own (N,) float32, 0 where it has none.
    """
    count = int(labels.max(initial=-1)) + 1
    sums = torch.zeros(count, vectors.shape[1])
    own = torch.from_numpy(labels)
    for start in range(0, len(vectors), BLOCK):
        rows, of = torch.from_numpy(vectors[slice(start, start + BLOCK)]), own[start : start + BLOCK]
        sums.index_add_(0, of[of >= 0], rows[of >= 0])
    centres = F.normalize(sums, dim=1)
    similarity = torch.zeros(len(vectors))
    for start in range(0, len(vectors), BLOCK):
        rows, of = torch.from_numpy(vectors[slice(start, start + BLOCK)]), own[start : start + BLOCK]
        similarity[start : start + len(rows)][of >= 0] = (rows[of >= 0] * centres[of[of >= 0]]).sum(dim=1)
    return centres.numpy(), similarity.numpy()


def by_size(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) the same clusters numbered from 0 by falling size, of equal ones the one that begins first; -1 stays."""
    values, first, counts = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    number = np.full(int(labels.max(initial=-1)) + 2, -1)  # the last one is that of -1
    number[values[np.lexsort((first, -counts))]] = np.arange(len(values))
    return number[labels]
