"""A file of rows in an index, some of which may be gone; and the vectors of several, as one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr_cli.digests import digest_file
from simclr_cli.errors import RunError
from simclr_cli.store.rows import Rows, read_rows, write_rows

AGAIN = "Run the command again without --as-is: the vectors are made anew."


class Unusable(RunError):
    """Vectors that are damaged, or of another model: they can be made anew."""


@dataclass(frozen=True, eq=False)
class Segment:
    """One file of rows."""

    file: str
    digest: str  # SHA-256 of the file
    rows: Rows
    gone: NDArray[np.int64]  # rows whose picture is no more, or was changed; sorted

    @cached_property
    def live(self) -> NDArray[np.int64] | None:
        """The others; None: all."""
        return np.setdiff1d(np.arange(len(self.rows)), self.gone) if len(self.gone) else None

    def __len__(self) -> int:
        return len(self.rows) - len(self.gone)

    def row(self, place: int) -> int:
        """The row of the one at a place among those that live."""
        return place if self.live is None else int(self.live[place])

    def place(self, name: str) -> int | None:
        """The place among those that live of a relative path, or None."""
        row = self.rows.row(name)
        if row is None or self.live is None:
            return row
        place = int(np.searchsorted(self.live, row))
        return place if place < len(self.live) and self.live[place] == row else None

    def names(self) -> Iterator[str]:
        """The relative paths of those that live."""
        whole, ends = self.rows.names.tobytes(), self.rows.ends.tolist()
        starts = [0, *ends[:-1]]
        wanted = range(len(ends)) if self.live is None else self.live.tolist()
        return (os.fsdecode(whole[starts[row] : ends[row]]) for row in wanted)

    def described(self, folder: Path) -> dict[str, Any]:
        """What an index says of it; `open_segment` reads it."""
        return {
            "file": self.file,
            "rows": len(self.rows),
            "digest": self.digest,
            "gone": self.gone.tolist(),
            "modified_ns": (folder / self.file).stat().st_mtime_ns,
        }


class LiveVectors:
    """The vectors of all segments put end to end, without those that are gone: read by slices, and by places."""

    def __init__(self, segments: Sequence[Segment], width: int) -> None:
        self._parts = [(segment.rows.h, segment.live) for segment in segments]
        self._starts = np.cumsum([0, *(len(segment) for segment in segments)])
        self.shape = (int(self._starts[-1]), width)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """(n, D) float32: a part of the map itself where that is possible."""
        start, stop, step = rows.indices(len(self))
        assert step == 1
        found = []
        for (h, live), first in zip(self._parts, self._starts.tolist(), strict=False):
            a, b = max(0, start - first), stop - first
            if b > 0 and a < (len(h) if live is None else len(live)):
                found.append(h[a:b] if live is None else h[live[a:b]])
        return found[0] if len(found) == 1 else np.concatenate([np.empty((0, self.shape[1]), np.float32), *found])

    def take(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n,) places -> (n, D) float32, a copy."""
        taken = np.empty((len(places), self.shape[1]), np.float32)
        for (h, live), first, end in zip(self._parts, self._starts[:-1], self._starts[1:], strict=True):
            here = (places >= first) & (places < end)
            within = places[here] - first
            taken[here] = h[within if live is None else live[within]]
        return taken


def write_segment(folder: Path, parts: Sequence[tuple[Rows, NDArray[np.int64] | None]]) -> Segment:
    """Some rows as one more file.

    Raises:
        MachineError: no right to write, or no space.
    """
    file = f"rows-{secrets.token_hex(8)}.safetensors"
    digest = write_rows(folder / file, parts)
    return Segment(file, digest, read_rows(folder / file), np.empty(0, np.int64))


def open_segment(folder: Path, entry: Mapping[str, Any]) -> Segment:
    """A file of rows as an index describes it.

    If it has the size and the time of change that it was left with, it is trusted; else it is read whole, and its
    digest compared.

    Raises:
        Unusable: missing, damaged, or not the one that is described.
    """
    file = Path(entry["file"]).name  # never out of the folder
    try:
        rows = read_rows(folder / file)
    except RunError as error:
        raise Unusable(error.what, AGAIN) from None
    gone = np.array(entry["gone"], dtype=np.int64)
    if len(rows) != entry["rows"] or np.any((gone < 0) | (gone >= len(rows))) or np.any(np.diff(gone) <= 0):
        raise Unusable(f"{folder / file} and {folder / 'index.json'} do not belong together.", AGAIN)
    if (folder / file).stat().st_mtime_ns != entry["modified_ns"] and digest_file(folder / file) != entry["digest"]:
        raise Unusable(f"{folder / file} is not what was saved: its digest differs.", AGAIN)
    return Segment(file, entry["digest"], rows, gone)
