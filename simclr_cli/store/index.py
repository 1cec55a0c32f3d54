"""The vectors of a run's own pictures, kept up to date at the cost of what has changed.

    vectors/
      index.json                which files of rows, which of their rows are no more, which pictures are refused
      rows-<random>.safetensors vectors and what they are of (store/rows.py)

Files of rows never change. An update writes one more, and then index.json, so that at any moment the index is the old
one or the new one. Small files are merged as they come, so that there are few: about as many as the rows' number has
binary digits.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr_cli.files import discard, write_json
from simclr_cli.reading import MOST_OF_LIST, check_version, parse_json, read_bytes
from simclr_cli.store.rows import Rows
from simclr_cli.store.segments import AGAIN, LiveVectors, Segment, Unusable, open_segment, write_segment

FORMAT_VERSION = 1
EMPTY = {"bytes": (0,), "modified_ns": (0,), "digest": (0, 32), "size": (0, 2)}  # the columns' shapes
INDEX, ROWS = "index.json", "rows-*.safetensors"
STRAY_SECONDS = 3_600  # after which a file that no index names is no one's


@dataclass(frozen=True)
class RefusedFile:
    """A picture that cannot be decoded: not tried again as long as it stays as it is."""

    name: str
    reason: str
    bytes: int
    modified_ns: int


@dataclass(frozen=True, eq=False)
class Index:
    """The vectors of a folder of pictures. A place, from 0 to N - 1, is that of a picture in all that it gives."""

    folder: Path  # that it lies in
    root: str  # the folder of the pictures
    model_digest: str  # of the encoder that made the vectors
    width: int
    segments: tuple[Segment, ...] = ()
    refused: tuple[RefusedFile, ...] = ()
    aside: tuple[Segment, ...] = ()  # made by an update that has not come to its end: not searched, but known

    def __len__(self) -> int:
        return sum(map(len, self.segments))

    def with_aside(self) -> Index:
        """As if what was put aside belonged to it."""
        return replace(self, segments=(*self.segments, *self.aside), aside=()) if self.aside else self

    @cached_property
    def h(self) -> LiveVectors:
        """(N, D) float32, each row of length 1."""
        return LiveVectors(self.segments, self.width)

    def name(self, place: int) -> str:
        """The relative path of one picture."""
        for segment in self.segments:
            if place < len(segment):
                return segment.rows.name(segment.row(place))
            place -= len(segment)
        raise IndexError(place)

    def place(self, name: str) -> int | None:
        """Where a relative path is, without a list of all of them; None: not here."""
        first = 0
        for segment in self.segments:
            if (within := segment.place(name)) is not None:
                return first + within
            first += len(segment)
        return None

    def path(self, place: int) -> Path:
        """The file of one picture."""
        return Path(self.root) / self.name(place)

    @cached_property
    def names(self) -> list[str]:
        """All relative paths: takes a while for a million."""
        return [name for segment in self.segments for name in segment.names()]

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each relative path is: for many of them, as `names` takes a while."""
        return dict(zip(self.names, range(len(self)), strict=True))

    @cached_property
    def bytes(self) -> NDArray[np.int64]:
        """(N,) of the files."""
        return self._column("bytes")

    @cached_property
    def modified_ns(self) -> NDArray[np.int64]:
        """(N,) of the files."""
        return self._column("modified_ns")

    @cached_property
    def digest(self) -> NDArray[np.uint8]:
        """(N, 32) SHA-256 of the files."""
        return self._column("digest")

    @cached_property
    def size(self) -> NDArray[np.int32]:
        """(N, 2) upright height and width of the pictures, px."""
        return self._column("size")

    def _column(self, name: str) -> NDArray[Any]:
        columns = [getattr(s.rows, name) if s.live is None else getattr(s.rows, name)[s.live] for s in self.segments]
        return np.concatenate(columns) if columns else np.empty(EMPTY[name], np.int64)


def update(
    index: Index, gone: NDArray[np.int64], added: Rows | None, refused: Sequence[RefusedFile], root: str
) -> Index:
    """Take rows out, put rows in, durably: whatever happens on the way, there is the old index or this one.

    Args:
        gone: places whose picture is no more, or no longer what it was.
        added: what there is instead, or anew.

    Raises:
        MachineError: no right to write, or no space.
    """
    kept = [s for s in _without(index.segments, gone) if len(s)]
    merged = _to_merge(kept, len(added) if added else 0)
    parts = [(segment.rows, segment.live) for segment in merged] + ([(added, None)] if added and len(added) else [])
    kept = [segment for segment in kept if segment not in merged]
    if parts:
        kept.append(write_segment(index.folder, parts))
    new = Index(index.folder, root, index.model_digest, index.width, tuple(kept), tuple(refused))
    write_json(index.folder / INDEX, _described(new))
    _clean(new, index)
    return new


def set_aside(index: Index, added: Rows) -> Index:
    """Keep rows of an update that goes on: the index stays what it is, but knows them (`Index.with_aside`).

    Raises:
        MachineError: no right to write, or no space.
    """
    new = replace(index, aside=(*index.aside, write_segment(index.folder, [(added, None)])))
    write_json(index.folder / INDEX, _described(new))
    return new


def _without(segments: Sequence[Segment], gone: NDArray[np.int64]) -> Iterator[Segment]:
    first = 0
    for segment in segments:
        within = gone[(gone >= first) & (gone < first + len(segment))] - first
        first += len(segment)
        lost = within if segment.live is None else segment.live[within]
        yield Segment(segment.file, segment.digest, segment.rows, np.union1d(segment.gone, lost).astype(np.int64))


def _to_merge(segments: Sequence[Segment], added: int) -> list[Segment]:
    """What is mostly gone, and, from the newest back, what is no larger than twice all that is newer."""
    wasteful = [segment for segment in segments if len(segment) < len(segment.gone)]
    total = added + sum(map(len, wasteful))
    merged = []
    for segment in reversed([segment for segment in segments if segment not in wasteful]):
        if len(segment) > 2 * total:
            break
        merged.append(segment)
        total += len(segment)
    chosen = [*wasteful, *merged]
    return [segment for segment in segments if segment in chosen]


def _described(index: Index) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "root": index.root,
        "model_digest": index.model_digest,
        "width": index.width,
        "segments": [segment.described(index.folder) for segment in index.segments],
        "aside": [segment.described(index.folder) for segment in index.aside],
        "refused": [list(vars(entry).values()) for entry in index.refused],
    }  # fmt: skip


def _clean(*indexes: Index) -> None:
    """Remove what neither the new index nor the last one names (another process may have that open)."""
    named = {segment.file for index in indexes for segment in (*index.segments, *index.aside)}
    for path in indexes[0].folder.glob(ROWS):
        with contextlib.suppress(OSError):
            if path.name not in named and time.time() - path.stat().st_mtime > STRAY_SECONDS:
                discard(path)


def read_index(folder: Path, *, model_digest: str) -> Index | None:
    """Open an index, mapped; None if there is none.

    Raises:
        Unusable: damaged, or of another model.
        RunError: of a newer version, which is left as it is.
    """
    while True:
        try:
            content = read_bytes(folder / INDEX, MOST_OF_LIST)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise Unusable(f"{folder / INDEX} cannot be read ({error}).", AGAIN) from None
        try:
            return _read(folder, content, model_digest)
        except Unusable:
            if not _changed(folder, content):
                raise
            # another process has put a new one in its place, and may have removed what the old one named


def _changed(folder: Path, content: bytes) -> bool:
    try:
        return read_bytes(folder / INDEX, MOST_OF_LIST) != content
    except (OSError, ValueError):
        return False


def _read(folder: Path, whole: bytes, model_digest: str) -> Index:
    path = folder / INDEX
    try:
        content = check_version(parse_json(whole), FORMAT_VERSION, path)
        made_by = str(content["model_digest"])
        if made_by != model_digest:
            raise Unusable(f"{folder} holds vectors of another model ({made_by[:12]}, not {model_digest[:12]}).", AGAIN)
        if not (isinstance(root := content["root"], str) and Path(root).is_absolute() and "\0" not in root):
            raise ValueError("it does not say where the pictures are")
        segments, aside = (
            tuple(open_segment(folder, entry) for entry in content[key]) for key in ("segments", "aside")
        )
        refused = tuple(RefusedFile(str(name), str(why), int(size), int(time)) for name, why, size, time in
                        content["refused"])  # fmt: skip
        index = Index(folder, root, made_by, int(content["width"]), segments, refused, aside)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise Unusable(f"{path} does not describe vectors ({error}).", AGAIN) from None
    if any(segment.rows.h.shape[1] != index.width for segment in (*segments, *aside)):
        raise Unusable(f"{folder} holds vectors of different widths.", AGAIN)
    return index
