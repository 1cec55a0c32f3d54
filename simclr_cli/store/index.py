"""Index of an image folder: one embedding per image, with its relative path, file checksum and size.

The embeddings are mapped from the files of store/index_files.py. Rows are in the order in which they were appended, and
never change. A place, from 0 to N - 1, counts only the rows whose image still exists.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr_cli.core.hardware import ON_WINDOWS
from simclr_cli.core.safe_read import is_safe_path

PART_KINDS = ("embeddings", "images", "names")
FLOAT = np.dtype("<f4")
IMAGE = np.dtype([
    ("bytes", "<i8"), ("modified_ns", "<i8"),
    ("checksum", "u1", 32),  # SHA-256
    ("size", "<i4", 2),  # upright height and width, px
])  # fmt: skip


@dataclass(frozen=True)
class SkippedFile:
    """An image that cannot be decoded, and is not tried again until it changes."""

    name: str
    reason: str
    bytes: int
    modified_ns: int


@dataclass(frozen=True)
class Part:
    """A file, of which only the first bytes belong to the index."""

    file: str
    bytes: int = 0
    crc32: int = 0
    modified_ns: int = 0  # of the file; as long as it is the same, the checksum is not computed


@dataclass(frozen=True, eq=False)
class Rows:
    """Embeddings and their images."""

    h: NDArray[np.float32]  # (M, D), each row of length 1
    names: Sequence[str]
    images: NDArray[np.void]  # (M,) IMAGE


class Embeddings:
    """(N, D) float32: selected rows of a mapped array, in order, read by slices and by places."""

    def __init__(self, mapped_rows: NDArray[np.float32], live_rows: NDArray[np.int64]) -> None:
        self._mapped_rows, self._live_rows = mapped_rows, live_rows
        self.shape = len(live_rows), mapped_rows.shape[1]

    def __len__(self) -> int:
        return len(self._live_rows)

    def __getitem__(self, places: slice) -> NDArray[np.float32]:
        """Return (n, D): a view of the mapped array if the rows are contiguous in it."""
        live_rows = self._live_rows[places]
        is_contiguous = len(live_rows) > 0 and live_rows[-1] - live_rows[0] + 1 == len(live_rows)
        return self._mapped_rows[live_rows[0] : live_rows[-1] + 1] if is_contiguous else self._mapped_rows[live_rows]

    def select(self, places: NDArray[np.int64]) -> Embeddings:
        """Return the embeddings of (n,) ascending places, to be read later."""
        return Embeddings(self._mapped_rows, self._live_rows[places])

    def take(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (n, D) of (n,) places, a copy."""
        return self._mapped_rows[self._live_rows[places]]


def create_parts() -> dict[str, Part]:
    """Return empty parts with new file names."""
    number = secrets.token_hex(8)
    return {kind: Part(f"{kind}-{number}.bin") for kind in PART_KINDS}


@dataclass(frozen=True, eq=False)
class Index:
    """The embeddings and images of a folder, by place."""

    folder: Path  # of the index files
    root: str  # folder of the images
    model_checksum: str  # of the encoder
    width: int
    parts: Mapping[str, Part] = field(default_factory=create_parts)
    finished_rows: int = 0  # number of rows; those behind them are of an unfinished update
    removed_rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # ascending
    skipped: tuple[SkippedFile, ...] = ()
    similarity: Mapping[str, Any] | None = None  # the similarity scale (search/similarity_scale.py)
    bits: int | None = None  # that images of 16 bits used when they were decoded
    decoding: int = 0  # version of the decoding of all images
    _rows: NDArray[np.float32] = field(init=False)  # (M, D), mapped at once: another process may remove the files
    _images: NDArray[np.void] = field(init=False)  # (M,)
    _names: NDArray[np.uint8] = field(init=False)  # (B,)

    def __post_init__(self) -> None:
        rows, images, names = (_map_part(self.folder, self.parts[kind]) for kind in PART_KINDS)
        object.__setattr__(self, "_rows", rows.view(FLOAT).reshape(-1, self.width))
        object.__setattr__(self, "_images", images.view(IMAGE))
        object.__setattr__(self, "_names", names)

    @classmethod
    def in_memory(cls, root: str, names: Sequence[str], images: NDArray[np.void]) -> Index:
        """Return an index without files and with equal embeddings, for a search of equal files."""
        index = cls(Path(), root, "", 1, finished_rows=len(names))
        encoded = b"".join(os.fsencode(name) + b"\0" for name in names)
        object.__setattr__(index, "_rows", np.ones((len(names), 1), np.float32))
        object.__setattr__(index, "_images", images)
        object.__setattr__(index, "_names", np.frombuffer(encoded, np.uint8))
        return index

    def __len__(self) -> int:
        return self.finished_rows - len(self.removed_rows)

    @property
    def is_unfinished(self) -> bool:
        """True if an update has appended rows and has not finished."""
        return len(self._images) > self.finished_rows

    def include_unfinished(self) -> Index:
        """Return the index with the rows of an unfinished update."""
        return replace(self, finished_rows=len(self._images))

    def finish_update(self, removed: NDArray[np.int64], skipped: Sequence[SkippedFile], root: str) -> Index:
        """Return the index with all appended rows, without those of removed images.

        Args:
            removed: (n,) places in `include_unfinished()`.
        """
        index = self.include_unfinished()
        removed_rows = np.sort(np.concatenate([index.removed_rows, index.live_rows[removed]]))
        return replace(index, root=root, skipped=tuple(skipped), removed_rows=removed_rows)

    @cached_property
    def live_rows(self) -> NDArray[np.int64]:
        """(N,) the row of each place."""
        return np.delete(np.arange(self.finished_rows), self.removed_rows)

    @cached_property
    def h(self) -> Embeddings:
        """(N, D) float32, each row of length 1."""
        return Embeddings(self._rows, self.live_rows)

    def get_name(self, place: int) -> str:
        """Return the relative path of an image; bytes that are not UTF-8 as surrogates."""
        row = int(self.live_rows[place])
        start = int(self._name_ends[row - 1]) + 1 if row else 0
        return os.fsdecode(self._names[start : int(self._name_ends[row])].tobytes())

    def find_place(self, name: str) -> int | None:
        """Return the place of a relative path, without a table of all names; None if it has none."""
        names, needle, offset = b"\0" + self._names.tobytes(), b"\0" + os.fsencode(name) + b"\0", -1
        while (offset := names.find(needle, offset + 1)) >= 0:
            row = int(np.searchsorted(self._name_ends, offset))
            place = int(np.searchsorted(self.live_rows, row))
            if place < len(self) and self.live_rows[place] == row:
                return place
        return None

    def get_path(self, place: int) -> Path:
        """Return the file of an image."""
        return Path(self.root) / self.get_name(place)

    @cached_property
    def names(self) -> list[str]:
        """All relative paths by place; slow for a million."""
        names = os.fsdecode(self._names.tobytes()).split("\0")
        return [names[row] for row in self.live_rows.tolist()]

    @cached_property
    def places_by_name(self) -> dict[str, int]:
        """The place of every relative path; slow for a million."""
        return dict(zip(self.names, range(len(self)), strict=True))

    @cached_property
    def images(self) -> NDArray[np.void]:
        """(N,) IMAGE."""
        return self._images[self.live_rows] if len(self.removed_rows) else self._images[: self.finished_rows]

    def get_checksums(self, places: NDArray[np.int64]) -> NDArray[np.void]:
        """Return (n,) the SHA-256 of (n,) places, each as one value, which sorts faster than rows of bytes."""
        return np.ascontiguousarray(self.images["checksum"][places]).view("V32").reshape(-1)

    @cached_property
    def _name_ends(self) -> NDArray[np.int64]:
        """(M,) the end of each name in `_names`."""
        return np.flatnonzero(self._names == 0)

    def check(self) -> None:
        """Check that the parts match one another, and that no name leads out of the folder of the images.

        Raises:
            ValueError: they do not match, or a name leads out of it.
        """
        if not len(self._rows) == len(self._images) == len(self._name_ends):
            raise ValueError("its files do not match one another")
        if type(self.finished_rows) is not int or not 0 <= self.finished_rows <= len(self._rows):
            raise ValueError(f"it has no {self.finished_rows} rows")
        removed = self.removed_rows
        if removed.ndim != 1 or not (np.diff(removed, prepend=-1, append=self.finished_rows) > 0).all():
            raise ValueError("the removed rows are not among its rows")
        if len({file.name for file in self.skipped}) < len(self.skipped):
            raise ValueError("it lists a skipped file twice")
        if not (Path(self.root).root and "\0" not in self.root):
            raise ValueError("the folder of the images is not an absolute path")
        if not self._has_decodable_names():
            raise ValueError("it names files that are not UTF-8, which Windows cannot have")
        if self._has_name_outside():
            raise ValueError("it names files outside the folder of the images")

    def _has_decodable_names(self, *, windows: bool = ON_WINDOWS) -> bool:
        """Return whether os.fsdecode can decode the names, as it always can where Python uses surrogateescape."""
        try:
            if windows:
                self._names.tobytes().decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return False
        return True

    def _has_name_outside(self, *, windows: bool = ON_WINDOWS) -> bool:
        """Return whether a name does not end or is unsafe, as is_safe_path, which is slow for a million."""
        names, starts = self._names, np.append(0, self._name_ends[:-1] + 1)[: len(self._name_ends)]
        if len(names) > 0 and (names[-1] != 0 or np.isin(names[starts], (0, ord("/"))).any()):
            return True
        dots = names == ord(".")
        is_suspect = bool((dots[1:] & dots[:-1]).any()) or (windows and bool(np.isin(names, (58, 92)).any()))  # : and \
        texts = os.fsdecode(names.tobytes()).split("\0")[:-1] if is_suspect else []
        return not all(is_safe_path(name, windows=windows) for name in texts)


def _map_part(folder: Path, part: Part) -> NDArray[np.uint8]:
    """Map the bytes of a part, copy-on-write: changes stay in this process."""
    if not part.bytes:
        return np.empty(0, np.uint8)
    return np.asarray(np.memmap(folder / part.file, np.uint8, "c", 0, (part.bytes,)))
