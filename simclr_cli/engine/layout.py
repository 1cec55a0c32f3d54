"""Layout of vectors in the plane: principal components, t-SNE initialized by them, and an order along a curve."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simclr_cli.engine.nearest import Vectors, iterate_blocks

BLOCK_ROWS = 8_192
PERPLEXITY = 30.0  # of t-SNE: about the number of neighbors that matter
EARLY_ITERATIONS, LATE_ITERATIONS = 250, 500  # with and without exaggerated attraction
EXAGGERATION = 12.0
MIN_LEARNING_RATE = 50.0  # otherwise it is the number of vectors / EXAGGERATION (Belkina et al. 2019)
INITIAL_STD = 1e-4  # of the first axis
CURVE_BITS = 12  # of each coordinate along the curve


def compute_principal_components(vectors: Vectors, dimensions: int) -> tuple[NDArray[np.float32], float | None]:
    """Project vectors on the directions of largest variance.

    The covariance is summed block by block in float64, so the vectors need not fit in memory. The largest entry of
    each direction is positive, so the same vectors have the same projection on every machine.

    Args:
        vectors: (N, D).
        dimensions: d; those beyond D are 0.

    Returns:
        (N, d) float32, and their share of the variance, 0 to 1; None without variance.
    """
    count, width = vectors.shape
    sums = (rows.astype(np.float64).sum(0) for _, rows in iterate_blocks(vectors, BLOCK_ROWS))
    mean = sum(sums, np.zeros(width)) / max(count, 1)
    covariance = np.zeros((width, width))
    for _, rows in iterate_blocks(vectors, BLOCK_ROWS):
        centered = rows - mean
        covariance += centered.T @ centered
    variances, directions = np.linalg.eigh(covariance)  # ascending
    axes = directions[:, ::-1][:, :dimensions]  # (D, d)
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    positions = np.zeros((count, dimensions), np.float32)
    for part, rows in iterate_blocks(vectors, BLOCK_ROWS):
        positions[part, : axes.shape[1]] = (rows - mean) @ axes
    total = float(variances.sum())
    return positions, float(variances[-dimensions:].sum()) / total if total > 1e-12 * count else None


def count_tsne_neighbors(count: int) -> int:
    """Return the number of neighbors of each of `count` vectors that t-SNE uses: 3 times the perplexity, or all."""
    return min(count - 1, int(3 * PERPLEXITY))


def compute_tsne(
    similarities: NDArray[np.float32], neighbors: NDArray[np.int64], start: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Compute a t-SNE layout, in which neighbors by cosine are close (van der Maaten and Hinton 2008).

    openTSNE (Policar et al. 2024) starts from the principal components, which keeps the global structure (Kobak and
    Berens 2019), and uses exact neighbors. Nothing is random.

    Args:
        similarities, neighbors: (N, K) cosines of each vector to its nearest neighbors, and their row numbers.
        start: (N, 2), any scale.

    Returns:
        (N, 2) float32.
    """
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.nearest_neighbors import PrecomputedNeighbors

    count, k = neighbors.shape
    spread = float(start[:, 0].std())
    if k < 2 or spread == 0:  # no structure
        return start
    distances = np.maximum(1 - similarities.astype(np.float64), 0)  # rounding
    index = PrecomputedNeighbors(neighbors, distances)
    affinities = PerplexityBasedNN(perplexity=min(PERPLEXITY, k / 3), knn_index=index)
    initial = start.astype(np.float64) * (INITIAL_STD / spread)
    positions = TSNEEmbedding(initial, affinities, learning_rate=max(count / EXAGGERATION, MIN_LEARNING_RATE))
    positions = positions.optimize(EARLY_ITERATIONS, exaggeration=EXAGGERATION, momentum=0.5)
    positions = positions.optimize(LATE_ITERATIONS, momentum=0.8)
    return np.asarray(positions, np.float32)


def order_along_curve(positions: NDArray[np.float32]) -> NDArray[np.int64]:
    """Sort points of the plane along a Hilbert curve, so points that are close in the order are close in the plane.

    Args:
        positions: (N, 2).

    Returns:
        (N,) int64 indices of the sorted points; of equal ones, the earlier first.
    """
    low = positions.min(0) if len(positions) else np.zeros(2)
    extent = max(float((positions - low).max(initial=0)), 1e-12)
    x, y = ((positions - low) * ((2**CURVE_BITS - 1) / extent)).astype(np.int64).T
    distance = np.zeros(len(positions), np.int64)
    for bit in reversed(range(CURVE_BITS)):
        side = 1 << bit
        right, up = (x & side) > 0, (y & side) > 0
        distance += side * side * ((3 * right) ^ up)
        flipped = right & ~up  # each quadrant repeats the curve, rotated so that its ends meet the next ones
        x, y = (np.where(flipped, side - 1 - (axis & (side - 1)), axis & (side - 1)) for axis in (x, y))
        x, y = np.where(up, x, y), np.where(up, y, x)
    return np.argsort(distance, kind="stable")
