"""The duplicates command: groups of duplicates, the best image first. It deletes nothing and moves only on request."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr_cli.api import DuplicateGroup, DuplicateImage, DuplicatesResult, DuplicatesSettings
from simclr_cli.core.errors import InputError, Interrupted
from simclr_cli.core.events import Note, Report, progress, silent
from simclr_cli.core.files import prepare_folder
from simclr_cli.core.locks import lock_folder
from simclr_cli.core.text import format_count, quote_words
from simclr_cli.images.cache_location import PAGES_FOLDER, locate_cache
from simclr_cli.images.threads import count_workers, map_in_order
from simclr_cli.search.duplicate_groups import Duplicates, find_duplicates
from simclr_cli.search.library import list_files, open_index, open_library
from simclr_cli.search.local_comparison import Match
from simclr_cli.search.near_duplicates import NEAR_DUPLICATE_MAX_BITS
from simclr_cli.search.output import ResultGroup, ResultImage, collect_cells, prepare_output, write_results
from simclr_cli.search.similarity_scale import SimilarityScale
from simclr_cli.search.transformed import CROPPED, UNCROPPED
from simclr_cli.store.index import Index
from simclr_cli.store.moves import (
    MovedFile,
    check_destination,
    check_unused,
    matches_checksum,
    move_files,
    read_journal,
    restore_files,
)

VIEW_PERCENT = 50  # of the pairs of views of one image; near-duplicates are at least as similar as these
MAX_THRESHOLD = 0.999  # a collapsed encoder makes all similarities 1 but for rounding


def duplicates(settings: DuplicatesSettings, *, report: Report = silent) -> DuplicatesResult:
    """Find groups of duplicates; with `move_to` move all but the best of each there, with `restore` move them back.

    Raises:
        SimclrError: one of its subclasses, with what to do next.
    """
    if settings.restore is not None:
        return _restore(settings.restore, settings.images, report)
    if settings.move_to is not None:
        check_unused(settings.move_to)  # before long work
    encoder, threshold, caution, workers = None, None, "", count_workers(settings.workers)
    if settings.kind == "exact":
        index = list_files(settings, report)
        out = prepare_output(settings, locate_cache(Path(index.root)) / PAGES_FOLDER, "duplicates")
    else:
        library = open_library(settings, report)
        out = prepare_output(settings, library.pages_folder, "duplicates")
        index, scale = open_index(library, report)
        encoder, threshold, caution = library.loaded.name, resolve_threshold(settings, scale), library.caution
    if settings.move_to is not None:
        check_destination(settings.move_to, Path(index.root))
        prepare_folder(settings.move_to)
    on_progress = progress(report, "comparing images")
    found = find_duplicates(
        index, settings.kind, threshold or 0, settings.transformed, workers=workers, progress=on_progress
    )
    if found.linked:
        files = format_count(len(found.linked), "file")
        report(Note(f"{files} with several names (links): one name is listed, and the file is never moved."))
    groups = tuple(describe_group(group, index, found) for group in found.groups)
    result = DuplicatesResult(
        folder=str(settings.images or index.root),
        encoder=encoder,
        searched=len(index),
        threshold=threshold,
        groups=groups,
        duplicates=sum(len(group.images) - 1 for group in groups),
        bytes=sum(group.bytes for group in groups),
        skipped=found.skipped,
        out=str(out) if out else None,
    )
    if out is not None:  # before anything moves: the gallery shows the images where they are
        result_groups = make_result_groups(groups, is_table=out.suffix.lower() != ".html")
        lead = f"{summarize(result)} {caution}".strip()
        write_results(out, result, "Duplicates", lead, result_groups, workers=workers, report=report)
    if settings.move_to is None:
        return result
    with lock_folder(settings.move_to, report):
        return _move_duplicates(settings.move_to, index, found, result, workers, report)


def _restore(folder: Path, root: Path | None, report: Report) -> DuplicatesResult:
    origin = read_journal(folder).root  # fails if no files were moved there
    if root is None:
        raise InputError(
            f"The files in {folder} came from {origin}. They are moved only into a folder that you name.",
            f"If that is right: {quote_words('simclr', 'duplicates', str(origin), '--restore', str(folder))}",
        )
    with lock_folder(folder, report):
        restored, not_moved = restore_files(folder, root, progress(report, "restoring"))
    return DuplicatesResult(None, None, 0, None, (), 0, 0, moved=restored, moved_to=str(root), not_moved=not_moved)


def resolve_threshold(settings: DuplicatesSettings, scale: SimilarityScale) -> float:
    """Return the least similarity of near-duplicates."""
    if settings.min_similarity is not None:
        return settings.min_similarity
    return min(scale.view_quantile(VIEW_PERCENT), MAX_THRESHOLD)


def describe_group(group: NDArray[np.int64], index: Index, found: Duplicates) -> DuplicateGroup:
    """Return a group in plain values, each image compared with the best one, which is the first."""
    similarity = index.h.take(group) @ index.h.take(group[:1])[0]
    best, reference = index.images[group[0]], found.fingerprints.get(int(group[0]))
    images = []
    for place, cosine in zip(group.tolist(), similarity.tolist(), strict=True):
        image, fingerprint = index.images[place], found.fingerprints.get(place)
        exact = bool((image["checksum"] == best["checksum"]).all())
        images.append(
            DuplicateImage(
                path=str(index.get_path(place)),
                exact=exact,
                similarity=1.0 if exact else cosine,
                hash_distance=(fingerprint.hash ^ reference.hash).bit_count() if fingerprint and reference else None,
                width=int(image["size"][1]),
                height=int(image["size"][0]),
                bytes=int(image["bytes"]),
                sharpness=(fingerprint.sharpness or None) if fingerprint else None,
                transform=None if exact else found.describe_transform(int(group[0]), place),
            )
        )
    freed = (int(index.images[place]["bytes"]) for place in group.tolist()[1:] if place not in found.linked)
    return DuplicateGroup(tuple(images), sum(freed))


def summarize(result: DuplicatesResult) -> str:
    """Return the lead of the page."""
    counts = f"{format_count(len(result.groups), 'group')}, {format_count(result.duplicates, 'duplicate')}"
    near = (
        "" if result.threshold is None
        else " A group holds near-duplicates of any of its images: a similarity of at least"
        f" {result.threshold:.3f} and a hash distance of at most {NEAR_DUPLICATE_MAX_BITS} of 64 bits."
    )  # fmt: skip
    if any(image.transform for group in result.groups for image in group.images):
        near += " A mirrored, rotated or cropped duplicate was compared with that undone."
    return f"{result.searched:,} images, {counts}, {result.bytes / 1e6:,.1f} MB. The best image is first.{near}"


def make_result_groups(groups: Sequence[DuplicateGroup], *, is_table: bool = False) -> list[ResultGroup]:
    """Return the groups for a gallery, or for a table, where a group's heading is only its number."""
    return [
        ResultGroup(
            heading=str(number) if is_table else f"{number}. {Path(group.images[0].path).name}",
            images=tuple(_make_result_image(image, best=False) for image in group.images[1:]),
            lead=f"Without the others, {group.bytes / 1e6:,.2f} MB would be free.",
            sample=_make_result_image(group.images[0], best=True),
        )
        for number, group in enumerate(groups, start=1)
    ]


def _make_result_image(image: DuplicateImage, *, best: bool) -> ResultImage:
    kind = "best image" if best else "the same file" if image.exact else f"{image.similarity:.3f} similar"
    kind = f"{image.transform}, {kind}" if image.transform else kind
    caption = f"{kind}, {image.width} x {image.height}, {image.bytes / 1e3:,.0f} kB"
    return ResultImage(image.path, caption, {"best": best, **collect_cells(image)})


def _find_reason_to_stay(
    index: Index, found: Duplicates, best: int, place: int, image: DuplicateImage, threshold: float
) -> str:
    """Return why a file of a group may not be moved; empty if it may, but for its details."""
    name = index.get_name(best)
    if place in found.linked:
        return "the file has other names (links), which would remain"
    if image.transform == UNCROPPED:
        return f"it shows more than its best image {name}"
    if image.exact or image.transform:
        return ""
    visual = found.match(place, best)
    if visual == Match.OVERLAY_ON_FIRST:
        return f"{name} is the same without something (a watermark, or an entry)"
    if not visual or image.similarity < threshold:
        return f"a duplicate of other duplicates of {name}, not of that image"
    return ""


def _move_duplicates(
    folder: Path, index: Index, found: Duplicates, result: DuplicatesResult, workers: int, report: Report
) -> DuplicatesResult:
    """Move the direct duplicates of each best image that is unchanged, and list the others as not moved."""
    candidates: list[tuple[MovedFile, DuplicateImage, int, int]] = []
    files: list[MovedFile] = []
    not_moved: list[str] = []
    for group, described in zip(found.groups, result.groups, strict=True):
        checksums = (checksum.tobytes().hex() for checksum in index.images["checksum"][group])
        best, *others = map(MovedFile, map(index.get_name, group.tolist()), checksums)
        best_is_unchanged = matches_checksum(Path(index.root) / best.name, best.checksum)
        for file, place, image in zip(others, group.tolist()[1:], described.images[1:], strict=True):
            if not best_is_unchanged:
                not_moved.append(f"{image.path}: its best image {best.name} is missing or has changed")
            elif reason := _find_reason_to_stay(index, found, int(group[0]), place, image, result.threshold or 0):
                not_moved.append(f"{image.path}: {reason}")
            else:
                candidates.append((file, image, place, int(group[0])))

    def has_same_details(candidate: tuple[MovedFile, DuplicateImage, int, int]) -> bool:
        _, image, place, best = candidate
        is_other = image.exact or image.transform == CROPPED
        return is_other or found.have_same_details(index, best, place, image.transform)

    advance, are_same = progress(report, "comparing details"), map_in_order(has_same_details, candidates, workers)
    for done, ((file, image, _, place), is_same) in enumerate(zip(candidates, are_same, strict=True), start=1):
        if is_same:
            files.append(file)
        else:
            not_moved.append(f"{image.path}: it differs from {index.get_name(place)} in a detail")
        advance(done, len(candidates))
    if not files:
        return dataclasses.replace(result, not_moved=tuple(not_moved))
    try:
        moved, more = move_files(Path(index.root), folder, files, progress(report, "moving"))
    except Interrupted as stop:
        raise type(stop)(
            "Interrupted while files were moved.",
            f"Restore them with: {quote_words('simclr', 'duplicates', str(result.folder), '--restore', str(folder))}",
        ) from None
    return dataclasses.replace(result, moved=moved, moved_to=str(folder), not_moved=(*not_moved, *more))
