"""Pictures of one size in a folder of files: fixed-size uint8 rows, and an index of whose they are.

`pixels-*.u8` hold raw (M, 3, side, side) bytes each and never change once they are there; `index.json` says which rows
of them are whose, and is written last, so that what it does not name is never trusted. A picture is the same as before
if its name, size in bytes and time of change are.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from simclr_cli.files import discard, write_file, write_json
from simclr_cli.images.caches import INDEX, PIXELS
from simclr_cli.images.census import Picture

VERSION = 2  # of the format, and of whatever changes a decoded pixel
NOT_STORED = -1
MOST_FILES = 32  # before they become one


@dataclass(frozen=True)
class Entry:
    """What is known of a picture: its row (or NOT_STORED), or why it is refused."""

    bytes: int
    modified_ns: int
    row: int
    reason: str | None


class PixelFolder:
    """The stored pictures of one size. Rows are counted through all files, put end to end."""

    def __init__(self, folder: Path, side: int) -> None:
        """Open what is there and whole; anything else counts as nothing."""
        self.folder = folder
        self.side = side
        self.row_bytes = 3 * side * side
        self.files: list[tuple[str, int]] = []  # names, and how many rows
        self.entries: dict[str, Entry] = {}  # by the pictures' names
        try:
            self._read_index()
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return
        with contextlib.suppress(OSError):  # another user's
            os.utime(self.folder / INDEX)  # `simclr cache` says when it was used

    @property
    def rows(self) -> int:
        """How many there are in the files, whether some picture still has them or not."""
        return sum(rows for _, rows in self.files)

    @property
    def stored(self) -> int:
        """How many pictures have a row."""
        return sum(entry.row != NOT_STORED for entry in self.entries.values())

    def entry(self, picture: Picture) -> Entry | None:
        """What is known of this very picture."""
        entry = self.entries.get(picture.name)
        same = entry is not None and (entry.bytes, entry.modified_ns) == (picture.bytes, picture.modified_ns)
        return entry if same else None

    def add(self, pictures: Iterable[tuple[Picture, NDArray[np.uint8] | str | None]]) -> None:
        """Enter pictures, in one more file: by their (3, side, side) pixels, a reason of refusal, or as not stored.

        Whatever happens on the way, the folder afterwards holds what it did, or all of these too.

        Raises:
            MachineError: no space, or no right to write.
        """
        name, first = f"pixels-{secrets.token_hex(8)}.u8", self.rows
        rows = first
        entries = dict(self.entries)

        def write(stream: IO[bytes]) -> None:
            nonlocal rows
            for picture, found in pictures:
                row, reason = NOT_STORED, found if isinstance(found, str) else None
                if isinstance(found, np.ndarray):
                    stream.write(found.tobytes())
                    row, rows = rows, rows + 1
                entries[picture.name] = Entry(picture.bytes, picture.modified_ns, row, reason)

        write_file(self.folder / name, write)
        self._save([*self.files, (name, rows - first)], entries)

    def keep_only(self, pictures: Iterable[Picture], *, most_rows: int = sys.maxsize) -> None:
        """Forget all others. Their rows stay until they are half of all, too many, or in too many files.

        Raises:
            FileNotFoundError: another process has put other files in the place of these.
            MachineError: no space, or no right to write.
        """
        self.entries = {picture.name: entry for picture in pictures if (entry := self.entry(picture))}
        unused = self.rows - self.stored
        wasteful = unused > self.stored or (unused and self.rows > most_rows)
        if not wasteful and len(self.files) <= MOST_FILES:
            return
        maps = self.maps()
        entries: dict[str, Entry] = {}
        name = f"pixels-{secrets.token_hex(8)}.u8"

        def write(stream: IO[bytes]) -> None:
            row = 0
            for key, entry in self.entries.items():
                if entry.row == NOT_STORED:
                    entries[key] = entry
                    continue
                stream.write(read_rows(maps, np.array([entry.row]), self.side).tobytes())
                entries[key] = Entry(entry.bytes, entry.modified_ns, row, None)
                row += 1

        write_file(self.folder / name, write)
        self._save([(name, self.stored)], entries)

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
                 "pictures": [[name, *vars(entry).values()] for name, entry in entries.items()]}  # fmt: skip
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
            str(name): Entry(int(size), int(modified_ns), int(row), reason)
            for name, size, modified_ns, row, reason in index["pictures"]
        }
        rows = [entry.row for entry in entries.values() if entry.row != NOT_STORED]
        within = all(0 <= row < sum(rows for _, rows in files) for row in rows) and len(set(rows)) == len(rows)
        reasons = [entry for entry in entries.values() if entry.reason is not None]
        if within and all(isinstance(entry.reason, str) and entry.row == NOT_STORED for entry in reasons):
            self.files, self.entries = files, entries


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
