"""Clusters of any shape, and rows that are in none: HDBSCAN, by scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from simclr_cli.engine.search import Vectors
from simclr_cli.errors import MachineError

MOST_DIMENSIONS = 50  # in more of them all densities are about the same, and the search for neighbours is slow
BLOCK = 8_192  # rows at once


def hdbscan(vectors: Vectors, smallest: int) -> NDArray[np.int64]:
    """(N,) labels from 0; -1: in no cluster (Campello et al. 2013; 2015).

    By Euclidean distance, which orders unit rows as the cosine does, in at most MOST_DIMENSIONS principal components.

    Args:
        vectors: (N, D), rows of length 1.
        smallest: how many rows make a cluster, at least 2.

    Raises:
        MachineError: the library is not there.
    """
    try:
        from sklearn.cluster import HDBSCAN
    except ImportError:
        raise MachineError(
            "--method hdbscan needs the library scikit-learn, which is not installed.",
            'Install it with: pipx inject simclr-cli scikit-learn (or pip install "simclr-cli[clusters]").',
        ) from None
    if len(vectors) < smallest:
        return np.full(len(vectors), -1)
    rows = principal(vectors, MOST_DIMENSIONS)
    found = HDBSCAN(min_cluster_size=smallest, min_samples=min(5, smallest), copy=True).fit(rows)
    return np.asarray(found.labels_, np.int64)


def principal(vectors: Vectors, dimensions: int) -> NDArray[np.float32]:
    """(N, d) the rows in their first principal components, d the least of `dimensions` and D.

    Args:
        vectors: (N, D).
    """
    width = vectors.shape[1]
    total, square = torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64)
    for start in range(0, len(vectors), BLOCK):
        rows = torch.from_numpy(vectors[slice(start, start + BLOCK)])
        total += rows.sum(dim=0)
        square += rows.T @ rows
    mean = total / len(vectors)
    axes = torch.linalg.eigh(square / len(vectors) - torch.outer(mean, mean)).eigenvectors.flip(1)[:, :dimensions]
    found = np.empty((len(vectors), axes.shape[1]), np.float32)
    for start in range(0, len(vectors), BLOCK):
        rows = torch.from_numpy(vectors[slice(start, start + BLOCK)])
        found[start : start + len(rows)] = ((rows - mean.float()) @ axes.float()).numpy()
    return found
