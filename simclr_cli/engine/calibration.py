"""What a cosine similarity means to one model on one folder: where it falls among pairs of known kinds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Percent of pairs below each kept quantile: finer towards 100, where the hits of a search are.
LEVELS = np.concatenate(
    [np.linspace(0, 99, 100)] + [100 - np.linspace(10.0**-n, 10.0 ** -(n + 1), 91)[1:] for n in range(5)] + [[100.0]]
)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Similarities of random pairs of pictures, and of two views of one picture, by their quantiles."""

    random: NDArray[np.float64]  # (L,) at LEVELS, rising
    views: NDArray[np.float64]  # (L,) at LEVELS, rising
    random_pairs: int
    view_pairs: int

    def above_random(self, similarity: float) -> float:
        """Percent of random pairs that are less similar."""
        return _percent(self.random, similarity)

    def above_views(self, similarity: float) -> float:
        """Percent of pairs of views of one picture that are less similar."""
        return _percent(self.views, similarity)

    def random_at(self, percent: float) -> float:
        """The similarity that so many random pairs stay below."""
        return float(np.interp(percent, LEVELS, self.random))

    def views_at(self, percent: float) -> float:
        """The similarity that so many pairs of views stay below."""
        return float(np.interp(percent, LEVELS, self.views))


def calibrate(sample: NDArray[np.float32], first: NDArray[np.float32], second: NDArray[np.float32]) -> Calibration:
    """From rows of length 1.

    Args:
        sample: (R, D) of pictures drawn at random: all pairs of them are taken.
        first, second: (V, D) of two views of each of V pictures.
    """
    similarity = sample @ sample.T
    random = similarity[np.triu_indices(len(sample), 1)]
    views = np.einsum("vd,vd->v", first, second)
    return Calibration(_quantiles(random), _quantiles(views), len(random), len(views))


def _quantiles(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """At LEVELS; of nothing: what no similarity reaches, so that nothing is called close for want of pairs."""
    return np.quantile(values.astype(np.float64), LEVELS / 100) if len(values) else np.full(len(LEVELS), 2.0)


def _percent(quantiles: NDArray[np.float64], similarity: float) -> float:
    """Percent of pairs strictly below: 0 where all are equal to it."""
    above = int(np.searchsorted(quantiles, similarity, side="left"))
    if above in (0, len(quantiles)):
        return 0.0 if above == 0 else 100.0
    low, high = quantiles[above - 1], quantiles[above]
    return float(LEVELS[above - 1] + (LEVELS[above] - LEVELS[above - 1]) * (similarity - low) / (high - low))
