"""Which labelled pictures are held out, and whose labels are used: by class, and by seed."""

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


def with_labels(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """(N,) whose labels are used: of every class the share, rounded, and at least one; by seed.

    A smaller share of the same seed lies within a larger one, so that two of them differ by what was added only. The
    paper draws as many of each class (B.5; ImageNet's are nearly of one size); here classes keep their shares.
    """
    generator = numpy_generator(seed, Purpose.LABELS)
    used = np.zeros(len(labels), dtype=bool)
    for one in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == one))
        used[rows[: max(1, round(share * len(rows)))]] = True
    return used
