"""Clusters of any shape, and rows that are in none: HDBSCAN, by scikit-learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simclr_cli.engine.components import principal_components
from simclr_cli.engine.search import Vectors
from simclr_cli.errors import MachineError

MOST_DIMENSIONS = 50  # in more of them all densities are about the same, and the search for neighbours is slow


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
    rows, _ = principal_components(vectors, min(MOST_DIMENSIONS, vectors.shape[1]))
    found = HDBSCAN(min_cluster_size=smallest, min_samples=min(5, smallest), copy=True).fit(rows)
    return np.asarray(found.labels_, np.int64)
