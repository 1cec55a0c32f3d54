"""The embeddings of a run's images, kept up to date at the cost of what has changed.

    vectors/
      index.json           how much of the other files counts, which rows are gone, which images are skipped
      embeddings-<id>.bin  (M, D) float32, each row of length 1
      images-<id>.bin      (M,) IMAGE: what is known of the file of each row
      names-<id>.bin       M relative paths, a NUL after each

An update appends rows, and then replaces index.json: at any moment the index is the old one or the new one, and what
lies behind the ends that index.json names does not count. Rows never change. Those whose image is gone are passed
over, and left behind in the old files once they are more than half. One process writes at a time (`locks`); those that
read need no lock and no right to write.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr_cli.core.errors import RunError
from simclr_cli.core.files import append_bytes, discard, write_json
from simclr_cli.core.safe_read import MOST_OF_LIST, check_file, check_version, parse_json, read_bytes

FORMAT_VERSION = 1
INDEX, KINDS = "index.json", ("embeddings", "images", "names")
FLOAT = np.dtype("<f4")
IMAGE = np.dtype([
    ("bytes", "<i8"), ("modified_ns", "<i8"),
    ("checksum", "u1", 32),  # SHA-256
    ("size", "<i4", 2),  # upright height and width, px
])  # fmt: skip
ROWS_PER_BLOCK = 16_384  # copied at once
BYTES_PER_BLOCK = 1 << 22  # read at once
AGAIN = "Run the command again without --no-update: the vectors are made anew."


class Unusable(RunError):
    """Vectors that are damaged, or of another model: they can be made anew."""


@dataclass(frozen=True)
class SkippedFile:
    """An image that cannot be decoded: not tried again as long as it stays as it is."""

    name: str
    reason: str
    bytes: int
    modified_ns: int


@dataclass(frozen=True)
class Part:
    """The first bytes of a file, which count."""

    file: str
    bytes: int = 0
    crc32: int = 0
    modified_ns: int = 0  # of the file; as long as it is that, its bytes are not read to verify them


@dataclass(frozen=True, eq=False)
class Rows:
    """Embeddings, each with the image that it is of."""

    h: NDArray[np.float32]  # (M, D), each row of length 1
    names: Sequence[str]
    images: NDArray[np.void]  # (M,) IMAGE


class Embeddings:
    """(N, D) float32: some rows of a map, in order, read by slices and by places."""

    def __init__(self, rows: NDArray[np.float32], live: NDArray[np.int64]) -> None:
        self._rows, self._live = rows, live
        self.shape = len(live), rows.shape[1]

    def __len__(self) -> int:
        return len(self._live)

    def __getitem__(self, places: slice) -> NDArray[np.float32]:
        """(n, D): a part of the map itself, where none of its rows is passed over."""
        live = self._live[places]
        unbroken = len(live) > 0 and live[-1] - live[0] + 1 == len(live)
        return self._rows[live[0] : live[-1] + 1] if unbroken else self._rows[live]

    def only(self, places: NDArray[np.int64]) -> Embeddings:
        """(n,) places, rising -> those rows alone, read when they are needed."""
        return Embeddings(self._rows, self._live[places])

    def take(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n,) places -> (n, D), a copy."""
        return self._rows[self._live[places]]


def _new_parts() -> dict[str, Part]:
    number = secrets.token_hex(8)
    return {kind: Part(f"{kind}-{number}.bin") for kind in KINDS}


@dataclass(frozen=True, eq=False)
class Index:
    """The embeddings of a folder of images. A place, from 0 to N - 1, is that of an image in all that it gives."""

    folder: Path  # that it lies in
    root: str  # the folder of the images
    model_checksum: str  # of the encoder that made the embeddings
    width: int
    parts: Mapping[str, Part] = field(default_factory=_new_parts)
    searched: int = 0  # so many rows: those behind them are of an update that has not come to its end
    gone: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # of those searched, rising
    skipped: tuple[SkippedFile, ...] = ()
    similarity: Mapping[str, Any] | None = None  # what similarities mean here (search/similarity_scale.py)
    _rows: NDArray[np.float32] = field(init=False)  # (M, D), mapped at once: another process may remove the files
    _images: NDArray[np.void] = field(init=False)  # (M,)
    _names: NDArray[np.uint8] = field(init=False)  # (B,)

    def __post_init__(self) -> None:
        rows, images, names = (_map(self.folder, self.parts[kind]) for kind in KINDS)
        object.__setattr__(self, "_rows", rows.view(FLOAT).reshape(-1, self.width))
        object.__setattr__(self, "_images", images.view(IMAGE))
        object.__setattr__(self, "_names", names)

    def __len__(self) -> int:
        return self.searched - len(self.gone)

    @property
    def is_unfinished(self) -> bool:
        """Whether an update has appended rows and has not come to its end."""
        return len(self._images) > self.searched

    @property
    def known(self) -> Index:
        """The same with the rows of an update that has not come to its end."""
        return replace(self, searched=len(self._images))

    def settled(self, gone: NDArray[np.int64], skipped: Sequence[SkippedFile], root: str) -> Index:
        """The same at the end of an update: all rows are searched, but for those at the places `gone` in `known`."""
        known = self.known
        return replace(
            known, root=root, skipped=tuple(skipped), gone=np.sort(np.concatenate([known.gone, known.live[gone]]))
        )

    @cached_property
    def live(self) -> NDArray[np.int64]:
        """(N,) the row of each place."""
        return np.delete(np.arange(self.searched), self.gone)

    @cached_property
    def h(self) -> Embeddings:
        """(N, D) float32, each row of length 1."""
        return Embeddings(self._rows, self.live)

    def name(self, place: int) -> str:
        """The relative path of one image; bytes that are not UTF-8 as surrogates."""
        row = int(self.live[place])
        start = int(self._ends[row - 1]) + 1 if row else 0
        return os.fsdecode(self._names[start : int(self._ends[row])].tobytes())

    def place(self, name: str) -> int | None:
        """Where a relative path is, without a list of all of them; None: not here."""
        whole, wanted, at = b"\0" + self._names.tobytes(), b"\0" + os.fsencode(name) + b"\0", -1
        while (at := whole.find(wanted, at + 1)) >= 0:
            row = int(np.searchsorted(self._ends, at))
            place = int(np.searchsorted(self.live, row))
            if place < len(self) and self.live[place] == row:
                return place
        return None

    def path(self, place: int) -> Path:
        """The file of one image."""
        return Path(self.root) / self.name(place)

    @cached_property
    def names(self) -> list[str]:
        """All relative paths: takes a while for a million."""
        names = os.fsdecode(self._names.tobytes()).split("\0")
        return [names[row] for row in self.live.tolist()]

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each relative path is: for many of them, as `names` takes a while."""
        return dict(zip(self.names, range(len(self)), strict=True))

    @cached_property
    def images(self) -> NDArray[np.void]:
        """(N,) IMAGE: what is known of the files."""
        return self._images[self.live] if len(self.gone) else self._images[: self.searched]

    def contents(self, places: NDArray[np.int64]) -> NDArray[np.void]:
        """(n,) places -> (n,) the SHA-256 of each, as one value: sorted faster than rows of bytes."""
        return np.ascontiguousarray(self.images["checksum"][places]).view("V32").reshape(-1)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """(M,) where in `_names` each one ends."""
        return np.flatnonzero(self._names == 0)

    def check(self) -> None:
        """Prove that the parts fit one another, and that no name leads out of the folder of the images.

        Raises:
            ValueError: they do not.
        """
        if not len(self._rows) == len(self._images) == len(self._ends):
            raise ValueError("its files do not fit one another")
        if type(self.searched) is not int or not 0 <= self.searched <= len(self._rows):
            raise ValueError(f"{self.searched} rows are not there")
        if self.gone.ndim != 1 or not (np.diff(self.gone, prepend=-1, append=self.searched) > 0).all():
            raise ValueError("the rows that are gone are not among its rows")
        if not (Path(self.root).is_absolute() and "\0" not in self.root):
            raise ValueError("it does not say where the images are")
        names, starts = self._names, np.append(0, self._ends[:-1] + 1)[: len(self._ends)]
        dots = names == ord(".")
        outside = len(names) > 0 and (names[-1] != 0 or np.isin(names[starts], (0, ord("/"))).any())
        if not outside and (dots[1:] & dots[:-1]).any():
            outside = any(b".." in name.split(b"/") for name in names.tobytes().split(b"\0"))
        if outside:
            raise ValueError("it names files outside the folder of the images")


def append(index: Index, rows: Rows) -> Index:
    """Keep rows of an update that goes on, durably: they are `known`, and searched once it is `settled`.

    Raises:
        MachineError: no right to write, or no space.
    """
    if not all(_is_own(index.folder / part.file) for part in index.parts.values() if part.bytes):
        index = _copied(index)
    return save(_extended(index, rows))


def save(index: Index) -> Index:
    """Make an index the one that is read, durably: whatever happens on the way, it is the old one or this one.

    Raises:
        MachineError: no right to write, or no space.
    """
    if len(index.gone) > len(index):
        index = _copied(index)
    content = {
        "format_version": FORMAT_VERSION, "root": index.root,
        "model_checksum": index.model_checksum, "width": index.width,
        "parts": {kind: asdict(part) for kind, part in index.parts.items()}, "searched": index.searched,
        "gone": index.gone.tolist(), "skipped": [astuple(file) for file in index.skipped],
        "similarity": index.similarity,
    }  # fmt: skip
    write_json(index.folder / INDEX, content)
    named = {part.file for part in index.parts.values()}
    discard(*(path for kind in KINDS for path in index.folder.glob(f"{kind}-*.bin") if path.name not in named))
    return index


def _extended(index: Index, rows: Rows) -> Index:
    """The same with some more rows, which no index.json names yet."""
    names = b"".join(os.fsencode(name) + b"\0" for name in rows.names)
    content = (rows.h.astype(FLOAT, copy=False).tobytes(), rows.images.tobytes(), names)
    parts = {}
    for (kind, part), data in zip(index.parts.items(), content, strict=True):
        modified_ns = append_bytes(index.folder / part.file, data, part.bytes) if data else part.modified_ns
        parts[kind] = Part(part.file, part.bytes + len(data), zlib.crc32(data, part.crc32), modified_ns)
    return replace(index, parts=parts)


def _copied(index: Index) -> Index:
    """The same in files of its own, without the rows that are gone; no index.json names them yet."""
    known = index.known
    new = replace(index, parts=_new_parts(), searched=0, gone=np.empty(0, np.int64))
    for start in range(0, len(known), ROWS_PER_BLOCK):
        block = slice(start, start + ROWS_PER_BLOCK)
        new = _extended(new, Rows(known.h[block], known.names[block], known._images[known.live[block]]))
    return replace(new, searched=len(index))


def _is_own(file: Path) -> bool:
    """Whether a file may be appended to: it has no other name, so that no one else's file grows with it."""
    status = file.lstat()
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _map(folder: Path, part: Part) -> NDArray[np.uint8]:
    """The bytes of a part, mapped; what is changed in them stays in this process."""
    if not part.bytes:
        return np.empty(0, np.uint8)
    return np.asarray(np.memmap(folder / part.file, np.uint8, "c", 0, (part.bytes,)))


def read_index(folder: Path, *, model_checksum: str) -> Index | None:
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
            return _read(folder, content, model_checksum)
        except Unusable:
            with contextlib.suppress(OSError, ValueError):
                if read_bytes(folder / INDEX, MOST_OF_LIST) != content:
                    continue  # another process has put a new one there, and may have removed what the old one named
            raise


def _read(folder: Path, whole: bytes, model_checksum: str) -> Index:
    path = folder / INDEX
    try:
        content = check_version(parse_json(whole), FORMAT_VERSION, path)
        made_by = str(content["model_checksum"])
        if made_by != model_checksum:
            raise Unusable(
                f"{folder} holds vectors of another model ({made_by[:12]}, not {model_checksum[:12]}).", AGAIN
            )
        parts = {kind: Part(**content["parts"][kind]) for kind in KINDS}
        for part in parts.values():
            _verify(folder, part)
        skipped = tuple(SkippedFile(str(name), str(why), int(size), int(time)) for name, why, size, time in
                        content["skipped"])  # fmt: skip
        index = Index(folder, content["root"], made_by, content["width"], parts, content["searched"],
                      np.array(content["gone"], np.int64), skipped, content["similarity"])  # fmt: skip
        index.check()
    except FileNotFoundError as error:
        raise Unusable(f"There is no {error.filename}.", AGAIN) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise Unusable(f"{path} does not describe vectors ({error}).", AGAIN) from None
    return index


def _verify(folder: Path, part: Part) -> None:
    """Prove that a part is there and is what was saved: a file touched since then by its bytes, another is trusted."""
    if [type(value) for value in astuple(part)] != [str, int, int, int] or Path(part.file).name != part.file:
        raise ValueError("it names no part of a file")
    file = folder / part.file
    if not 0 <= part.bytes <= (check_file(file) if part.bytes else 0):
        raise ValueError(f"{part.file} is cut short")
    if part.bytes and file.stat().st_mtime_ns != part.modified_ns and checksum(file, part.bytes) != part.crc32:
        raise ValueError(f"{part.file} is not what was saved: its checksum differs")


def checksum(file: Path, most: int) -> int:
    """CRC-32 of the first bytes of a file."""
    found = 0
    with file.open("rb") as stream:
        while most > 0 and (block := stream.read(min(most, BYTES_PER_BLOCK))):
            found, most = zlib.crc32(block, found), most - len(block)
    return found
