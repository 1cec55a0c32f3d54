"""Store of decoded images of one size: files of fixed-size uint8 rows, and an index of their images.

Each `pixels-*.u8` holds raw (M, 3, side, side) bytes and never changes. `index.json` says which rows belong to which
image, and is written last: rows that it does not name are never read. An image is unchanged if its name, size in bytes
and modification time are.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from simclr_cli.core.errors import Interrupted, MachineError
from simclr_cli.core.files import try_remove_files, write_file, write_json
from simclr_cli.core.safe_read import MAX_LIST_BYTES, read_json
from simclr_cli.images.cache_location import INDEX, PIXELS
from simclr_cli.images.census import ImageFile
from simclr_cli.images.formats import DECODING_VERSION

NOT_STORED = -1
MAX_FILES = 32  # before they are merged into one
COMMIT_SECONDS = 300  # of decoding between two saves, lost in a crash
WEEK_SECONDS = 604_800
MAX_UNUSED_WEEKS = 4  # that an image stays where there is room

DecodeResult = NDArray[np.uint8] | str | None  # (3, side, side) pixels; why it is skipped; decoded, but not stored


@dataclass(frozen=True)
class Entry:
    """The row of an image (or NOT_STORED), or why it is skipped."""

    bytes: int
    modified_ns: int
    row: int
    reason: str | None
    used_week: int  # of its last use, since 1970


class PixelStore:
    """The stored images of one size. Rows are counted through all files in order."""

    def __init__(self, folder: Path, side: int, bits: int | None = None) -> None:
        """Open what is there, intact and decoded with the same `bits`; anything else counts as missing."""
        self.folder = folder
        self.side = side
        self.bits = bits  # that images of 16 bits use: see Census
        self.row_bytes = 3 * side * side
        self.files: list[tuple[str, int]] = []  # names, and their numbers of rows
        self.entries: dict[str, Entry] = {}  # by the images' names
        try:
            self._read_index()
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return
        with contextlib.suppress(OSError):  # another user's
            os.utime(self.folder / INDEX)  # `simclr cache` shows the time of the last use

    @property
    def row_count(self) -> int:
        """Number of rows in the files, whether an image still has them or not."""
        return sum(rows for _, rows in self.files)

    @property
    def stored_count(self) -> int:
        """Number of images with a row."""
        return sum(entry.row != NOT_STORED for entry in self.entries.values())

    def find_entry(self, image: ImageFile) -> Entry | None:
        """Return the entry of an image, if its file has not changed since."""
        entry = self.entries.get(image.name)
        is_same = entry is not None and (entry.bytes, entry.modified_ns) == (image.bytes, image.modified_ns)
        return entry if is_same else None

    def split(self, images: Iterable[ImageFile]) -> tuple[list[ImageFile], list[ImageFile], list[ImageFile]]:
        """Return the unknown images, the usable ones that are not stored, and the stored ones."""
        entries = [(image, self.find_entry(image)) for image in images]
        usable = [(image, entry.row) for image, entry in entries if entry and entry.reason is None]
        return (
            [image for image, entry in entries if entry is None],
            [image for image, row in usable if row == NOT_STORED],
            [image for image, row in usable if row != NOT_STORED],
        )

    def add(self, images: Iterator[tuple[ImageFile, DecodeResult]]) -> bool:
        """Add images as they come, in one more file, until they end or COMMIT_SECONDS have passed.

        If the iterator raises `Interrupted` or `MachineError`, the images before it are saved, and the error is raised.
        After any other error the folder holds what it held before.

        Returns:
            Whether the time is over, so that more images may come.
        """
        name, first_row = _new_file_name(), self.row_count
        next_row, is_time_over, stop = first_row, False, None
        entries = dict(self.entries)
        deadline = time.monotonic() + COMMIT_SECONDS

        def write(stream: IO[bytes]) -> None:
            nonlocal next_row, is_time_over, stop
            try:
                for image, result in images:
                    row, reason = NOT_STORED, result if isinstance(result, str) else None
                    if isinstance(result, np.ndarray):
                        stream.write(result.tobytes())
                        row, next_row = next_row, next_row + 1
                    entries[image.name] = Entry(image.bytes, image.modified_ns, row, reason, current_week())
                    if is_time_over := time.monotonic() > deadline:
                        break
            except (Interrupted, MachineError) as error:
                stop = error

        write_file(self.folder / name, write)
        self._save([*self.files, (name, next_row - first_row)], entries)
        if stop is not None:
            raise stop
        return is_time_over

    def mark_used(self, images: Sequence[ImageFile], max_rows: int) -> None:
        """Mark images as used now, and forget those that no command has used for MAX_UNUSED_WEEKS.

        Where room is short, other images lose their rows, the longest unused first. Unused rows stay in the files until
        these are merged: when they are more than half of all rows, when room is short, or when the files are too many.

        Args:
            max_rows: of all files, with a row for each of the images that have none yet.

        Raises:
            FileNotFoundError: another process has replaced the files.
        """
        week, names = current_week(), {image.name for image in images}
        unknown, unstored, stored = self.split(images)
        max_rows -= len(unknown) + len(unstored)
        requested = {image.name: entry for image in images if (entry := self.find_entry(image))}
        others = {
            name: entry
            for name, entry in self.entries.items()
            if name not in names and abs(week - entry.used_week) <= MAX_UNUSED_WEEKS
        }
        _drop_rows(others, max(0, max_rows - len(stored)))
        is_outdated = any(entry.used_week != week for entry in requested.values())
        self.entries = others | {name: replace(entry, used_week=week) for name, entry in requested.items()}
        unused = self.row_count - self.stored_count
        if unused > self.stored_count or (unused and self.row_count > max_rows) or len(self.files) > MAX_FILES:
            self._merge_files()
        elif is_outdated:
            self._save(self.files, self.entries)

    def _merge_files(self) -> None:
        """Write the rows that belong to an image into one file."""
        maps, name = self.open_maps(), _new_file_name()
        stored = {key: entry for key, entry in self.entries.items() if entry.row != NOT_STORED}

        def write(stream: IO[bytes]) -> None:
            for entry in stored.values():
                stream.write(read_rows(maps, np.array([entry.row]), self.side).tobytes())

        write_file(self.folder / name, write)
        moved = {key: replace(entry, row=row) for row, (key, entry) in enumerate(stored.items())}
        self._save([(name, len(moved))], self.entries | moved)

    def open_maps(self) -> tuple[NDArray[np.uint8], ...]:
        """Open the files as (M, 3, side, side) read-only memory maps.

        Raises:
            FileNotFoundError: another process has replaced them.
        """
        shape = (3, self.side, self.side)
        return tuple(np.memmap(self.folder / name, np.uint8, "r", shape=(rows, *shape)) for name, rows in self.files)

    def _save(self, files: list[tuple[str, int]], entries: dict[str, Entry]) -> None:
        self.files, self.entries = [(name, rows) for name, rows in files if rows], entries
        index = {"version": DECODING_VERSION, "side": self.side, "bits": self.bits, "files": self.files,
                 "images": [[name, *vars(entry).values()] for name, entry in entries.items()]}  # fmt: skip
        write_json(self.folder / INDEX, index)
        # A process that has another file mapped keeps it: on POSIX it stays until it is unmapped.
        indexed = {name for name, _ in self.files}
        try_remove_files(*(path for path in self.folder.glob(PIXELS) if path.name not in indexed))

    def _read_index(self) -> None:
        index = read_json(self.folder / INDEX, MAX_LIST_BYTES)
        if (index["version"], index["side"], index["bits"]) != (DECODING_VERSION, self.side, self.bits):
            return
        files = [(Path(name).name, int(rows)) for name, rows in index["files"]]
        if any((self.folder / name).stat().st_size != rows * self.row_bytes or rows < 1 for name, rows in files):
            return
        entries = {
            str(name): Entry(int(size), int(modified_ns), int(row), reason, int(used_week))
            for name, size, modified_ns, row, reason, used_week in index["images"]
        }
        rows = [entry.row for entry in entries.values() if entry.row != NOT_STORED]
        are_valid = all(0 <= row < sum(rows for _, rows in files) for row in rows) and len(set(rows)) == len(rows)
        skipped = [entry for entry in entries.values() if entry.reason is not None]
        if are_valid and all(isinstance(entry.reason, str) and entry.row == NOT_STORED for entry in skipped):
            self.files, self.entries = files, entries


def _new_file_name() -> str:
    return f"pixels-{secrets.token_hex(8)}.u8"


def _drop_rows(entries: dict[str, Entry], max_rows: int) -> None:
    """Drop the rows of the longest unused entries beyond `max_rows`, in place."""
    stored = (name for name in entries if entries[name].row != NOT_STORED)
    by_use = sorted(stored, key=lambda name: -entries[name].used_week)
    for name in by_use[max_rows:]:
        entries[name] = replace(entries[name], row=NOT_STORED)


def current_week() -> int:
    """Return the number of weeks since 1970."""
    return int(time.time() // WEEK_SECONDS)


def read_rows(maps: Sequence[NDArray[np.uint8]], rows: NDArray[np.int64], side: int) -> NDArray[np.uint8]:
    """Read (n,) rows of the files as (n, 3, side, side); a row of NOT_STORED stays uninitialized."""
    if len(maps) == 1 and rows.min(initial=0) >= 0:
        return np.asarray(maps[0]).take(rows, axis=0)
    pixels = np.empty((len(rows), 3, side, side), np.uint8)
    start = 0
    for file in maps:
        is_here = (rows >= start) & (rows < start + len(file))
        pixels[is_here] = file[rows[is_here] - start]
        start += len(file)
    return pixels
