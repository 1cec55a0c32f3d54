"""Cache of decoded images: decoded once, read from memory maps; without room on the disk, decoded at each reading."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr_cli.core.errors import InputError, MachineError, raise_if_unreachable
from simclr_cli.core.files import get_free_bytes, prepare_folder
from simclr_cli.core.text import format_gigabytes
from simclr_cli.images.cache_location import cache_root, locate_cache
from simclr_cli.images.census import Census, ImageFile, SkippedImage
from simclr_cli.images.decode import Pixels, decode_squashed
from simclr_cli.images.decode_pool import isolate_batch
from simclr_cli.images.formats import TemporarilyUnusable, UnusableImage
from simclr_cli.images.pixel_store import NOT_STORED, DecodeResult, PixelStore, read_rows
from simclr_cli.images.scan import UNKNOWN_TIME
from simclr_cli.images.threads import chunk_by_size, map_in_order

STORED_OVER_TRAINED = 1.5  # stored side over training size: a crop of half the image still has all its pixels
MAX_FILES_PER_REQUEST, MAX_BYTES_PER_REQUEST = 8, 2**20  # that a decoder decodes together

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DecodedImages:
    """Images of a census that could be decoded, ready to be read."""

    census: Census  # without the skipped images
    side: int
    sizes: NDArray[np.int64]  # (N, 2) true heights and widths
    rows: NDArray[np.int64]  # (N,) rows of all maps in order, or NOT_STORED
    maps: tuple[NDArray[np.uint8], ...]  # (M, 3, side, side) each
    workers: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def stored_count(self) -> int:
        """Number of images that need not be decoded again."""
        return int((self.rows != NOT_STORED).sum())

    @property
    def bytes(self) -> int:
        """Size of all images, decoded."""
        return len(self) * 3 * self.side * self.side

    def read(self, images: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read (n,) images, as positions in the census: (n, 3, side, side).

        Raises:
            InputError: an image that could be decoded before cannot be decoded any more, or has changed.
        """
        rows = self.rows[images]
        pixels = read_rows(self.maps, rows, self.side)
        missing = np.flatnonzero(rows == NOT_STORED)
        if len(missing):
            unstored = [self.census.images[i] for i in images[missing]]
            with closing(_decode_unchanged(self.census, unstored, self.side, self.workers)) as results:
                for i, image, result in zip(missing, unstored, results, strict=True):
                    if isinstance(result, UnusableImage):
                        raise InputError(
                            f"{self.census.path(image)} can no longer be used ({result.reason}).",
                            "Restore the file, then continue the run with --resume.",
                        )
                    pixels[i] = result.transpose(2, 0, 1)
        return pixels


def defer_decoding(census: Census, image_size: int, workers: int) -> DecodedImages:
    """Return all images of a census without the cache: each is decoded when it is read."""
    unstored = np.full(len(census.images), NOT_STORED, np.int64)
    return DecodedImages(census, stored_side(census, image_size), _true_sizes(census), unstored, (), workers)


def stored_side(census: Census, image_size: int) -> int:
    """Return the side of the stored squares: 1.5 times the training size, but at most the largest side of any image."""
    largest = max(max(image.height, image.width) for image in census.images)
    return max(1, min(round(image_size * STORED_OVER_TRAINED), largest))


def decode_images(
    census: Census, image_size: int, *, workers: int, progress: Progress, budget: int | None = None
) -> DecodedImages:
    """Open the folder's cache for this training size, and decode what is not in it yet.

    Every image is decoded here once, whether it is stored or not, so that damaged ones are known before training.

    Args:
        progress: called with (images decoded, images to decode). If it raises `Interrupted`, the images decoded so far
            are kept.
        budget: bytes that the pixels may take on the disk; images that are stored already stay. None: half of the
            space that is free or taken by them.

    Raises:
        MachineError: the cache folder cannot be written to.
        InputError: not one image could be decoded.
    """
    side = stored_side(census, image_size)
    store = PixelStore(locate_cache(census.root) / str(side), side, census.bits)
    prepare_folder(store.folder)
    try:
        _decode_missing(store, census, workers, progress, budget)
        maps = store.open_maps()
    except FileNotFoundError:
        raise MachineError(f"The cache {store.folder} changed while it was read.", "Run the command again.") from None
    entries = [(image.name, store.entries[image.name]) for image in census.images]
    skipped = [SkippedImage(name, entry.reason) for name, entry in entries if entry.reason is not None]
    if len(skipped) == len(entries):
        raise InputError(
            f"None of the {len(skipped)} images in {census.root} could be decoded ({skipped[0].reason}).",
            "Use a folder of undamaged images.",
        )
    census = census.without(skipped)
    rows = np.array([entry.row for _, entry in entries if entry.reason is None], dtype=np.int64)
    return DecodedImages(census, side, _true_sizes(census), rows, maps, workers)


def describe_cache_shortage(census: Census, image_size: int, budget: int | None) -> str | None:
    """Return a sentence about it, if not all images can be stored within the budget (see decode_images)."""
    side = stored_side(census, image_size)
    store = PixelStore(locate_cache(census.root) / str(side), side, census.bits)
    max_rows = _max_rows(store, budget)
    unknown, unstored, stored = map(len, store.split(census.images))
    excess = unknown + unstored - max(0, max_rows - stored)
    if excess <= 0:
        return None
    limit = "half of what is free there" if budget is None else "by --cache-gb, and what is free there"
    needed, available = (format_gigabytes(rows * store.row_bytes) for rows in (len(census.images), max_rows))
    return (
        f"Decoded, the images take {needed}, and {cache_root()} may take {available} of it ({limit}): "
        f"{excess / len(census.images):.0%} of the images are decoded again in every epoch."
    )


def _true_sizes(census: Census) -> NDArray[np.int64]:
    """Return (N, 2) heights and widths of the images before they were squashed."""
    return np.array([(image.height, image.width) for image in census.images], dtype=np.int64).reshape(-1, 2)


def _max_rows(store: PixelStore, budget: int | None) -> int:
    """Return how many rows all the files may have: at most what fits in free space and the space that they take."""
    taken = store.row_count * store.row_bytes
    free = get_free_bytes(store.folder)
    max_bytes = max(taken, (taken + free) // 2) if budget is None else min(budget, taken + int(0.95 * free))
    return max_bytes // store.row_bytes


def _decode_missing(store: PixelStore, census: Census, workers: int, progress: Progress, budget: int | None) -> None:
    """Decode the images that the store does not know, then unstored ones as far as there is room."""
    max_rows = _max_rows(store, budget)
    store.mark_used(census.images, max_rows)
    unknown, unstored, _ = store.split(census.images)
    free_rows = max(0, max_rows - store.row_count)
    if images := unknown + unstored[: max(0, free_rows - len(unknown))]:
        with closing(_decode_for_store(census, images, store.side, free_rows, workers, progress)) as results:
            while store.add(results):
                pass


def _decode_for_store(
    census: Census, images: Sequence[ImageFile], side: int, free_rows: int, workers: int, progress: Progress
) -> Generator[tuple[ImageFile, DecodeResult], None, None]:
    """Yield images with their results for the store: pixels of the first `free_rows` usable ones, then None."""
    with closing(_decode_unchanged(census, images, side, workers)) as results:
        for done, (image, result) in enumerate(zip(images, results, strict=True), start=1):
            if isinstance(result, TemporarilyUnusable):
                yield replace(image, modified_ns=UNKNOWN_TIME), result.reason
            elif isinstance(result, UnusableImage):
                yield image, result.reason
            else:
                free_rows -= 1
                yield image, result.transpose(2, 0, 1) if free_rows >= 0 else None
            progress(done, len(images))


def _decode_unchanged(
    census: Census, images: Sequence[ImageFile], side: int, workers: int
) -> Generator[Pixels | UnusableImage, None, None]:
    """Yield each image decoded, if its file has not changed since the census: crops are drawn for its size then."""
    decode = isolate_batch(decode_squashed, workers)

    def decode_chunk(chunk: Sequence[ImageFile]) -> list[Pixels | UnusableImage]:
        paths = [census.path(image) for image in chunk]
        return list(map(_check_unchanged, decode([(path, side, census.bits) for path in paths]), paths, chunk))

    max_files = min(MAX_FILES_PER_REQUEST, len(images) // (2 * max(1, workers)))
    chunks = chunk_by_size(images, lambda image: image.bytes, max_files, MAX_BYTES_PER_REQUEST)
    with closing(map_in_order(decode_chunk, chunks, workers)) as results:
        for pixels in results:
            assert not isinstance(pixels, UnusableImage)
            yield from pixels


def _check_unchanged(result: Pixels | UnusableImage, path: Path, image: ImageFile) -> Pixels | UnusableImage:
    """Return the result for an image, or that its file has changed since the census."""
    if isinstance(result, UnusableImage):
        return result
    try:
        status = path.stat()
    except OSError as error:
        raise_if_unreachable(error, path)
        return TemporarilyUnusable((error.strerror or str(error)).lower())
    is_same = (status.st_size, status.st_mtime_ns) == (image.bytes, image.modified_ns)
    return result if is_same else TemporarilyUnusable("changed since its folder was scanned")
