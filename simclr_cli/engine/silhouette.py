"""How many clusters: the number whose clusters are apart most, compared to those of rows without any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from simclr_cli.engine.clustering import k_means

LEAST_ROWS = 4  # rows a cluster, on average, that must be there for a number to be tried
TRIED = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)


def silhouette(rows: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n,) of each row: -1 to 1, large where its cluster is nearer than every other (Rousseeuw 1987, section 2).

    By cosine distance; 0 for a row that is alone in its cluster.

    Args:
        rows: (n, D) of length 1.
        labels: (n,) from 0; at least two are used.
    """
    member = F.one_hot(torch.from_numpy(np.unique(labels, return_inverse=True)[1].reshape(-1))).float()  # (n, k)
    x, counts = torch.from_numpy(rows), member.sum(dim=0)
    total = counts - x @ (member.T @ x).T  # (n, k) summed distances to each cluster: cosine is linear in the rows
    own = member.bool()
    alone = counts[own.int().argmax(dim=1)] == 1
    itself = 1 - x.square().sum(dim=1)  # what rounding leaves of a row's distance to itself
    a = (total[own] - itself) / (counts.expand_as(total)[own] - 1).clamp(min=1)
    b = (total / counts).masked_fill(own, torch.inf).min(dim=1).values
    values = (b - a) / torch.maximum(a, b).clamp(min=1e-12)
    return values.masked_fill(alone, 0).numpy()


def without_clusters(rows: NDArray[np.float32], generator: torch.Generator) -> NDArray[np.float32]:
    """(n, D) rows of length 1 that have no clusters: normal, with the mean and the covariance of the rows given.

    Args:
        rows: (n, D) of length 1.
    """
    x = torch.from_numpy(rows)
    mean = x.mean(dim=0)
    noise = torch.randn(len(x), len(x), generator=generator)
    return F.normalize(mean + noise @ (x - mean) / len(x) ** 0.5, dim=1).numpy()


@dataclass(frozen=True)
class Separation:
    """How far apart so many clusters are."""

    clusters: int
    silhouette: float  # mean over the rows
    chance: float  # the same of rows without clusters


def separations(
    rows: NDArray[np.float32],
    generator: Callable[[int], torch.Generator],
    tried: Sequence[int] = TRIED,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Separation]:
    """The silhouette of each number of clusters, and what it is where there are none.

    The mean silhouette alone falls with their number whatever the rows are like, so that two would nearly always be
    best; as in the gap statistic (Tibshirani et al. 2001) it is held against that of a reference.

    Args:
        rows: (n, D) of length 1, a sample.
        generator: from a number of clusters to its randomness; of 0: to that of the reference.

    Returns:
        As many as there are rows and different ones enough for.
    """
    wanted = [count for count in tried if count * LEAST_ROWS <= len(rows)]
    reference = without_clusters(rows, generator(0)) if wanted else rows
    found = []
    for done, count in enumerate(wanted):
        labels, chance = (k_means(x, count, generator(count))[0] for x in (rows, reference))
        if labels.max() + 1 == count == chance.max() + 1:
            means = (float(silhouette(x, of).mean()) for x, of in ((rows, labels), (reference, chance)))
            found.append(Separation(count, *means))
        progress(done + 1, len(wanted))
    return found


def best(found: Sequence[Separation]) -> Separation | None:
    """The one furthest above chance, of equals the first; None of none."""
    return max(found, key=lambda one: one.silhouette - one.chance, default=None)
