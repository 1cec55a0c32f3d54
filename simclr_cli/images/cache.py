"""Decoded once, read from memory maps ever after; what has no room on the disk is decoded whenever it is read."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr_cli.core.errors import InputError, MachineError, check_reachable
from simclr_cli.core.events import gigabytes
from simclr_cli.core.files import free_bytes, make_folder
from simclr_cli.images.cache_location import cache_of, cache_root
from simclr_cli.images.census import Census, ImageFile, SkippedImage
from simclr_cli.images.decode import Pixels, UnavailableNow, UnusableImage, squashed
from simclr_cli.images.decode_pool import apart_many
from simclr_cli.images.pixel_store import NOT_STORED, Found, PixelFolder, read_rows
from simclr_cli.images.scan import NEVER
from simclr_cli.images.threads import each, in_parts

STORED_OVER_TRAINED = 1.5  # stored side over training size: a crop of half the image still has all its pixels
AT_ONCE, BYTES_AT_ONCE = 8, 2**20  # images, and bytes of their files, that a decoder is asked for together

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DecodedImages:
    """The images of a census that could be decoded, ready to be read."""

    census: Census  # without those that could not
    side: int
    sizes: NDArray[np.int64]  # (N, 2) true heights and widths
    rows: NDArray[np.int64]  # (N,) where each one lies in the maps put end to end, or NOT_STORED
    maps: tuple[NDArray[np.uint8], ...]  # (M, 3, side, side) each
    workers: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def stored(self) -> int:
        """How many need not be decoded again."""
        return int((self.rows != NOT_STORED).sum())

    @property
    def bytes(self) -> int:
        """Of all images, decoded."""
        return len(self) * 3 * self.side * self.side

    def read(self, images: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(n,) places in the census -> (n, 3, side, side).

        Raises:
            InputError: an image that could be decoded before cannot be any more, or is another one.
        """
        rows = self.rows[images]
        pixels = read_rows(self.maps, rows, self.side)
        missing = np.flatnonzero(rows == NOT_STORED)
        if len(missing):
            wanted = [self.census.images[i] for i in images[missing]]
            with closing(_each_squashed(self.census, wanted, self.side, self.workers)) as decoded:
                for place, image, found in zip(missing, wanted, decoded, strict=True):
                    if isinstance(found, UnusableImage):
                        raise InputError(
                            f"{self.census.path(image)} can no longer be used ({found.reason}).",
                            "Bring it back as it was; a run goes on with --resume.",
                        )
                    pixels[place] = found.transpose(2, 0, 1)
        return pixels


def undecoded(census: Census, image_size: int, workers: int) -> DecodedImages:
    """Return all images of a census as what has no room in the cache: each is decoded when it is read."""
    sizes = np.array([(image.height, image.width) for image in census.images], dtype=np.int64).reshape(-1, 2)
    unstored = np.full(len(sizes), NOT_STORED, np.int64)
    return DecodedImages(census, stored_side(census, image_size), sizes, unstored, (), workers)


def stored_side(census: Census, image_size: int) -> int:
    """The side of the stored squares: half as much again as is trained on, but no more than any image has."""
    largest = max(max(image.height, image.width) for image in census.images)
    return max(1, min(round(image_size * STORED_OVER_TRAINED), largest))


def decode_once(
    census: Census, image_size: int, *, workers: int, progress: Progress, budget: int | None = None
) -> DecodedImages:
    """Open the folder's cache for this training size, and decode what is not in it yet.

    Every image is decoded here once, whether it is stored or not, so that damaged ones are known before training.

    Args:
        progress: called with (images decoded, images to decode). If it raises `Interrupted`, what was decoded by
            then is kept.
        budget: bytes that the pixels may take on the disk; what is stored already stays. None: half of what is free
            there, or would be without them.

    Raises:
        MachineError: the cache folder cannot be written to.
        InputError: not one image could be decoded.
    """
    side = stored_side(census, image_size)
    folder = PixelFolder(cache_of(census.root) / str(side), side)
    make_folder(folder.folder)  # it can be written to
    try:
        allowed = _allowed(folder, budget)
        folder.use(census.images, allowed)
        unknown, unstored, _ = folder.split(census.images)
        room = max(0, allowed - folder.rows)
        if to_do := unknown + unstored[: max(0, room - len(unknown))]:
            with closing(_decoded(census, to_do, side, room, workers, progress)) as coming:
                while folder.add(coming):
                    pass
        maps = folder.maps()
    except FileNotFoundError:
        raise MachineError(f"The cache {folder.folder} changed while it was read.", "Run the command again.") from None
    entries = [folder.entries[image.name] for image in census.images]
    skipped = [
        SkippedImage(p.name, e.reason) for p, e in zip(census.images, entries, strict=True) if e.reason is not None
    ]
    if len(skipped) == len(entries):
        raise InputError(
            f"None of the {len(skipped)} images in {census.root} could be decoded ({skipped[0].reason}).",
            "Give a folder of whole images.",
        )
    census = census.without(skipped)
    sizes = np.array([(image.height, image.width) for image in census.images], dtype=np.int64)
    rows = np.array([entry.row for entry in entries if entry.reason is None], dtype=np.int64)
    return DecodedImages(census, side, sizes, rows, maps, workers)


def lack_of_room(census: Census, image_size: int, budget: int | None) -> str | None:
    """A sentence about it, if not all images can be stored within the budget (see decode_once)."""
    side = stored_side(census, image_size)
    folder = PixelFolder(cache_of(census.root) / str(side), side)
    allowed = _allowed(folder, budget)
    unknown, unstored, stored = (len(some) for some in folder.split(census.images))
    lacking = unknown + unstored - max(0, allowed - stored)
    if lacking <= 0:
        return None
    limit = "half of what is free there" if budget is None else "by --cache-gb, and what is free there"
    needed, most = (gigabytes(rows * folder.row_bytes) for rows in (len(census.images), allowed))
    return (
        f"Decoded, the images take {needed}, and {cache_root()} may take {most} of it ({limit}): "
        f"{lacking / len(census.images):.0%} of the images are decoded again in every epoch."
    )


def _allowed(folder: PixelFolder, budget: int | None) -> int:
    """Rows that all the files may have: never more than there is space for, that of those that are there included."""
    there = folder.rows * folder.row_bytes
    free = free_bytes(folder.folder)
    bytes_ = max(there, (there + free) // 2) if budget is None else min(budget, there + int(0.95 * free))
    return bytes_ // folder.row_bytes


def _decoded(
    census: Census, images: Sequence[ImageFile], side: int, room: int, workers: int, progress: Progress
) -> Generator[tuple[ImageFile, Found], None, None]:
    """Decode images, of which as many are stored as there is room for: the first ones."""
    with closing(_each_squashed(census, images, side, workers)) as results:
        for done, (image, found) in enumerate(zip(images, results, strict=True), start=1):
            if isinstance(found, UnavailableNow):
                yield replace(image, modified_ns=NEVER), found.reason
            elif isinstance(found, UnusableImage):
                yield image, found.reason
            else:
                room -= 1
                yield image, found.transpose(2, 0, 1) if room >= 0 else None
            progress(done, len(images))


def _each_squashed(
    census: Census, images: Sequence[ImageFile], side: int, workers: int
) -> Generator[Pixels | UnusableImage, None, None]:
    """Each image decoded, if it still is the one that the census saw: crops are drawn for the size it had then."""
    square = apart_many(squashed, workers)

    def some(part: Sequence[ImageFile]) -> list[Pixels | UnusableImage]:
        paths = [census.path(image) for image in part]
        return list(map(_as_seen, square([(path, side) for path in paths]), paths, part))

    most = min(AT_ONCE, len(images) // (2 * max(1, workers)))
    with closing(each(some, in_parts(images, lambda image: image.bytes, most, BYTES_AT_ONCE), workers)) as parts:
        for part in parts:
            assert not isinstance(part, UnusableImage)
            yield from part


def _as_seen(found: Pixels | UnusableImage, path: Path, image: ImageFile) -> Pixels | UnusableImage:
    """What came of an image, if its file still is what the census saw."""
    if isinstance(found, UnusableImage):
        return found
    try:
        status = path.stat()
    except OSError as error:
        check_reachable(error, path)
        return UnavailableNow((error.strerror or str(error)).lower())
    same = (status.st_size, status.st_mtime_ns) == (image.bytes, image.modified_ns)
    return found if same else UnavailableNow("changed since its folder was looked at")
