"""How many clusters: the number whose clusters are furthest from one another for how wide they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def number_of_clusters(
    rows: NDArray[np.float32],
    generator: Callable[[int], torch.Generator],
    tried: Sequence[int] = TRIED,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[int, dict[int, float]]:
    """The number whose k-means has the greatest mean silhouette, the smallest of equals.

    Args:
        rows: (n, D) of length 1, a sample.
        generator: from a number of clusters to its randomness.

    Returns:
        It, and the mean silhouette of each number that was tried; 1 and none where there are too few rows.
    """
    wanted = [count for count in tried if count * LEAST_ROWS <= len(rows)]
    means: dict[int, float] = {}
    for done, count in enumerate(wanted):
        labels = k_means(rows, count, generator(count))[0]
        if len(np.unique(labels)) == count:
            means[count] = float(silhouette(rows, labels).mean())
        progress(done + 1, len(wanted))
    return max(means, key=lambda count: (means[count], -count), default=1), means
