"""Which images of an index are searched."""

from __future__ import annotations

import re
from fnmatch import translate

import numpy as np
from numpy.typing import NDArray

from simclr_cli.errors import InputError
from simclr_cli.store.index import Index


def within(index: Index, pattern: str) -> NDArray[np.bool_] | None:
    """(N,) the pictures whose relative path fits a shell's pattern; None: all, where there is none.

    Raises:
        InputError: none fits.
    """
    if not pattern:
        return None
    fits = re.compile(translate(pattern)).match
    among = np.array([fits(name) is not None for name in index.names], dtype=bool)
    if not among.any():
        raise InputError(f"No picture of {index.root} fits --within {pattern}.", "Try another pattern.")
    return among
