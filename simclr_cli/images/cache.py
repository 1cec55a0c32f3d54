"""Decoded once, read from a memory map ever after: every picture as fixed-size uint8.

A cache is a folder of two files in the user's cache folder: `pixels.u8`, the raw (N, 3, side, side) bytes, and
`index.json`, which is written last, so that pixels without an index are never trusted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from simclr_cli.errors import InputError, MachineError
from simclr_cli.files import make_folder, write_file, write_json
from simclr_cli.images.decode import Refusal, each, squashed
from simclr_cli.images.folder import Census, Refused

VERSION = 1  # of the format, and of whatever changes a decoded pixel
STORED_OVER_TRAINED = 1.5  # stored side over training size: a crop of half the picture still has all its pixels


@dataclass(frozen=True)
class DecodedPictures:
    """The pictures of a census that could be decoded."""

    census: Census  # without those that could not
    pixels: NDArray[np.uint8]  # (N, 3, side, side), a read-only memory map
    sizes: NDArray[np.int64]  # (N, 2) true heights and widths

    def __len__(self) -> int:
        return len(self.pixels)


def cache_root() -> Path:
    """Where caches live: $SIMCLR_CACHE, or the platform's cache folder."""
    if os.environ.get("SIMCLR_CACHE"):
        return Path(os.environ["SIMCLR_CACHE"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "simclr"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "simclr"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "simclr"


def stored_side(census: Census, image_size: int) -> int:
    """The side of the stored squares: half as much again as is trained on, but no more than any picture has."""
    largest = max(max(picture.height, picture.width) for picture in census.pictures)
    return max(1, min(round(image_size * STORED_OVER_TRAINED), largest))


def decode_once(
    census: Census, image_size: int, *, workers: int, progress: Callable[[int, int], None]
) -> DecodedPictures:
    """Open the folder's cache for this training size, or build it.

    Args:
        progress: called with (pictures decoded, pictures in all) while it is built.

    Raises:
        MachineError: the cache folder cannot be written to, or lacks the space.
        InputError: not one picture could be decoded.
    """
    side = stored_side(census, image_size)
    # One cache for each folder and side: when the folder changes, the new one takes the old one's place.
    key = hashlib.sha256(os.fsencode(census.root.resolve()) + f"\0{side}".encode()).hexdigest()[:16]
    folder = cache_root() / key
    cached = _open(folder, census, side)
    return cached or _build(folder, census, side, workers, progress)


def _open(folder: Path, census: Census, side: int) -> DecodedPictures | None:
    """The cache if it is whole and of this very content; else None."""
    try:
        index = json.loads((folder / "index.json").read_bytes())
        if index["version"] != VERSION or index["fingerprint"] != census.fingerprint or index["side"] != side:
            return None
        refused = [Refused(**entry) for entry in index["refused"]]
        kept = census.without(refused)
        shape = (len(kept.pictures), 3, side, side)
        pixels = folder / Path(index["pixels"]).name
        if pixels.stat().st_size != int(np.prod(shape)):
            return None
        return _decoded(kept, np.memmap(pixels, np.uint8, "r", shape=shape))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build(
    folder: Path, census: Census, side: int, workers: int, progress: Callable[[int, int], None]
) -> DecodedPictures:
    make_folder(folder)
    count, row_bytes = len(census.pictures), 3 * side * side
    free = shutil.disk_usage(folder).free
    if count * row_bytes > 0.95 * free:
        raise MachineError(
            f"Decoded, they take {count * row_bytes / 2**30:.1f} GiB, and {folder} has {free / 2**30:.1f} GiB free.",
            "Set SIMCLR_CACHE to a folder on a larger disk, or train at a smaller --image-size.",
        )
    refused: list[Refused] = []

    def write(stream: IO[bytes]) -> None:
        paths = (census.path(picture) for picture in census.pictures)
        decoded = each(lambda path: squashed(path, side), paths, workers)
        for done, (picture, pixels) in enumerate(zip(census.pictures, decoded, strict=True), start=1):
            if isinstance(pixels, Refusal):
                refused.append(Refused(picture.name, pixels.reason))
            else:
                stream.write(pixels.transpose(2, 0, 1).tobytes())
            progress(done, count)
        if len(refused) == count:
            raise InputError(
                f"None of the {count} pictures in {census.root} could be decoded ({refused[0].reason}).",
                "Give a folder of whole pictures.",
            )

    # Under a new name: whoever has the old pixels mapped keeps them.
    name = f"pixels-{census.fingerprint[:16]}.u8"
    write_file(folder / name, write)
    index = {"version": VERSION, "fingerprint": census.fingerprint, "side": side, "pixels": name,
             "folder": str(census.root.resolve()), "refused": [vars(entry) for entry in refused]}  # fmt: skip
    write_json(folder / "index.json", index)
    for stale in folder.glob("pixels-*.u8"):
        if stale.name != name:
            stale.unlink(missing_ok=True)
    opened = _open(folder, census, side)
    if opened is None:
        raise MachineError(f"The cache {folder} changed while it was read.", "Run the command again.")
    return opened


def _decoded(census: Census, pixels: NDArray[np.uint8]) -> DecodedPictures:
    sizes = np.array([(picture.height, picture.width) for picture in census.pictures], dtype=np.int64)
    return DecodedPictures(census, pixels, sizes)
