"""Which pictures of an index are copies of one another: the same file, or alike to the encoder and to the eye."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simclr_cli.engine.search import pairs_above
from simclr_cli.images.decode import Refusal
from simclr_cli.images.decoders import apart
from simclr_cli.images.groups import join_pairs
from simclr_cli.images.looks import Look, correlation, look
from simclr_cli.images.workers import each
from simclr_cli.settings import CopyKind
from simclr_cli.store.index import Index

# Of near copies. Chosen on photos with known copies among many of one layout: docs/benchmarks.md.
NEAR_BITS = 8  # of the 64 of their perceptual hashes in which they may differ
NEAR_CORRELATION = 0.96  # of their colours in small, at least
AS_SHARP = 0.75  # of the sharpest: JPEG saved again has up to 1.21 times its sharpness, by the edges of its blocks
AT_ONCE = 2_048  # pairs whose colours are compared

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Copies:
    """Groups of places in an index, and what was seen of the pictures there."""

    groups: tuple[NDArray[np.int64], ...]  # the best copy first; the largest group first, then by name
    looks: Mapping[int, Look]  # of those that had to be looked at
    refused: tuple[str, ...]  # pictures that can no longer be decoded, with the reason


class Chosen:
    """Some rows of an index's vectors, read by slices."""

    def __init__(self, index: Index, places: NDArray[np.int64]) -> None:
        self._h, self._places = index.h, places
        self.shape = (len(places), index.width)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """(n, D) float32."""
        return self._h.take(self._places[rows])


def find_copies(
    index: Index, kind: CopyKind, threshold: float, *, workers: int, progress: Progress = lambda *_: None
) -> Copies:
    """Groups of two pictures and more; near copies of near copies are of one group.

    Of files with the same content one is compared for all. Only pictures that are near another one by their vectors
    are decoded. No list of pairs is kept, so that a folder in which all pictures are alike takes no more memory.

    Args:
        threshold: the least cosine similarity of near copies.
        progress: called with (pictures looked at, pictures to look at).
    """
    first = equal_files(index.digest)
    ids = first.copy()
    looks: dict[int, Look] = {}
    refused: list[str] = []
    if kind != "exact":
        kept = np.unique(first)
        near = kept[_paired(Chosen(index, kept), threshold)]
        paths = [index.path(place) for place in near.tolist()]
        with closing(each(apart(look, workers), paths, workers)) as seen:
            for done, (place, path, one) in enumerate(zip(near.tolist(), paths, seen, strict=True), start=1):
                if isinstance(one, Refusal):
                    refused.append(f"{path}: {one.reason}")
                else:
                    looks[place] = one
                progress(done, len(near))
        _join_near(ids, index, looks, threshold)
    wanted = np.unique(first) if kind == "near" else np.arange(len(ids))
    order = wanted[np.argsort(ids[wanted], kind="stable")]
    parts = np.split(order, np.flatnonzero(np.diff(ids[order])) + 1)
    looks |= {place: looks[one] for place, one in enumerate(first.tolist()) if one in looks}
    groups = [_best_first(part, index, looks) for part in parts if len(part) > 1]
    groups.sort(key=lambda group: (-len(group), os.fsencode(index.name(int(group[0])))))
    return Copies(tuple(groups), looks, tuple(refused))


def equal_files(digest: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(N, 32) SHA-256 -> (N,) the first place of the same content."""
    if not len(digest):
        return np.empty(0, np.int64)
    words = np.ascontiguousarray(digest).view("S32")[:, 0]
    _, first, inverse = np.unique(words, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def _paired(vectors: Chosen, threshold: float) -> NDArray[np.bool_]:
    """(N,) which rows have another one that is so near."""
    found = np.zeros(len(vectors), bool)
    for i, j, _ in pairs_above(vectors, threshold):
        found[i] = found[j] = True
    return found


def _join_near(ids: NDArray[np.int64], index: Index, looks: Mapping[int, Look], threshold: float) -> None:
    """Put together what the encoder and the eye take for copies."""
    places = np.array(list(looks), np.int64)
    hashes = np.array([one.hash for one in looks.values()], np.uint64)
    small = np.array([one.small for one in looks.values()], np.uint8)
    for i, j, _ in pairs_above(Chosen(index, places), threshold):
        near = np.bitwise_count(hashes[i] ^ hashes[j]) <= NEAR_BITS
        i, j = i[near], j[near]
        while len(i):
            apart = ids[places[i]] != ids[places[j]]  # the others are of one group already
            i, j = i[apart], j[apart]
            a, b = i[:AT_ONCE], j[:AT_ONCE]
            alike = correlation(small[a], small[b]) >= NEAR_CORRELATION
            join_pairs(ids, places[a[alike]], places[b[alike]])
            i, j = i[AT_ONCE:], j[AT_ONCE:]


def are_copies(first: Look | None, second: Look | None) -> bool:
    """Whether two pictures that were looked at are near copies themselves, not only by way of others."""
    if first is None or second is None:
        return False
    near = (first.hash ^ second.hash).bit_count() <= NEAR_BITS
    return near and float(correlation(first.small[None], second.small[None])[0]) >= NEAR_CORRELATION


def _best_first(group: NDArray[np.int64], index: Index, looks: Mapping[int, Look]) -> NDArray[np.int64]:
    """Most pixels, then sharp ones, then most bytes; of equal files the oldest, a link after the file itself."""
    pixels = {place: int(index.size[place].astype(np.int64).prod()) for place in group.tolist()}
    sharp = {place: looks[place].sharpness if place in looks else 0.0 for place in pixels}
    sharpest = {size: max(sharp[place] for place in pixels if pixels[place] == size) for size in pixels.values()}

    def worth(place: int) -> tuple[int, bool, int, bool, int, bytes]:
        blurred = sharp[place] < AS_SHARP * sharpest[pixels[place]]
        linked, age = index.path(place).is_symlink(), int(index.modified_ns[place])
        return -pixels[place], blurred, -int(index.bytes[place]), linked, age, os.fsencode(index.name(place))

    return np.array(sorted(group.tolist(), key=worth), np.int64)
