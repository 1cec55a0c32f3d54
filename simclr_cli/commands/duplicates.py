"""Copies among a run's images, the best of each group first. Nothing is deleted; only what is asked for is moved."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr_cli.api import DuplicateGroup, DuplicateImage, DuplicatesResult, DuplicatesSettings
from simclr_cli.core.errors import Interrupted
from simclr_cli.core.events import Report, progress, silent
from simclr_cli.core.locks import locked
from simclr_cli.core.text import count
from simclr_cli.images.fingerprints import NEAR_DUPLICATE_MAX_BITS
from simclr_cli.search.library import choose_run, open_index
from simclr_cli.search.near_duplicates import Copies, are_copies, find_copies
from simclr_cli.search.output import Entry, Group, cells, page_of, write_found
from simclr_cli.search.similarity_scale import Calibration
from simclr_cli.store.index import Index
from simclr_cli.store.moves import Moved, check_destination, check_free, is_still, move_out, put_back, read_journal

VIEWS_BELOW = 50  # percent of pairs of views of one image that may be less similar than near copies
MOST_SIMILAR = 0.999  # that near copies must be at most: of a collapsed encoder all similarities are 1 but for rounding


def duplicates(settings: DuplicatesSettings, *, report: Report = silent) -> DuplicatesResult:
    """Groups of copies; with `move_to` all but the best of each are moved there, with `put_back` they come back.

    Raises:
        SimclrError: one of its kinds, with what to do next.
    """
    if settings.restore is not None:
        read_journal(settings.restore)  # there is something to do
        with locked(settings.restore, report):
            root, done, left = put_back(settings.restore, progress(report, "putting back"), settings.restore_to)
        return DuplicatesResult(None, 0, None, (), 0, 0, moved=done, moved_to=str(root), not_moved=left)
    if settings.move_to is not None:
        check_free(settings.move_to)  # before long work
    chosen = choose_run(settings)
    out = page_of(settings, chosen.run, "duplicates")
    index, calibration = open_index(chosen, report)
    if settings.move_to is not None:
        check_destination(settings.move_to, Path(index.root))
    threshold = least_similarity(settings, calibration)
    looking = progress(report, "looking at what may be copies")
    found = find_copies(index, settings.kind, threshold or 0, workers=chosen.workers, progress=looking)
    groups = tuple(described(group, index, found) for group in found.groups)
    result = DuplicatesResult(
        run=str(chosen.run.path),
        searched=len(index),
        threshold=threshold,
        groups=groups,
        duplicates=sum(len(group.images) - 1 for group in groups),
        bytes=sum(group.bytes for group in groups),
        skipped=found.skipped,
        out=str(out) if out else None,
    )
    if out is not None:  # before anything moves: the gallery shows the images where they are
        numbers = out.suffix.lower() != ".html"  # a table is filtered by numbers, a page is looked at
        shown = as_groups(groups, numbers)
        write_found(out, result, "Copies", lead_of(result), shown, workers=chosen.workers, report=report)
    if settings.move_to is None:
        return result
    with locked(settings.move_to, report):
        return _moved(settings.move_to, index, found, result, report)


def least_similarity(settings: DuplicatesSettings, calibration: Calibration) -> float | None:
    """From where on two images may be near copies; None where near copies are not looked for."""
    if settings.kind == "exact":
        return None
    if settings.min_similarity is not None:
        return settings.min_similarity
    return min(calibration.views_at(VIEWS_BELOW), MOST_SIMILAR)


def described(group: NDArray[np.int64], index: Index, found: Copies) -> DuplicateGroup:
    """One group in plain values, each copy beside the best."""
    similarity = index.h.take(group) @ index.h.take(group[:1])[0]
    first, best = index.images[group[0]], found.looks.get(int(group[0]))
    copies = []
    for place, cosine in zip(group.tolist(), similarity.tolist(), strict=True):
        image, look = index.images[place], found.looks.get(place)
        exact = bool((image["checksum"] == first["checksum"]).all())
        copies.append(
            DuplicateImage(
                path=str(index.path(place)),
                exact=exact,
                similarity=1.0 if exact else cosine,
                hash_distance=(look.hash ^ best.hash).bit_count() if look and best else None,
                width=int(image["size"][1]),
                height=int(image["size"][0]),
                bytes=int(image["bytes"]),
                sharpness=look.sharpness if look else None,
            )
        )
    return DuplicateGroup(tuple(copies), sum(copy.bytes for copy in copies[1:]))


def lead_of(result: DuplicatesResult) -> str:
    """What the page says above the groups."""
    spared = f"{count(result.duplicates, 'file')} that could go, {result.bytes / 1e6:,.1f} MB"
    near = (
        "" if result.threshold is None
        else f" Near copies are at least {result.threshold:.3f} similar and at most {NEAR_DUPLICATE_MAX_BITS} of 64"
        " bits apart, or joined by such."
    )  # fmt: skip
    return f"{result.searched:,} images, {count(len(result.groups), 'group')}, {spared}. Best copy first.{near}"


def as_groups(groups: Sequence[DuplicateGroup], numbers: bool = False) -> list[Group]:
    """What is written to a file; with `numbers` groups are called by these alone."""
    return [
        Group(
            heading=str(number) if numbers else f"{number}. {Path(group.images[0].path).name}",
            entries=tuple(_entry(copy, best=False) for copy in group.images[1:]),
            lead=f"Without the others {group.bytes / 1e6:,.2f} MB would be free.",
            sample=_entry(group.images[0], best=True),
        )
        for number, group in enumerate(groups, start=1)
    ]


def _entry(copy: DuplicateImage, *, best: bool) -> Entry:
    alike = "best copy" if best else "the same file" if copy.exact else f"{copy.similarity:.3f} similar"
    words = f"{alike}, {copy.width} x {copy.height}, {copy.bytes / 1e3:,.0f} kB"
    return Entry(copy.path, words, {"best": best, **cells(copy)})


def _moved(folder: Path, index: Index, found: Copies, result: DuplicatesResult, report: Report) -> DuplicatesResult:
    """All but the best copies moved out, where the best is still what it was, and they are copies of it themselves."""
    files: list[Moved] = []
    left: list[str] = []
    for group in found.groups:
        checksums = (checksum.tobytes().hex() for checksum in index.images["checksum"][group])
        best, *others = map(Moved, map(index.name, group.tolist()), checksums)
        look, *looks = map(found.looks.get, group.tolist())
        kept = is_still(Path(index.root) / best.name, best.checksum)
        for one, its_look in zip(others, looks, strict=True):
            path = Path(index.root) / one.name
            if not kept:
                left.append(f"{path}: its best copy {best.name} is gone, or has changed")
            elif one.checksum == best.checksum or are_copies(its_look, look):
                files.append(one)
            else:
                left.append(f"{path}: a copy of copies of {best.name}, not of that itself")
    if not files:
        return dataclasses.replace(result, not_moved=tuple(left))
    try:
        moved, more = move_out(Path(index.root), folder, files, progress(report, "moving"))
    except Interrupted as stop:
        raise type(stop)(
            "Stopped while files were moved.", f"Put them back with: simclr duplicates --restore {folder}"
        ) from None
    return dataclasses.replace(result, moved=moved, moved_to=str(folder), not_moved=(*left, *more))
