"""Principal components, in blocks, so that the vectors need not fit in memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simclr_cli.engine.search import Vectors

BLOCK = 8_192  # rows read at once


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
    mean = sum((_block(vectors, start).sum(0) for start in range(0, count, BLOCK)), np.zeros(width)) / max(count, 1)
    covariance = np.zeros((width, width))
    for start in range(0, count, BLOCK):
        centred = _block(vectors, start) - mean
        covariance += centred.T @ centred
    variances, directions = np.linalg.eigh(covariance)  # rising
    chosen = directions[:, ::-1][:, :dimensions]  # (D, d)
    chosen = chosen * np.sign(chosen[np.abs(chosen).argmax(0), np.arange(chosen.shape[1])])
    places = np.zeros((count, dimensions), np.float32)
    for start in range(0, count, BLOCK):
        places[start : start + BLOCK, : chosen.shape[1]] = (_block(vectors, start) - mean) @ chosen
    total = float(variances.sum())
    return places, float(variances[-dimensions:].sum()) / total if total > 1e-12 * count else None


def _block(vectors: Vectors, start: int) -> NDArray[np.float64]:
    return vectors[slice(start, start + BLOCK)].astype(np.float64)
