"""Vectors -> places in the plane by principal components, and by t-SNE that begins there; an order along the plane."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simclr_cli.engine.nearest import Vectors, blocks

BLOCK = 8_192  # rows read at once
PERPLEXITY = 30.0  # of t-SNE: about how many neighbors count
EARLY, LATE = 250, 500  # iterations with the attraction exaggerated, and without
EXAGGERATION = 12.0
LEAST_RATE = 50.0  # of learning, which else is the number of vectors over the exaggeration (Belkina et al. 2019)
START_SPREAD = 1e-4  # standard deviation of the first axis at the start
CURVE_BITS = 12  # of a coordinate, by which places are put in order


def principal_components(vectors: Vectors, dimensions: int) -> tuple[NDArray[np.float32], float | None]:
    """The directions in which the vectors vary most, and where each vector lies along them.

    The covariance is summed up block by block in float64, so that the vectors need not fit in memory. Of each
    direction the largest entry is positive: the same vectors give the same map on every machine.

    Args:
        vectors: (N, D).
        dimensions: how many, d; where D is less, the rest is 0.

    Returns:
        (N, d) float32, and the share of the variance that these hold, 0 to 1; None where there is no variance.
    """
    count, width = vectors.shape
    sums = (rows.astype(np.float64).sum(0) for _, rows in blocks(vectors, BLOCK))
    mean = sum(sums, np.zeros(width)) / max(count, 1)
    covariance = np.zeros((width, width))
    for _, rows in blocks(vectors, BLOCK):
        centered = rows - mean
        covariance += centered.T @ centered
    variances, directions = np.linalg.eigh(covariance)  # rising
    chosen = directions[:, ::-1][:, :dimensions]  # (D, d)
    chosen = chosen * np.sign(chosen[np.abs(chosen).argmax(0), np.arange(chosen.shape[1])])
    places = np.zeros((count, dimensions), np.float32)
    for part, rows in blocks(vectors, BLOCK):
        places[part, : chosen.shape[1]] = (rows - mean) @ chosen
    total = float(variances.sum())
    return places, float(variances[-dimensions:].sum()) / total if total > 1e-12 * count else None


def neighbors_wanted(count: int) -> int:
    """How many neighbors of each of so many vectors t-SNE reads: three times its perplexity, or all there are."""
    return min(count - 1, int(3 * PERPLEXITY))


def t_sne(
    similarities: NDArray[np.float32], neighbors: NDArray[np.int64], start: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Places in which neighbors by cosine are neighbors (van der Maaten and Hinton 2008).

    By openTSNE (Policar et al. 2024), from exact neighbors and from the principal components, so that the map as a
    whole means something too (Kobak and Berens 2019). Nothing of it is random.

    Args:
        similarities, neighbors: (N, K) of each vector to its nearest others, and which these are.
        start: (N, 2), any scale.

    Returns:
        (N, 2) float32.
    """
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.nearest_neighbors import PrecomputedNeighbors

    count, k = neighbors.shape
    spread = float(start[:, 0].std())
    if k < 2 or spread == 0:  # nothing to arrange
        return start
    distances = np.maximum(1 - similarities.astype(np.float64), 0)  # rounding
    index = PrecomputedNeighbors(neighbors, distances)
    affinities = PerplexityBasedNN(perplexity=min(PERPLEXITY, k / 3), knn_index=index)
    begin = start.astype(np.float64) * (START_SPREAD / spread)
    places = TSNEEmbedding(begin, affinities, learning_rate=max(count / EXAGGERATION, LEAST_RATE))
    places = places.optimize(EARLY, exaggeration=EXAGGERATION, momentum=0.5)
    places = places.optimize(LATE, momentum=0.8)
    return np.asarray(places, np.float32)


def along_a_curve(places: NDArray[np.float32]) -> NDArray[np.int64]:
    """An order in which what is near in the plane is near in the order: along a Hilbert curve.

    Args:
        places: (N, 2).

    Returns:
        (N,) int64: which comes first, second and so on; of equal ones the earlier.
    """
    low = places.min(0) if len(places) else np.zeros(2)
    extent = max(float((places - low).max(initial=0)), 1e-12)
    x, y = ((places - low) * ((2**CURVE_BITS - 1) / extent)).astype(np.int64).T
    distance = np.zeros(len(places), np.int64)
    for bit in reversed(range(CURVE_BITS)):
        side = 1 << bit
        right, up = (x & side) > 0, (y & side) > 0
        distance += side * side * ((3 * right) ^ up)
        flipped = right & ~up  # each quarter is the whole again, turned so that the curve goes on
        x, y = (np.where(flipped, side - 1 - (at & (side - 1)), at & (side - 1)) for at in (x, y))
        x, y = np.where(up, x, y), np.where(up, y, x)
    return np.argsort(distance, kind="stable")
