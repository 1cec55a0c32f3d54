"""Groups of images that belong together: by their names, by equal content, or joined pair by pair."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr_cli.api import DuplicatesRule
from simclr_cli.core.errors import raise_if_unreachable
from simclr_cli.core.safe_read import checksum_file
from simclr_cli.images.census import Census
from simclr_cli.images.formats import TemporarilyUnusable
from simclr_cli.images.threads import map_in_order


def join_pairs(ids: NDArray[np.int64], i: NDArray[np.int64], j: NDArray[np.int64]) -> None:
    """Join the groups of the two members of each pair, for many pairs at once.

    Args:
        ids: (N,) the least member of each member's group, changed in place; at first each is its own group.
        i, j: (n,) the pairs.
    """
    while len(i):
        first, second = ids[i], ids[j]
        differ = first != second
        i, j, first, second = i[differ], j[differ], first[differ], second[differ]
        np.minimum.at(ids, np.maximum(first, second), np.minimum(first, second))
        while (ids != ids[ids]).any():
            ids[:] = ids[ids]


def join_equal(ids: NDArray[np.int64], keys: Iterable[tuple[int, Hashable]]) -> None:
    """Join the groups of all members that have the same key.

    Args:
        ids: as for join_pairs.
        keys: members and their keys.
    """
    first: dict[Hashable, int] = {}
    pairs = [(first.setdefault(key, i), i) for i, key in keys]
    join_pairs(ids, *np.array(pairs, np.int64).reshape(-1, 2).T)


def group_images(census: Census, pattern: str, duplicates: DuplicatesRule, workers: int) -> NDArray[np.int64] | None:
    """Return (N,) the group of each image by names and by content, or None if the settings define no groups."""
    if not pattern and duplicates == "keep":
        return None
    ids = np.arange(len(census.images))
    if pattern:
        join_equal(ids, match_names(census, pattern))
    if duplicates != "keep":
        join_equal(ids, checksum_same_sizes(census, workers))
    return ids


def match_names(census: Census, pattern: str) -> Iterable[tuple[int, str]]:
    """Yield each image whose relative path matches the pattern, and its first group or the whole match."""
    regex = re.compile(pattern)
    for i, image in enumerate(census.images):
        if match := regex.search(image.name):
            yield i, (match.group(1) if regex.groups else match.group()) or ""


def checksum_same_sizes(census: Census, workers: int) -> Iterable[tuple[int, str]]:
    """Yield each image whose file has the size of another one, and its SHA-256; no other can be a duplicate."""
    by_size = defaultdict(list)
    for i, image in enumerate(census.images):
        by_size[image.bytes].append(i)
    candidates = [i for same_size in by_size.values() if len(same_size) > 1 for i in same_size]
    paths = [census.path(census.images[i]) for i in candidates]
    for i, checksum in zip(candidates, map_in_order(checksum_image, paths, workers), strict=True):
        if isinstance(checksum, str):
            yield i, checksum


def checksum_image(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal.

    Raises:
        TemporarilyUnusable: it cannot be read, or is missing.
        MachineError: the disk or the network share fails.
    """
    try:
        return checksum_file(path)
    except OSError as error:
        raise_if_unreachable(error, path)
        raise TemporarilyUnusable((error.strerror or str(error)).lower()) from None
