"""How far two ways to divide the same pictures agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def contingency(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """(A, B) how many are in part a of the one and in part b of the other.

    Args:
        one, other: (N,) parts, from 0.
    """
    shape = (int(one.max()) + 1, int(other.max()) + 1)
    return np.bincount(one * shape[1] + other, minlength=shape[0] * shape[1]).reshape(shape)


def adjusted_rand(table: NDArray[np.int64]) -> float:
    """Pairs on which both agree, over chance: 1 the same, 0 as by chance, at least -0.5 (Hubert & Arabie 1985).

    Args:
        table: as `contingency` gives it.
    """

    def pairs(counts: NDArray[np.int64]) -> float:
        return float((counts * (counts - 1.0)).sum()) / 2

    both, ones, others = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    all_pairs = pairs(table.sum(keepdims=True))
    expected, most = ones * others / max(all_pairs, 1.0), (ones + others) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def normalised_information(table: NDArray[np.int64]) -> float:
    """Mutual information over the mean of both entropies: 0 unrelated, 1 the same (Vinh et al. 2010).

    Args:
        table: as `contingency` gives it.
    """
    joint = table / table.sum()
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    outer = np.outer(rows, columns)
    there = joint > 0
    shared = float((joint[there] * np.log(joint[there] / outer[there])).sum())
    mean = (_entropy(rows) + _entropy(columns)) / 2
    return 1.0 if mean == 0 else max(0.0, shared / mean)


def _entropy(shares: NDArray[np.float64]) -> float:
    there = shares[shares > 0]
    return -float((there * np.log(there)).sum())
