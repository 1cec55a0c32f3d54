"""Search in a part of the vectors: those in the cells nearest to the query, each of them compared exactly.

An inverted file (Sivic & Zisserman 2003; Jegou et al. 2011, section IV) of the vectors as they are: nothing is
quantised, so that what is found has its true similarity, and what is missed is counted beforehand (`recall`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from simclr_cli.engine.clustering import assigned
from simclr_cli.engine.search import Vectors, nearest

TRAINED_ON = 64  # rows a cell
ROUNDS = 8  # of Lloyd


class Taken(Vectors, Protocol):
    """Vectors that give rows by place, too."""

    def take(self, places: NDArray[np.int64], /) -> NDArray[np.float32]:
        """(n,) -> (n, D), a copy."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Which rows are nearest to which centre."""

    centres: NDArray[np.float32]  # (C, D), rows of length 1
    starts: NDArray[np.int64]  # (C + 1,) where in `members` each cell begins
    members: NDArray[np.int64]  # (M,) rows, those of a cell together and rising

    def near(self, query: NDArray[np.float32], probed: int) -> NDArray[np.int64]:
        """(n,) the rows in the `probed` cells nearest to a (D,) query, rising."""
        similarity = self.centres @ query
        chosen = np.argsort(-similarity, kind="stable")[:probed]
        return np.sort(np.concatenate([self.members[self.starts[c] : self.starts[c + 1]] for c in chosen]))


def make_cells(vectors: Taken, count: int, generator: torch.Generator) -> Cells:
    """`count` cells about centres that a few rounds of k-means on a sample have found."""
    drawn = torch.randperm(len(vectors), generator=generator)[: TRAINED_ON * count].numpy()
    sample = vectors.take(drawn)
    centres = torch.from_numpy(sample[:count])
    for _ in range(ROUNDS):
        sums = assigned(sample, centres).sums
        centres = torch.where(sums.norm(dim=1, keepdim=True) > 0, F.normalize(sums, dim=1).float(), centres)
    labels = assigned(vectors, centres).labels
    counts = torch.bincount(labels, minlength=len(centres))
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return Cells(centres.numpy(), starts.numpy(), labels.argsort(stable=True).numpy())


def nearest_of(
    vectors: Taken, places: NDArray[np.int64], query: NDArray[np.float32], top: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `top` most similar of some rows: similarities and places, (k,) each; of equal ones the earlier."""
    similarities, which = nearest(vectors.take(places), query[None], top)
    return similarities[0], places[which[0]]


def recall(vectors: Taken, cells: Cells, queries: NDArray[np.int64], exact: NDArray[np.int64], probed: int) -> float:
    """The share of the true nearest rows that are found.

    Args:
        queries: (Q,) rows.
        exact: (Q, k) the nearest rows of each, itself left out.
    """
    found = 0
    h = vectors.take(queries)
    for query, row, truth in zip(queries.tolist(), h, exact, strict=True):
        _, places = nearest_of(vectors, cells.near(row, probed), row, exact.shape[1] + 1)
        found += len(set(truth.tolist()) & (set(places.tolist()) - {query}))
    return found / max(1, exact.size)
