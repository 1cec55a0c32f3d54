"""The definition of near-duplicates, and those among decoded images, which have no embeddings yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.distributed import ProcessGroup
from simclr_cli.core.events import Note, Report, progress
from simclr_cli.engine.nearest import find_similar_pairs
from simclr_cli.images.cache import DecodedImages
from simclr_cli.images.fingerprints import (
    COLOR_SIDE,
    correlation,
    downscale_colors,
    perceptual_hash,
    standardize,
)
from simclr_cli.images.groups import group_images, join_equal, join_pairs
from simclr_cli.search.local_comparison import SIDE, Match, Squares

# Chosen on photos with known duplicates among many of one layout: docs/benchmarks.md.
NEAR_DUPLICATE_MAX_BITS = 8  # of the 64 of the perceptual hashes of near-duplicates that may differ
NEAR_DUPLICATE_MIN_CORRELATION = 0.96  # of the downscaled colors of near-duplicates
PAIRS_PER_BLOCK = 2_048  # compared at once by their colors
PAIRS_PER_JOIN = 128  # compared in full at once: those that they join need no comparison

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class ComparedImages:
    """Images as they are compared: their fingerprints, and their squares where those are similar."""

    hashes: NDArray[np.uint64]  # (N,), see `Fingerprint`
    colors: NDArray[np.uint8]  # (N, 768)
    squares: Squares

    def match(self, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.int8]:
        """Return (n,) the `Match` of each pair: the only definition of near-duplicates, visually.

        `duplicates` also requires similar embeddings; `pretrain --duplicates near` has none yet.
        """
        matches = np.zeros(len(i), np.int8)
        similar = np.flatnonzero(have_similar_fingerprints(self.hashes, self.colors, i, j))
        matches[similar] = self.squares.match(i[similar], j[similar])
        return matches


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


def join_near_duplicates(ids: NDArray[np.int64], images: DecodedImages, progress: Progress = lambda *_: None) -> None:
    """Join the groups of near-duplicates among decoded images, which have no embeddings yet.

    Args:
        ids: (N,) the group of each image, changed in place.
    """
    hashes = np.empty(len(images), np.uint64)
    colors = np.empty((len(images), 3 * COLOR_SIDE**2), np.uint8)

    def read(row: int) -> Image.Image:
        return Image.fromarray(images.read(np.array([row]))[0].transpose(1, 2, 0))

    def decode(rows: Sequence[int]) -> list[NDArray[np.uint8]]:
        return [np.asarray(read(row).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for row in rows]

    for i in range(len(images)):
        image = read(i)
        hashes[i], colors[i] = perceptual_hash(image), downscale_colors(image)
        progress(i + 1, len(images))
    rows = LazyRows(lambda part: standardize(colors[part]), colors.shape)
    pairs = find_similar_pairs(rows, NEAR_DUPLICATE_MIN_CORRELATION)
    squares = Squares(decode, np.minimum(images.sizes.min(axis=1), images.side))
    join_matching_pairs(ids, np.arange(len(ids)), ComparedImages(hashes, colors, squares), pairs, progress)


def have_similar_fingerprints(
    hashes: NDArray[np.uint64], colors: NDArray[np.uint8], i: NDArray[np.int64], j: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return (n,) which pairs of images are similar as a whole, as different pages of one template may be too.

    Args:
        hashes, colors: (N,) and (N, 768), see `Fingerprint`.
        i, j: (n,) positions in these.
    """
    near: NDArray[np.bool_] = np.bitwise_count(hashes[i] ^ hashes[j]) <= NEAR_DUPLICATE_MAX_BITS
    near[near] = correlation(colors[i[near]], colors[j[near]]) >= NEAR_DUPLICATE_MIN_CORRELATION
    return near


def join_matching_pairs(
    ids: NDArray[np.int64],
    places: NDArray[np.int64],
    images: ComparedImages,
    pairs: Iterable[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]],
    progress: Progress = lambda *_: None,
) -> None:
    """Join the groups of those pairs that are near-duplicates.

    Args:
        ids: (N,) the group of each image, changed in place.
        places: (n,) in `ids`, of the images.
        pairs: i and j in `images`, and their similarity, block by block.
        progress: called with (images done, images).
    """
    for i, j, _ in pairs:
        for start in range(0, len(i), PAIRS_PER_BLOCK):
            a, b = select_apart(ids, places, i[start : start + PAIRS_PER_BLOCK], j[start : start + PAIRS_PER_BLOCK])
            similar = have_similar_fingerprints(images.hashes, images.colors, a, b)
            a, b = a[similar], b[similar]
            for first in range(0, len(a), PAIRS_PER_JOIN):
                c, d = select_apart(ids, places, a[first : first + PAIRS_PER_JOIN], b[first : first + PAIRS_PER_JOIN])
                near = images.squares.match(c, d) != Match.DIFFERENT
                if near.any():  # joining passes over all ids
                    join_pairs(ids, places[c[near]], places[d[near]])
                progress(int(a[first]), len(places))
    progress(len(places), len(places))


def select_apart(
    ids: NDArray[np.int64], places: NDArray[np.int64], i: NDArray[np.int64], j: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs that are not in one group yet."""
    are_apart = ids[places[i]] != ids[places[j]]
    return i[are_apart], j[are_apart]


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
