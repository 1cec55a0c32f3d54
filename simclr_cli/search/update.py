"""The update of an index to the images as they are now: only new content is embedded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simclr_cli.core.events import Note, Report
from simclr_cli.core.text import format_count
from simclr_cli.encode.embed import undecodable_error
from simclr_cli.encode.load import LoadedEncoder
from simclr_cli.engine.nearest import normalize_rows
from simclr_cli.images.census import Census, ImageFile
from simclr_cli.images.formats import DECODING_VERSION, TemporarilyUnusable, UnusableImage
from simclr_cli.images.groups import checksum_image
from simclr_cli.images.scan import UNKNOWN_TIME
from simclr_cli.images.threads import map_in_order
from simclr_cli.search.similarity_scale import has_scales, refresh_scale
from simclr_cli.store.index import IMAGE, Index, Rows, SkippedFile
from simclr_cli.store.index_files import append_rows, save_index
from simclr_cli.train.resume_images import compare_images

if TYPE_CHECKING:
    from simclr_cli.search.library import Library

IMAGES_PER_SAVE = 8_192  # embedded between two saves, which is what a crash may cost


@dataclass(frozen=True)
class IndexChanges:
    """Differences between an index and its folder of images."""

    removed: NDArray[np.int64]  # places in the index of images removed, changed or moved
    new: tuple[ImageFile, ...]  # added, changed or moved
    skipped: tuple[SkippedFile, ...]  # unchanged since they could not be decoded
    is_outdated: bool  # made in another folder, or files skipped then have changed, or an update was interrupted

    def __bool__(self) -> bool:
        return bool(len(self.removed) or self.new or self.is_outdated)


def find_changes(index: Index, census: Census, loaded: LoadedEncoder) -> IndexChanges:
    """Compare an index with the images as they are now, by names, sizes in bytes and modification times.

    If images are decoded in another way now, all of them count as new.
    """
    if not is_decoded_alike(index, census, loaded):
        return IndexChanges(np.arange(len(index)), census.images, (), True)
    files = dict(zip(index.names, index.images[["bytes", "modified_ns"]].tolist(), strict=True))
    names_are_unique = len(files) == len(index)
    files.update((file.name, (file.bytes, file.modified_ns)) for file in index.skipped)
    changes = compare_images(files, census)
    modified = {*changes.changed, *changes.touched}
    outdated, new = modified.union(changes.removed), modified.union(changes.added)
    skipped = tuple(file for file in index.skipped if file.name not in outdated)
    is_current = np.full(len(index), names_are_unique)
    if not names_are_unique:  # after an interrupted update, of which the later row counts
        is_current[list(index.places_by_name.values())] = True
    is_current[[index.places_by_name[name] for name in outdated if name in index.places_by_name]] = False
    new_images = tuple(image for image in census.images if image.name in new) if new else ()
    is_outdated = index.root != str(census.root.resolve()) or index.is_unfinished or len(skipped) < len(index.skipped)
    return IndexChanges(np.flatnonzero(~is_current), new_images, skipped, is_outdated)


def is_decoded_alike(index: Index, census: Census, loaded: LoadedEncoder) -> bool:
    """Return whether the images of an index would be decoded to the same pixels now."""
    return (index.decoding, index.bits) == (DECODING_VERSION, loaded.choose_bits(census.bits))


def update_index(index: Index, census: Census, library: Library, report: Report) -> Index:
    """Update an index to the images as they are now; content that it knows already is not embedded again.

    The old index stays valid until the end. Embeddings saved before an interruption are reused by the next update.

    Raises:
        InputError: not one image can be decoded.
        MachineError: no right to write, or no space.
    """
    known = index.include_unfinished()
    changes = find_changes(known, census, library.loaded)
    if not changes and not index.is_unfinished and has_scales(index):
        return index
    if len(index):
        _report_changes(known, changes, report)
    if not is_decoded_alike(index, census, library.loaded):
        bits = library.loaded.choose_bits(census.bits)
        known = index = Index(
            index.folder, index.root, index.model_checksum, index.width, bits=bits, decoding=DECODING_VERSION
        )
        changes = find_changes(index, census, library.loaded)
    skipped = list(changes.skipped)
    places = find_places_by_checksum(known) if changes.new else {}
    for start in range(0, len(changes.new), IMAGES_PER_SAVE):
        images = changes.new[start : start + IMAGES_PER_SAVE]
        rows, undecodable = _make_rows(known, places, images, census, library, report)
        index = append_rows(index, rows)
        skipped += undecodable
    index = index.finish_update(changes.removed, skipped, str(census.root.resolve()))
    if not len(index):
        raise undecodable_error(census)
    similarity = refresh_scale(index, census, library.loaded, workers=library.workers, report=report)
    return save_index(replace(index, similarity=similarity))


def _report_changes(known: Index, changes: IndexChanges, report: Report) -> None:
    parts = [f"{format_count(len(changes.new), 'file')} added, changed or moved"] if changes.new else []
    parts += [f"{len(changes.removed):,} of {len(known):,} removed, changed or moved"] if len(changes.removed) else []
    if parts:
        report(Note(f"The images have changed: {'; '.join(parts)}. Only new content is embedded."))


def find_places_by_checksum(index: Index) -> Mapping[bytes, int]:
    """Return the place of every image by the checksum of its file."""
    checksums = index.images["checksum"].tobytes()
    return {checksums[32 * place : 32 * place + 32]: place for place in range(len(index))}


def _make_rows(
    known: Index, places: Mapping[bytes, int], images: Sequence[ImageFile], census: Census, library: Library,
    report: Report,
) -> tuple[Rows, list[SkippedFile]]:  # fmt: skip
    """Make the rows of some images: copied where their content is known, embedded where not.

    Args:
        places: in `known`, by checksum.

    Returns:
        The rows, and the images that could not be decoded.
    """
    paths = [census.path(image) for image in images]
    checksums, unusable = compute_checksums(paths, library.workers)
    copied = {i: places[checksum] for i, checksum in checksums.items() if checksum in places}
    new = [i for i in checksums if i not in copied]
    h_of_new, undecodable = library.embed([paths[i] for i in new], known.bits, report, "embedding")
    unusable |= {new[i]: error for i, error in undecodable.items()}

    usable = [i for i in checksums if i not in unusable]
    h = np.empty((len(images), known.width), np.float32)
    h[list(copied)] = known.h.take(np.array(list(copied.values()), np.int64))
    h[[i for i in new if i not in unusable]] = normalize_rows(h_of_new)
    files = [(images[i].bytes, images[i].modified_ns, list(checksums[i]), (images[i].height, images[i].width))
             for i in usable]  # fmt: skip
    rows = Rows(h[usable], [images[i].name for i in usable], np.array(files, IMAGE))
    return rows, [_describe_skipped(images[i], error) for i, error in sorted(unusable.items())]


def compute_checksums(paths: Sequence[Path], workers: int) -> tuple[dict[int, bytes], dict[int, UnusableImage]]:
    """Return the SHA-256 of each file that can be read, and why not for the others, by their place in `paths`."""
    results = list(map_in_order(checksum_image, paths, workers))
    checksums = {i: bytes.fromhex(result) for i, result in enumerate(results) if not isinstance(result, UnusableImage)}
    return checksums, {i: result for i, result in enumerate(results) if isinstance(result, UnusableImage)}


def _describe_skipped(image: ImageFile, unusable: UnusableImage) -> SkippedFile:
    """Describe a skipped image: tried again once it has changed, or next time if it is unusable only for now."""
    modified_ns = UNKNOWN_TIME if isinstance(unusable, TemporarilyUnusable) else image.modified_ns
    return SkippedFile(image.name, unusable.reason, image.bytes, modified_ns)
