"""Which images of an index are copies of one another: the same file, or alike to the encoder and to the eye."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simclr_cli.api import CopyKind
from simclr_cli.engine.nearest import pairs_above
from simclr_cli.images.cache import DecodedImages
from simclr_cli.images.decode import UnusableImage
from simclr_cli.images.decode_pool import apart
from simclr_cli.images.fingerprints import (
    NEAR_DUPLICATE_MIN_CORRELATION,
    SMALL,
    Look,
    are_near_duplicates,
    look,
    perceptual_hash,
    small_colors,
    standardized,
)
from simclr_cli.images.groups import join_equal, join_pairs
from simclr_cli.images.threads import each
from simclr_cli.store.index import Embeddings, Index

AS_SHARP = 0.75  # of the sharpest: JPEG saved again has up to 1.21 times its sharpness, by the edges of its blocks
AT_ONCE = 2_048  # pairs whose colors are compared

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Copies:
    """Groups of places in an index, and what was seen of the images there."""

    groups: tuple[NDArray[np.int64], ...]  # the best copy first; the largest group first, then by name
    looks: Mapping[int, Look]  # of those that had to be looked at
    skipped: tuple[str, ...]  # images that can no longer be decoded, with the reason


@dataclass(frozen=True)
class Rows:
    """(N, D) float32 rows of length 1 that are made when they are read, by slices."""

    read: Callable[[slice], NDArray[np.float32]]
    shape: tuple[int, int]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """(n, D) float32."""
        return self.read(rows)


def find_copies(
    index: Index, kind: CopyKind, threshold: float, *, workers: int, progress: Progress = lambda *_: None
) -> Copies:
    """Groups of two images and more; near copies of near copies are of one group.

    Of files with the same content one is compared for all. Only images that are near another one by their vectors
    are decoded. No list of pairs is kept, so that a folder in which all images are alike takes no more memory.

    Args:
        threshold: the least cosine similarity of near copies.
        progress: called with (images looked at, images to look at).
    """
    first = np.arange(len(index))
    join_equal(first, enumerate(map(bytes, index.images["checksum"])))
    ids = first.copy()
    looks: dict[int, Look] = {}
    skipped: list[str] = []
    if kind != "exact":
        kept = np.unique(first)
        near = kept[_paired(index.h.only(kept), threshold)]
        paths = [index.path(place) for place in near.tolist()]
        with closing(each(apart(look, workers), paths, workers)) as seen:
            for done, (place, path, one) in enumerate(zip(near.tolist(), paths, seen, strict=True), start=1):
                if isinstance(one, UnusableImage):
                    skipped.append(f"{path}: {one.reason}")
                else:
                    looks[place] = one
                progress(done, len(near))
        seen_at = np.array(list(looks), np.int64)
        hashes = np.array([one.hash for one in looks.values()], np.uint64)
        small = np.array([one.small for one in looks.values()], np.uint8)
        join_near_duplicates(ids, seen_at, hashes, small, pairs_above(index.h.only(seen_at), threshold))
    wanted = np.unique(first) if kind == "near" else np.arange(len(ids))
    order = wanted[np.argsort(ids[wanted], kind="stable")]
    parts = np.split(order, np.flatnonzero(np.diff(ids[order])) + 1)
    looks |= {place: looks[one] for place, one in enumerate(first.tolist()) if one in looks}
    groups = [_best_first(part, index, looks) for part in parts if len(part) > 1]
    groups.sort(key=lambda group: (-len(group), os.fsencode(index.name(int(group[0])))))
    return Copies(tuple(groups), looks, tuple(skipped))


def _paired(vectors: Embeddings, threshold: float) -> NDArray[np.bool_]:
    """(N,) which rows have another one that is so near."""
    found = np.zeros(len(vectors), bool)
    for i, j, _ in pairs_above(vectors, threshold):
        found[i] = found[j] = True
    return found


def join_near_duplicates(
    ids: NDArray[np.int64],
    places: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    small: NDArray[np.uint8],
    pairs: Iterable[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]],
) -> None:
    """Join those of the pairs that are near-duplicates to the eye.

    Args:
        ids: (N,) the group of each image, changed in place.
        places: (n,) in `ids`, of the images that were looked at.
        hashes, small: (n,) and (n, 768), see `Look`.
        pairs: i and j in these three, and their similarity, block by block.
    """
    for i, j, _ in pairs:
        for start in range(0, len(i), AT_ONCE):
            a, b = i[start : start + AT_ONCE], j[start : start + AT_ONCE]
            apart = ids[places[a]] != ids[places[b]]  # the others are of one group already
            a, b = a[apart], b[apart]
            near = are_near_duplicates(hashes, small, a, b)
            if near.any():  # joining goes through all ids
                join_pairs(ids, places[a[near]], places[b[near]])


def join_alike(ids: NDArray[np.int64], images: DecodedImages, progress: Progress = lambda *_: None) -> None:
    """Join the groups, (N,), of decoded images that are near-duplicates, where there are no embeddings yet."""
    hashes = np.empty(len(images), np.uint64)
    small = np.empty((len(images), 3 * SMALL**2), np.uint8)
    for i in range(len(images)):
        image = Image.fromarray(images.read(np.array([i]))[0].transpose(1, 2, 0))
        hashes[i], small[i] = perceptual_hash(image), small_colors(image)
        progress(i + 1, len(images))
    colors = Rows(lambda rows: standardized(small[rows]), small.shape)
    pairs = pairs_above(colors, NEAR_DUPLICATE_MIN_CORRELATION)
    join_near_duplicates(ids, np.arange(len(ids)), hashes, small, pairs)


def are_copies(first: Look | None, second: Look | None) -> bool:
    """Return whether two images that were looked at are near-duplicates themselves, not only by way of others."""
    if first is None or second is None:
        return False
    hashes, small = np.array([first.hash, second.hash], np.uint64), np.array([first.small, second.small])
    return bool(are_near_duplicates(hashes, small, np.array([0]), np.array([1]))[0])


def _best_first(group: NDArray[np.int64], index: Index, looks: Mapping[int, Look]) -> NDArray[np.int64]:
    """Most pixels, then sharp ones, then most bytes; of equal files the oldest, a link after the file itself."""
    images = {place: index.images[place] for place in group.tolist()}
    pixels = {place: int(image["size"].prod(dtype=np.int64)) for place, image in images.items()}
    sharp = {place: looks[place].sharpness if place in looks else 0.0 for place in pixels}
    sharpest: dict[int, float] = {}  # of each size
    for place, size in pixels.items():
        sharpest[size] = max(sharpest.get(size, 0.0), sharp[place])

    def worth(place: int) -> tuple[int, bool, int, bool, int, bytes]:
        blurred = sharp[place] < AS_SHARP * sharpest[pixels[place]]
        size, age = images[place][["bytes", "modified_ns"]].item()
        return -pixels[place], blurred, -size, index.path(place).is_symlink(), age, os.fsencode(index.name(place))

    return np.array(sorted(group.tolist(), key=worth), np.int64)
