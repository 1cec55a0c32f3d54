"""Which of the labelled pictures are held out, and which labels are used: stratified, and a function of the seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simclr_cli.seeds import Purpose, numpy_generator


def stratified(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """(N,) which rows are held out: of every class the share, rounded, at least one and never all; by seed."""
    generator = numpy_generator(seed, Purpose.SPLIT)
    held_out = np.zeros(len(labels), dtype=bool)
    for one in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == one))
        held_out[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    return held_out


def folds_of(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """(N,) in 0..count-1: folds that each have their part of every class."""
    generator = numpy_generator(seed, Purpose.SPLIT, 1)
    folds = np.zeros(len(labels), dtype=np.int64)
    start = 0  # where the last class ended, so that small classes do not all lie in the first folds
    for one in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == one))
        folds[rows] = (start + np.arange(len(rows))) % count
        start += len(rows)
    return folds


def some_labels(labels: NDArray[np.int64], wanted: float | int, seed: int, draw: int) -> NDArray[np.bool_]:
    """(N,) which labels are used: of every class a share (a float) or so many (an int), at least one, at most all.

    Less of the same seed and draw lies within more, so that two of them differ by what was added only. For a share the
    paper draws as many of each class (B.5; ImageNet's are nearly of one size); here classes keep their shares.
    """
    generator = numpy_generator(seed, Purpose.LABELS, draw)
    used = np.zeros(len(labels), dtype=bool)
    for one in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == one))
        used[rows[: max(1, round(wanted * len(rows)) if isinstance(wanted, float) else wanted)]] = True
    return used
