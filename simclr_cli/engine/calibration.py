"""What a cosine similarity means to one model on one folder: where it falls among pairs of known kinds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Percent of pairs below each kept quantile: finer towards 100, where the hits of a search are.
LEVELS = np.concatenate(
    [np.linspace(0, 99, 100)] + [100 - np.linspace(10.0**-n, 10.0 ** -(n + 1), 91)[1:] for n in range(5)] + [[100.0]]
)
ROUNDING = 1e-6  # by which a similarity may differ when it is computed once more


@dataclass(frozen=True, eq=False)
class Calibration:
    """Similarities of random pairs of pictures, and of two views of one picture, by their quantiles."""

    random: NDArray[np.float64]  # (L,) at LEVELS, rising
    views: NDArray[np.float64]  # (L,) at LEVELS, rising
    random_pairs: int
    view_pairs: int

    def above_random(self, similarity: float) -> float:
        """Percent of random pairs that are less similar."""
        return _percent(self.random, similarity, self.random_pairs)

    def above_views(self, similarity: float) -> float:
        """Percent of pairs of views of one picture that are less similar."""
        return _percent(self.views, similarity, self.view_pairs)

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


def _percent(quantiles: NDArray[np.float64], similarity: float, pairs: int) -> float:
    """Percent of pairs strictly below: 0 where all are equal to it, and 100 only above all of them.

    What lies between quantiles says no more than so many pairs can: at most all but one of them.
    """
    if similarity > quantiles[-1] + ROUNDING:
        return 100.0
    above = int(np.searchsorted(quantiles, similarity - ROUNDING, side="left"))
    if above == 0 or pairs == 0:
        return 0.0
    most = 100 * (pairs - 1) / pairs
    if above == len(quantiles):
        return most
    between = slice(above - 1, above + 1)
    return min(most, float(np.interp(similarity, quantiles[between], LEVELS[between])))
