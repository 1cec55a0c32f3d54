"""Which pictures are not to be pushed apart: of one specimen by their names, of one content, alike to the eye."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simclr_cli.digests import digest_file
from simclr_cli.images.cache import DecodedPictures
from simclr_cli.images.census import Census
from simclr_cli.images.decode import NotNow
from simclr_cli.images.looks import perceptual_hash
from simclr_cli.images.workers import each
from simclr_cli.settings import Copies
from simclr_cli.trouble import check_reachable

NEAR_BITS = 4  # of the 64 of a perceptual hash, in which near copies may differ

Progress = Callable[[int, int], None]


class Groups:
    """Pictures, each in a group of its own at first; what belongs together is put together (union-find)."""

    def __init__(self, count: int) -> None:
        self.parents = list(range(count))

    def root(self, i: int) -> int:
        """The same for all members of a group: the least of them."""
        while self.parents[i] != i:
            self.parents[i] = self.parents[self.parents[i]]
            i = self.parents[i]
        return i

    def join(self, i: int, j: int) -> None:
        """Make one group of two."""
        a, b = sorted((self.root(i), self.root(j)))
        self.parents[b] = a

    def join_equal(self, keys: Iterable[tuple[int, Hashable]]) -> None:
        """Put together whatever has the same key."""
        first: dict[Hashable, int] = {}
        for i, key in keys:
            self.join(first.setdefault(key, i), i)

    def ids(self) -> NDArray[np.int64]:
        """(N,) each picture's group."""
        return np.array([self.root(i) for i in range(len(self.parents))], dtype=np.int64)


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


def group(
    pictures: DecodedPictures, pattern: str, copies: Copies, progress: Progress = lambda *_: None
) -> NDArray[np.int64] | None:
    """(N,) the group of each picture, or None where each is alone by the settings."""
    if not pattern and copies == "keep":
        return None
    groups = Groups(len(pictures))
    if pattern:
        groups.join_equal(by_name(pictures.census, pattern))
    if copies != "keep":
        groups.join_equal(by_content(pictures.census, pictures.workers))
    if copies == "near":
        for i, j in near(hashes(pictures, progress)):
            groups.join(i, j)
    return groups.ids()


def by_name(census: Census, pattern: str) -> Iterable[tuple[int, str]]:
    """What the pattern finds in each picture's relative path; pictures where it finds nothing are left out."""
    wanted = re.compile(pattern)
    for i, picture in enumerate(census.pictures):
        if found := wanted.search(picture.name):
            yield i, (found.group(1) if wanted.groups else found.group()) or ""


def by_content(census: Census, workers: int) -> Iterable[tuple[int, str]]:
    """SHA-256 of the files that have the size of another one; the others cannot be copies."""
    sizes = defaultdict(list)
    for i, picture in enumerate(census.pictures):
        sizes[picture.bytes].append(i)
    candidates = [i for some in sizes.values() if len(some) > 1 for i in some]
    paths = [census.path(census.pictures[i]) for i in candidates]
    for i, digest in zip(candidates, each(content_digest, paths, workers), strict=True):
        if isinstance(digest, str):
            yield i, digest


def content_digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal.

    Raises:
        NotNow: it cannot be read, or is gone.
        MachineError: the disk or the network share that holds it fails.
    """
    try:
        return digest_file(path)
    except OSError as error:
        check_reachable(error, path)
        raise NotNow((error.strerror or str(error)).lower()) from None


def hashes(pictures: DecodedPictures, progress: Progress) -> NDArray[np.uint64]:
    """(N,) the 64-bit perceptual hash of each picture as it is stored."""
    found = np.empty(len(pictures), np.uint64)
    for i in range(len(pictures)):
        pixels = pictures.read(np.array([i]))[0].transpose(1, 2, 0)
        found[i] = perceptual_hash(Image.fromarray(pixels))
        progress(i + 1, len(pictures))
    return found


def near(found: NDArray[np.uint64], bits: int = NEAR_BITS) -> Iterable[tuple[int, int]]:
    """Pairs of pictures whose hashes differ in no more than so many bits; enough of them to join all such pairs.

    Cut into bits + 1 pieces, two such hashes share at least one: only those that share one are compared.
    """
    values, first, inverse = np.unique(found, return_index=True, return_inverse=True)
    yield from ((int(first[value]), i) for i, value in enumerate(inverse.reshape(-1)))  # equal ones
    edges = [64 * piece // (bits + 1) for piece in range(bits + 2)]
    for low, high in pairwise(edges):
        pieces = (values >> np.uint64(low)) & np.uint64(2 ** (high - low) - 1)
        order = np.argsort(pieces, kind="stable")
        ends = np.flatnonzero(np.diff(pieces[order])) + 1
        for bucket in np.split(order, ends):
            for place, i in enumerate(bucket[:-1]):
                others = bucket[place + 1 :]
                for j in others[np.bitwise_count(values[i] ^ values[others]) <= bits]:
                    yield int(first[i]), int(first[j])
