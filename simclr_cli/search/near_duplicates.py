"""Exact duplicates and near-duplicates: of an index by its embeddings, or of decoded images before training."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from simclr_cli.api import DuplicateKind, ResolvedSettings
from simclr_cli.core.distributed import ProcessGroup
from simclr_cli.core.events import Note, Report, progress
from simclr_cli.engine.nearest import find_similar_pairs
from simclr_cli.images.cache import DecodedImages
from simclr_cli.images.decode_pool import isolate
from simclr_cli.images.fingerprints import (
    COLOR_SIDE,
    Fingerprint,
    compute_fingerprint,
    correlation,
    downscale_colors,
    perceptual_hash,
    standardize,
)
from simclr_cli.images.formats import UnusableImage
from simclr_cli.images.groups import group_images, join_equal, join_pairs
from simclr_cli.images.threads import map_in_order
from simclr_cli.store.index import Embeddings, Index

# Chosen on photos with known duplicates among many of one layout: docs/benchmarks.md.
NEAR_DUPLICATE_MAX_BITS = 8  # of the 64 of the perceptual hashes of near-duplicates that may differ
NEAR_DUPLICATE_MIN_CORRELATION = 0.96  # of the downscaled colors of near-duplicates
MIN_RELATIVE_SHARPNESS = 0.75  # of the sharpest: JPEG's block edges make a recompressed image up to 1.21 times as sharp
PAIRS_PER_BLOCK = 2_048  # compared at once by their colors

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Groups of duplicates in an index."""

    groups: tuple[NDArray[np.int64], ...]  # places in the index, the best image first; the largest group first
    fingerprints: Mapping[int, Fingerprint]  # by place, of the images that were compared
    skipped: tuple[str, ...]  # images that can no longer be decoded, with the reason


@dataclass(frozen=True)
class LazyRows:
    """(N, D) float32 rows of length 1, made when a slice of them is read."""

    read: Callable[[slice], NDArray[np.float32]]
    shape: tuple[int, int]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """(n, D) float32."""
        return self.read(rows)


def find_duplicates(
    index: Index, kind: DuplicateKind, threshold: float, *, workers: int, progress: Progress = lambda *_: None
) -> Duplicates:
    """Find groups of two images or more; near-duplicates of near-duplicates share a group.

    Of files with the same content only one is compared. Only images whose embedding is similar to another one are
    decoded. No list of pairs is kept: a folder of nothing but near-duplicates would need too much memory.

    Args:
        threshold: the least cosine similarity of near-duplicates.
        progress: called with (images compared, images to compare).
    """
    first = np.arange(len(index))  # the first place with the same content
    join_equal(first, enumerate(map(bytes, index.images["checksum"])))
    ids = first.copy()
    fingerprints: dict[int, Fingerprint] = {}
    skipped: list[str] = []
    if kind != "exact":
        distinct = np.unique(first)
        candidates = distinct[_find_rows_in_pairs(index.h.select(distinct), threshold)]
        fingerprints, skipped = _compute_fingerprints(index, candidates, workers, progress)
        decoded = np.array(list(fingerprints), np.int64)
        hashes = np.array([fingerprint.hash for fingerprint in fingerprints.values()], np.uint64)
        colors = np.array([fingerprint.colors for fingerprint in fingerprints.values()], np.uint8)
        pairs = find_similar_pairs(index.h.select(decoded), threshold)
        _join_matching_pairs(ids, decoded, hashes, colors, pairs)
        fingerprints |= {place: fingerprints[i] for place, i in enumerate(first.tolist()) if i in fingerprints}
    places = np.unique(first) if kind == "near" else np.arange(len(ids))
    order = places[np.argsort(ids[places], kind="stable")]
    parts = np.split(order, np.flatnonzero(np.diff(ids[order])) + 1)
    groups = [_sort_best_first(part, index, fingerprints) for part in parts if len(part) > 1]
    groups.sort(key=lambda group: (-len(group), os.fsencode(index.get_name(int(group[0])))))
    return Duplicates(tuple(groups), fingerprints, tuple(skipped))


def join_near_duplicates(ids: NDArray[np.int64], images: DecodedImages, progress: Progress = lambda *_: None) -> None:
    """Join the groups of near-duplicates among decoded images, which have no embeddings yet.

    Args:
        ids: (N,) the group of each image, changed in place.
    """
    hashes = np.empty(len(images), np.uint64)
    colors = np.empty((len(images), 3 * COLOR_SIDE**2), np.uint8)
    for i in range(len(images)):
        image = Image.fromarray(images.read(np.array([i]))[0].transpose(1, 2, 0))
        hashes[i], colors[i] = perceptual_hash(image), downscale_colors(image)
        progress(i + 1, len(images))
    rows = LazyRows(lambda part: standardize(colors[part]), colors.shape)
    pairs = find_similar_pairs(rows, NEAR_DUPLICATE_MIN_CORRELATION)
    _join_matching_pairs(ids, np.arange(len(ids)), hashes, colors, pairs)


def are_near_duplicates(
    hashes: NDArray[np.uint64], colors: NDArray[np.uint8], i: NDArray[np.int64], j: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return (n,) which pairs of images are near-duplicates visually: the only definition of it.

    `duplicates` also requires similar embeddings; `pretrain --duplicates near` has none yet.

    Args:
        hashes, colors: (N,) and (N, 768), see `Fingerprint`.
        i, j: (n,) positions in these.
    """
    near: NDArray[np.bool_] = np.bitwise_count(hashes[i] ^ hashes[j]) <= NEAR_DUPLICATE_MAX_BITS
    near[near] = correlation(colors[i[near]], colors[j[near]]) >= NEAR_DUPLICATE_MIN_CORRELATION
    return near


def is_near_duplicate(first: Fingerprint | None, second: Fingerprint | None) -> bool:
    """Return whether two images are near-duplicates directly, not only by way of others; None: not compared."""
    if first is None or second is None:
        return False
    hashes, colors = np.array([first.hash, second.hash], np.uint64), np.array([first.colors, second.colors])
    return bool(are_near_duplicates(hashes, colors, np.array([0]), np.array([1]))[0])


def _find_rows_in_pairs(embeddings: Embeddings, threshold: float) -> NDArray[np.bool_]:
    """Return (N,) for each row whether another one is at least so similar."""
    is_in_pair = np.zeros(len(embeddings), bool)
    for i, j, _ in find_similar_pairs(embeddings, threshold):
        is_in_pair[i] = is_in_pair[j] = True
    return is_in_pair


def _compute_fingerprints(
    index: Index, places: NDArray[np.int64], workers: int, progress: Progress
) -> tuple[dict[int, Fingerprint], list[str]]:
    """Return the fingerprints by place, and the images that cannot be decoded, with the reason."""
    fingerprints: dict[int, Fingerprint] = {}
    skipped: list[str] = []
    paths = [index.get_path(place) for place in places.tolist()]
    with closing(map_in_order(isolate(compute_fingerprint, workers), paths, workers)) as results:
        for done, (place, path, result) in enumerate(zip(places.tolist(), paths, results, strict=True), start=1):
            if isinstance(result, UnusableImage):
                skipped.append(f"{path}: {result.reason}")
            else:
                fingerprints[place] = result
            progress(done, len(places))
    return fingerprints, skipped


def _join_matching_pairs(
    ids: NDArray[np.int64],
    places: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    colors: NDArray[np.uint8],
    pairs: Iterable[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]],
) -> None:
    """Join the groups of those pairs whose fingerprints are near-duplicates.

    Args:
        ids: (N,) the group of each image, changed in place.
        places: (n,) in `ids`, of the fingerprints.
        hashes, colors: (n,) and (n, 768), see `Fingerprint`.
        pairs: i and j in these three, and their similarity, block by block.
    """
    for i, j, _ in pairs:
        for start in range(0, len(i), PAIRS_PER_BLOCK):
            a, b = i[start : start + PAIRS_PER_BLOCK], j[start : start + PAIRS_PER_BLOCK]
            are_apart = ids[places[a]] != ids[places[b]]
            a, b = a[are_apart], b[are_apart]
            near = are_near_duplicates(hashes, colors, a, b)
            if near.any():  # joining passes over all ids
                join_pairs(ids, places[a[near]], places[b[near]])


def _sort_best_first(
    group: NDArray[np.int64], index: Index, fingerprints: Mapping[int, Fingerprint]
) -> NDArray[np.int64]:
    """Sort by most pixels, sharpness, most bytes; of equal files the oldest first, a link after its file."""
    images = {place: index.images[place] for place in group.tolist()}
    pixels = {place: int(image["size"].prod(dtype=np.int64)) for place, image in images.items()}
    sharpness = {place: fingerprints[place].sharpness if place in fingerprints else 0.0 for place in pixels}
    sharpest: dict[int, float] = {}  # of each size
    for place, size in pixels.items():
        sharpest[size] = max(sharpest.get(size, 0.0), sharpness[place])

    def sort_key(place: int) -> tuple[int, bool, int, bool, int, bytes]:
        is_blurred = sharpness[place] < MIN_RELATIVE_SHARPNESS * sharpest[pixels[place]]
        size, age = images[place][["bytes", "modified_ns"]].item()
        is_link, name = index.get_path(place).is_symlink(), os.fsencode(index.get_name(place))
        return -pixels[place], is_blurred, -size, is_link, age, name

    return np.array(sorted(group.tolist(), key=sort_key), np.int64)


def group_negatives(
    images: DecodedImages, settings: ResolvedSettings, processes: ProcessGroup, report: Report
) -> Tensor | None:
    """Return (N,) the class of each image for supcon, else the group in which images are excluded as negatives."""
    if settings.loss == "supcon":
        labels = images.census.labels
        classes = np.arange(len(labels))  # an image without a class is one of its own
        join_equal(classes, ((row, label) for row, label in enumerate(labels) if label is not None))
        return torch.from_numpy(classes)
    groups = None
    if processes.is_main:
        ids = group_images(images.census, settings.group_by, settings.duplicates, images.workers)
        if ids is not None and settings.duplicates == "near":
            join_near_duplicates(ids, images, progress(report, "looking for duplicates"))
        groups = None if ids is None else ids.tolist()
    if (groups := processes.broadcast_object(groups)) is None:
        return None
    sizes = sorted(size for size in Counter(groups).values() if size > 1)
    size_range = f", of {' to '.join(str(n) for n in sorted({sizes[0], sizes[-1]}))} images" if sizes else ""
    ungrouped = len(groups) - sum(sizes)
    text = f"Groups excluded as negatives: {len(sizes):,}{size_range}; {ungrouped:,} images are in no group."
    report(Note(text))
    return torch.tensor(groups)
