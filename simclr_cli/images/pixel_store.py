"""Images of one size in a folder of files: fixed-size uint8 rows, and an index of whose they are.

`pixels-*.u8` hold raw (M, 3, side, side) bytes each and never change once they are there; `index.json` says which rows
of them are whose, and is written last, so that what it does not name is never trusted. An image is the same as before
if its name, size in bytes and time of change are.
"""

from __future__ import annotations

import contextlib
import json
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
from simclr_cli.core.files import discard, write_file, write_json
from simclr_cli.images.cache_location import INDEX, PIXELS
from simclr_cli.images.census import ImageFile

VERSION = 3  # of the format, and of whatever changes a decoded pixel
NOT_STORED = -1
MOST_FILES = 32  # before they become one
COMMIT_SECONDS = 300  # of waiting for pixels, which is what a crash may cost
WEEK_SECONDS = 604_800
WEEKS_KEPT = 4  # that an image which no command asks for stays, where there is room for it

Found = NDArray[np.uint8] | str | None  # (3, side, side) pixels; why an image is skipped; or whole, but not stored


@dataclass(frozen=True)
class Entry:
    """What is known of an image: its row (or NOT_STORED), or why it is skipped."""

    bytes: int
    modified_ns: int
    row: int
    reason: str | None
    used: int  # when a command asked for it last, weeks since 1970


class PixelFolder:
    """The stored images of one size. Rows are counted through all files, put end to end."""

    def __init__(self, folder: Path, side: int) -> None:
        """Open what is there and whole; anything else counts as nothing."""
        self.folder = folder
        self.side = side
        self.row_bytes = 3 * side * side
        self.files: list[tuple[str, int]] = []  # names, and how many rows
        self.entries: dict[str, Entry] = {}  # by the images' names
        try:
            self._read_index()
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return
        with contextlib.suppress(OSError):  # another user's
            os.utime(self.folder / INDEX)  # `simclr cache` says when it was used

    @property
    def rows(self) -> int:
        """How many there are in the files, whether some image still has them or not."""
        return sum(rows for _, rows in self.files)

    @property
    def stored(self) -> int:
        """How many images have a row."""
        return sum(entry.row != NOT_STORED for entry in self.entries.values())

    def entry(self, image: ImageFile) -> Entry | None:
        """What is known of this very image."""
        entry = self.entries.get(image.name)
        same = entry is not None and (entry.bytes, entry.modified_ns) == (image.bytes, image.modified_ns)
        return entry if same else None

    def split(self, images: Iterable[ImageFile]) -> tuple[list[ImageFile], list[ImageFile], list[ImageFile]]:
        """Return the images that are not known, those known to be whole that are not stored, and the stored ones."""
        known = [(image, self.entry(image)) for image in images]
        whole = [(image, entry.row) for image, entry in known if entry and entry.reason is None]
        return (
            [image for image, entry in known if entry is None],
            [image for image, row in whole if row == NOT_STORED],
            [image for image, row in whole if row != NOT_STORED],
        )

    def add(self, images: Iterator[tuple[ImageFile, Found]]) -> bool:
        """Enter images as they come, in one more file, until they end or COMMIT_SECONDS have passed.

        What came before an `Interrupted` or a `MachineError` of the iterator is kept, and the error goes on. Whatever
        else happens, the folder afterwards holds what it did, or all that came.

        Returns:
            Whether the time is over, so that more may come.
        """
        name, first = f"pixels-{secrets.token_hex(8)}.u8", self.rows
        rows, late, stop = first, False, None
        entries = dict(self.entries)
        until = time.monotonic() + COMMIT_SECONDS

        def write(stream: IO[bytes]) -> None:
            nonlocal rows, late, stop
            try:
                for image, found in images:
                    row, reason = NOT_STORED, found if isinstance(found, str) else None
                    if isinstance(found, np.ndarray):
                        stream.write(found.tobytes())
                        row, rows = rows, rows + 1
                    entries[image.name] = Entry(image.bytes, image.modified_ns, row, reason, this_week())
                    if late := time.monotonic() > until:
                        break
            except (Interrupted, MachineError) as error:
                stop = error

        write_file(self.folder / name, write)
        self._save([*self.files, (name, rows - first)], entries)
        if stop is not None:
            raise stop
        return late

    def use(self, images: Sequence[ImageFile], most_rows: int) -> None:
        """Note that images are asked for; forget those that no command has asked for in WEEKS_KEPT.

        Where room is short, the others give theirs to those that are asked for, the longest unused first. Rows that
        are nobody's stay in the files until these are rewritten: when such rows are most of all, or in the way, or the
        files too many.

        Args:
            most_rows: that all files may have, with those of the images that have none yet.

        Raises:
            FileNotFoundError: another process has put other files in the place of these.
        """
        week, names = this_week(), {image.name for image in images}
        unknown, unstored, stored = self.split(images)
        most_rows -= len(unknown) + len(unstored)
        asked = {image.name: entry for image in images if (entry := self.entry(image))}
        others = {
            name: entry
            for name, entry in self.entries.items()
            if name not in names and abs(week - entry.used) <= WEEKS_KEPT
        }
        by_use = sorted(
            (name for name in others if others[name].row != NOT_STORED), key=lambda name: -others[name].used
        )
        for name in by_use[max(0, most_rows - len(stored)) :]:
            others[name] = replace(others[name], row=NOT_STORED)
        stale = any(entry.used != week for entry in asked.values())
        self.entries = others | {name: replace(entry, used=week) for name, entry in asked.items()}
        unused = self.rows - self.stored
        if unused > self.stored or (unused and self.rows > most_rows) or len(self.files) > MOST_FILES:
            self._rewrite()
        elif stale:
            self._save(self.files, self.entries)

    def _rewrite(self) -> None:
        """Put the rows that some image has into one file."""
        maps, name = self.maps(), f"pixels-{secrets.token_hex(8)}.u8"
        stored = {key: entry for key, entry in self.entries.items() if entry.row != NOT_STORED}

        def write(stream: IO[bytes]) -> None:
            for entry in stored.values():
                stream.write(read_rows(maps, np.array([entry.row]), self.side).tobytes())

        write_file(self.folder / name, write)
        moved = {key: replace(entry, row=row) for row, (key, entry) in enumerate(stored.items())}
        self._save([(name, len(moved))], self.entries | moved)

    def maps(self) -> tuple[NDArray[np.uint8], ...]:
        """The files as (M, 3, side, side) read-only memory maps.

        Raises:
            FileNotFoundError: another process has put others in their place.
        """
        shape = (3, self.side, self.side)
        return tuple(np.memmap(self.folder / name, np.uint8, "r", shape=(rows, *shape)) for name, rows in self.files)

    def _save(self, files: list[tuple[str, int]], entries: dict[str, Entry]) -> None:
        self.files, self.entries = [(name, rows) for name, rows in files if rows], entries
        index = {"version": VERSION, "side": self.side, "files": self.files,
                 "images": [[name, *vars(entry).values()] for name, entry in entries.items()]}  # fmt: skip
        write_json(self.folder / INDEX, index)
        # Whoever has another file mapped keeps it: on POSIX what is unlinked stays until it is unmapped.
        named = {name for name, _ in self.files}
        discard(*(path for path in self.folder.glob(PIXELS) if path.name not in named))

    def _read_index(self) -> None:
        index = json.loads((self.folder / INDEX).read_bytes())
        if (index["version"], index["side"]) != (VERSION, self.side):
            return
        files = [(Path(name).name, int(rows)) for name, rows in index["files"]]
        if any((self.folder / name).stat().st_size != rows * self.row_bytes or rows < 1 for name, rows in files):
            return
        entries = {
            str(name): Entry(int(size), int(modified_ns), int(row), reason, int(used))
            for name, size, modified_ns, row, reason, used in index["images"]
        }
        rows = [entry.row for entry in entries.values() if entry.row != NOT_STORED]
        within = all(0 <= row < sum(rows for _, rows in files) for row in rows) and len(set(rows)) == len(rows)
        skipped = [entry for entry in entries.values() if entry.reason is not None]
        if within and all(isinstance(entry.reason, str) and entry.row == NOT_STORED for entry in skipped):
            self.files, self.entries = files, entries


def this_week() -> int:
    """Return the week since 1970."""
    return int(time.time() // WEEK_SECONDS)


def read_rows(maps: Sequence[NDArray[np.uint8]], rows: NDArray[np.int64], side: int) -> NDArray[np.uint8]:
    """(n,) rows, NOT_STORED or in one of the files -> (n, 3, side, side); NOT_STORED is left as it comes."""
    if len(maps) == 1 and rows.min(initial=0) >= 0:
        return np.asarray(maps[0]).take(rows, axis=0)
    pixels = np.empty((len(rows), 3, side, side), np.uint8)
    start = 0
    for file in maps:
        here = (rows >= start) & (rows < start + len(file))
        pixels[here] = file[rows[here] - start]
        start += len(file)
    return pixels
