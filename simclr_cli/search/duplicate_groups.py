"""Exact duplicates and near-duplicates in an index, and the best image of each group of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from simclr_cli.api import DuplicateKind
from simclr_cli.engine.nearest import find_similar_pairs
from simclr_cli.images.decode import decode_squashed
from simclr_cli.images.decode_pool import isolate
from simclr_cli.images.fingerprints import Fingerprint, compute_fingerprint
from simclr_cli.images.formats import UnusableImage
from simclr_cli.images.groups import join_equal
from simclr_cli.images.threads import map_in_order
from simclr_cli.search.local_comparison import SIDE, Match, Squares, have_same_details, list_detailed_sides
from simclr_cli.search.near_duplicates import ComparedImages, Progress, join_matching_pairs
from simclr_cli.search.transformed import ORIENTATIONS, TransformedImages, orient
from simclr_cli.store.index import Embeddings, Index

MIN_RELATIVE_SHARPNESS = 0.6  # of the sharpest of a group; below, images of one size were upscaled
MIN_SHARPNESS_OF_SIZE = 0.4  # of the sharpest of one size; below, an image was blurred. JPEG again may double sharpness
MAX_COMPARED_MEMBERS = 16  # of a group, with each of which all its images are compared for overlays
MAX_OVERLAY_COMPARISONS = 2_048  # of a group: fewer members of a large one


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Groups of duplicates in an index."""

    groups: tuple[NDArray[np.int64], ...]  # places in the index, the best image first; the largest group first
    fingerprints: Mapping[int, Fingerprint]  # by place, of the images that were compared
    skipped: tuple[str, ...]  # images that can no longer be decoded, with the reason
    linked: frozenset[int] = frozenset()  # places of files that have another name; only one of these is in a group
    images: ComparedImages | None = None
    rows: Mapping[int, int] = field(default_factory=dict)  # by place, in `images`
    transformed: TransformedImages | None = None

    def match(self, first: int, second: int) -> Match:
        """Compare two images visually, directly and not only by way of others."""
        if self.images is None or first not in self.rows or second not in self.rows:
            return Match.DIFFERENT
        return Match(self.images.match(np.array([self.rows[first]]), np.array([self.rows[second]]))[0])

    def have_same_details(self, index: Index, best: int, other: int, transform: str | None) -> bool:
        """Return whether two duplicates show the same up to 1,024 px, as files must that are moved.

        Args:
            transform: the orientation of the other, if it has another one.
        """
        sides = list_detailed_sides(int(index.images["size"][[best, other]].min()))
        if not sides:
            return True
        decode = isolate(decode_squashed, 1)
        try:
            first, second = (decode(index.get_path(place), max(sides)) for place in (best, other))
        except UnusableImage:
            return False
        turned = orient(torch.from_numpy(first).movedim(2, 0), ORIENTATIONS[transform or ""]).movedim(0, 2)
        return have_same_details(turned.numpy(), second)

    def describe_transform(self, best: int, other: int) -> str | None:
        """Return how an image was mirrored, rotated or cropped to get another one; None: not, or not looked for."""
        if self.transformed is None or self.match(best, other) or best not in self.rows or other not in self.rows:
            return None
        return self.transformed.describe(self.rows[best], self.rows[other])


def find_duplicates(
    index: Index,
    kind: DuplicateKind,
    threshold: float,
    transformed: bool = False,
    *,
    workers: int,
    progress: Progress = lambda *_: None,
) -> Duplicates:
    """Find groups of two images or more; near-duplicates of near-duplicates share a group.

    Of files with the same content only one is compared. Only images whose embedding is similar to another one are
    decoded. No list of pairs is kept: a folder of nothing but near-duplicates would need too much memory.

    Args:
        threshold: the least cosine similarity of near-duplicates.
        transformed: also look for mirrored, rotated and cropped duplicates; then all images are decoded.
        progress: called with (images compared, images to compare).
    """
    first = np.arange(len(index))  # the first place with the same content
    join_equal(first, enumerate(map(bytes, index.images["checksum"])))
    ids = first.copy()
    fingerprints: dict[int, Fingerprint] = {}
    skipped: list[str] = []
    images, rows, transformed_images = None, {}, None
    if kind != "exact":
        distinct = np.unique(first)
        candidates = distinct
        if not transformed:
            candidates = distinct[_find_rows_in_pairs(index.h.select(distinct), threshold)]
        fingerprints, skipped = _compute_fingerprints(index, candidates, workers, progress)
        decoded = np.array(list(fingerprints), np.int64)
        images = _prepare_comparison(index, decoded, fingerprints, workers)
        join_matching_pairs(ids, decoded, images, find_similar_pairs(index.h.select(decoded), threshold), progress)
        if transformed:
            height, width = index.images["size"][decoded].T
            transformed_images = TransformedImages(images, width / height)
            transformed_images.join(ids, decoded, index.h.select(decoded), threshold, progress)
        row_by_place = {place: row for row, place in enumerate(fingerprints)}
        rows = {place: row_by_place[i] for place, i in enumerate(first.tolist()) if i in row_by_place}
    places = np.unique(first) if kind == "near" else np.arange(len(ids))
    order = places[np.argsort(ids[places], kind="stable")]
    parts = [part for part in np.split(order, np.flatnonzero(np.diff(ids[order])) + 1) if len(part) > 1]
    parts, linked = _merge_links(parts, index)
    mixed = [first[part] for part in parts if len(np.unique(first[part])) > 1]
    if images is not None and mixed:
        measured, _ = _compute_fingerprints(index, np.unique(np.concatenate(mixed)), workers, progress, sharpness=True)
        fingerprints |= measured
        fingerprints |= {place: fingerprints[i] for place, i in enumerate(first.tolist()) if i in fingerprints}
    groups = [_sort_best_first(part, index, fingerprints, images, rows) for part in parts]
    groups.sort(key=lambda group: (-len(group), os.fsencode(index.get_name(int(group[0])))))
    return Duplicates(tuple(groups), fingerprints, tuple(skipped), linked, images, rows, transformed_images)


def _find_rows_in_pairs(embeddings: Embeddings, threshold: float) -> NDArray[np.bool_]:
    """Return (N,) for each row whether another one is at least so similar."""
    is_in_pair = np.zeros(len(embeddings), bool)
    for i, j, _ in find_similar_pairs(embeddings, threshold):
        is_in_pair[i] = is_in_pair[j] = True
    return is_in_pair


def _compute_fingerprints(
    index: Index, places: NDArray[np.int64], workers: int, progress: Progress, *, sharpness: bool = False
) -> tuple[dict[int, Fingerprint], list[str]]:
    """Return the fingerprints by place, and the images that cannot be decoded, with the reason."""
    fingerprints: dict[int, Fingerprint] = {}
    skipped: list[str] = []
    paths = [index.get_path(place) for place in places.tolist()]
    compute = isolate(compute_fingerprint, workers)
    with closing(map_in_order(lambda path: compute(path, sharpness), paths, workers)) as results:
        for done, (place, path, result) in enumerate(zip(places.tolist(), paths, results, strict=True), start=1):
            if isinstance(result, UnusableImage):
                skipped.append(f"{path}: {result.reason}")
            else:
                fingerprints[place] = result
            progress(done, len(places))
    return fingerprints, skipped


def _prepare_comparison(
    index: Index, places: NDArray[np.int64], fingerprints: Mapping[int, Fingerprint], workers: int
) -> ComparedImages:
    """Return the images at these places, to be compared."""
    decode_square = isolate(decode_squashed, workers)

    def decode(rows: Sequence[int]) -> list[NDArray[np.uint8] | None]:
        paths = [index.get_path(int(places[row])) for row in rows]
        with closing(map_in_order(lambda path: decode_square(path, SIDE), paths, workers)) as results:
            return [None if isinstance(result, UnusableImage) else result for result in results]

    return ComparedImages(
        np.array([fingerprints[place].hash for place in places.tolist()], np.uint64),
        np.array([fingerprints[place].colors for place in places.tolist()], np.uint8),
        Squares(decode, index.images["size"][places].min(axis=1).astype(np.int64)),
    )


def _merge_links(groups: Sequence[NDArray[np.int64]], index: Index) -> tuple[list[NDArray[np.int64]], frozenset[int]]:
    """Keep one name of each file, which may have several as hard or symbolic links.

    Returns:
        The groups that still have two files or more, and the places of those files that have more names.
    """
    merged: list[NDArray[np.int64]] = []
    linked: set[int] = set()
    for group in groups:
        names: dict[tuple[int, int], list[int]] = {}
        for place in sorted(group.tolist(), key=lambda place: index.get_path(place).is_symlink()):
            try:
                status = index.get_path(place).stat()
                names.setdefault((status.st_dev, status.st_ino), []).append(place)
            except OSError:  # gone, which is reported where it matters
                names[-1, place] = [place]
        linked.update(places[0] for places in names.values() if len(places) > 1)
        if len(names) > 1:
            merged.append(np.sort([places[0] for places in names.values()]))
    return merged, frozenset(linked)


def _sort_best_first(
    group: NDArray[np.int64],
    index: Index,
    fingerprints: Mapping[int, Fingerprint],
    compared: ComparedImages | None,
    rows: Mapping[int, int],
) -> NDArray[np.int64]:
    """Sort by fewest overlays, most pixels that hold detail, most bytes; of equal files the oldest first.

    A smaller duplicate is sharper in its own pixels, and one that was compressed again may be: neither is better.
    """
    overlays = _count_overlays(compared, np.unique([rows[place] for place in group.tolist() if place in rows]))
    sharpness = {place: fingerprints[place].sharpness if place in fingerprints else 0.0 for place in group.tolist()}
    sharpest, of_size = max(sharpness.values()), dict[tuple[int, ...], float]()
    for place, value in sharpness.items():
        sides = tuple(index.images["size"][place].tolist())
        of_size[sides] = max(of_size.get(sides, 0), value)

    def sort_key(place: int) -> tuple[int, float, int, int, bytes]:
        sides, (size, age) = index.images["size"][place], index.images[place][["bytes", "modified_ns"]].item()
        of_equal = of_size[tuple(sides.tolist())]
        upscaled = _penalize(of_equal, sharpest, MIN_RELATIVE_SHARPNESS)
        detail = float(sides.prod(dtype=np.int64)) * upscaled
        detail *= _penalize(sharpness[place], of_equal, MIN_SHARPNESS_OF_SIZE)
        return overlays.get(rows.get(place, -1), 0), -detail, -size, age, os.fsencode(index.get_name(place))

    return np.array(sorted(group.tolist(), key=sort_key), np.int64)


def _penalize(sharpness: float, sharpest: float, minimum: float) -> float:
    """Return the share of an image's pixels that hold detail, by its sharpness relative to the sharpest."""
    relative = sharpness / sharpest if sharpest else 1.0
    return relative**1.5 if relative < minimum else 1.0


def _count_overlays(images: ComparedImages | None, rows: NDArray[np.int64]) -> Counter[int]:
    """Return on how many of the images of a group each has an overlay, such as a watermark, by its row."""
    if images is None or len(rows) < 2:
        return Counter()
    members = rows[: max(1, min(MAX_COMPARED_MEMBERS, MAX_OVERLAY_COMPARISONS // len(rows)))]
    i, j = np.repeat(rows, len(members)), np.tile(members, len(rows))
    i, j = i[i != j], j[i != j]
    return Counter(i[images.match(i, j) == Match.OVERLAY_ON_FIRST].tolist())
