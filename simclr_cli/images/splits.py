"""Which of the labelled pictures are held out, and which labels are used: stratified, and a function of the seed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from simclr_cli.core.errors import InputError
from simclr_cli.core.seeds import Purpose, numpy_generator


def stratified(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """(N,) which rows are held out: of every class the share, rounded, at least one and never all; by seed."""
    generator = numpy_generator(seed, Purpose.SPLIT)
    held_out = np.zeros(len(labels), dtype=bool)
    for rows in _by_class(labels, generator):
        held_out[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    return held_out


def hold_out(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Return the same, of which there must be some.

    Raises:
        InputError: no class has two pictures.
    """
    held_out = stratified(labels, share, seed)
    if not held_out.any():
        raise InputError("No class has two pictures, so none can be held out.", "Label more, or give --test FOLDER.")
    return held_out


def folds_of(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """(N,) in 0..count-1: folds that each have their part of every class."""
    generator = numpy_generator(seed, Purpose.SPLIT, 1)
    rows = np.concatenate(list(_by_class(labels, generator)))  # all classes in one row, so that folds are of one size
    folds = np.empty(len(labels), dtype=np.int64)
    folds[rows] = np.arange(len(rows)) % count
    return folds


def some_labels(labels: NDArray[np.int64], wanted: float | int, seed: int, draw: int) -> NDArray[np.bool_]:
    """(N,) which labels are used: of every class a share (a float) or so many (an int), at least one, at most all.

    Less of the same seed and draw lies within more, so that two of them differ by what was added only. For a share the
    paper draws as many of each class (B.5; ImageNet's are nearly of one size); here classes keep their shares.
    """
    generator = numpy_generator(seed, Purpose.LABELS, draw)
    used = np.zeros(len(labels), dtype=bool)
    for rows in _by_class(labels, generator):
        used[rows[: max(1, round(wanted * len(rows)) if isinstance(wanted, float) else wanted)]] = True
    return used


def _by_class(labels: NDArray[np.int64], generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each class, shuffled."""
    for one in np.unique(labels):
        yield generator.permutation(np.flatnonzero(labels == one))
