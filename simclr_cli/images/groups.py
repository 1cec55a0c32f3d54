"""Groups of images that belong together: of one specimen by their names, of one content, or joined pair by pair."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr_cli.api import DuplicatesRule
from simclr_cli.core.errors import check_reachable
from simclr_cli.core.safe_read import checksum_file
from simclr_cli.images.census import Census
from simclr_cli.images.decode import UnavailableNow
from simclr_cli.images.threads import each


def join_pairs(ids: NDArray[np.int64], i: NDArray[np.int64], j: NDArray[np.int64]) -> None:
    """Make one group of the two of each pair, for many pairs at once.

    Args:
        ids: (N,) the least member of each one's group, changed in place; at first that is everyone itself.
    """
    while len(i):
        first, second = ids[i], ids[j]
        apart = first != second
        i, j, first, second = i[apart], j[apart], first[apart], second[apart]
        np.minimum.at(ids, np.maximum(first, second), np.minimum(first, second))
        while (ids != ids[ids]).any():
            ids[:] = ids[ids]


def join_equal(ids: NDArray[np.int64], keys: Iterable[tuple[int, Hashable]]) -> None:
    """Make one group of whatever has the same key; the arguments are places and their keys."""
    first: dict[Hashable, int] = {}
    pairs = [(first.setdefault(key, i), i) for i, key in keys]
    join_pairs(ids, *np.array(pairs, np.int64).reshape(-1, 2).T)


def group(census: Census, pattern: str, copies: DuplicatesRule, workers: int) -> NDArray[np.int64] | None:
    """Return (N,) the group of each image by names and by content, or None where each is alone by the settings."""
    if not pattern and copies == "keep":
        return None
    ids = np.arange(len(census.images))
    if pattern:
        join_equal(ids, by_name(census, pattern))
    if copies != "keep":
        join_equal(ids, by_content(census, workers))
    return ids


def by_name(census: Census, pattern: str) -> Iterable[tuple[int, str]]:
    """What the pattern finds in each image's relative path; images where it finds nothing are left out."""
    wanted = re.compile(pattern)
    for i, image in enumerate(census.images):
        if found := wanted.search(image.name):
            yield i, (found.group(1) if wanted.groups else found.group()) or ""


def by_content(census: Census, workers: int) -> Iterable[tuple[int, str]]:
    """SHA-256 of the files that have the size of another one; the others cannot be copies."""
    sizes = defaultdict(list)
    for i, image in enumerate(census.images):
        sizes[image.bytes].append(i)
    candidates = [i for some in sizes.values() if len(some) > 1 for i in some]
    paths = [census.path(census.images[i]) for i in candidates]
    for i, checksum in zip(candidates, each(content_checksum, paths, workers), strict=True):
        if isinstance(checksum, str):
            yield i, checksum


def content_checksum(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal.

    Raises:
        UnavailableNow: it cannot be read, or is gone.
        MachineError: the disk or the network share that holds it fails.
    """
    try:
        return checksum_file(path)
    except OSError as error:
        check_reachable(error, path)
        raise UnavailableNow((error.strerror or str(error)).lower()) from None
