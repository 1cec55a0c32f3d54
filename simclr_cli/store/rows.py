"""A file of vectors and of what they are of, which never changes once it is there: one .safetensors, memory-mapped.

    h            (M, D) float32, rows of length 1
    names, ends  the relative paths, put end to end, and where each one ends
    bytes, modified_ns, digest, size    of each file, when its vector was made

The header is read here and not by the library, which copies what it reads; the library reads the file as well.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from simclr_cli.errors import RunError
from simclr_cli.files import write_file
from simclr_cli.reading import check_file, parse_json

MOST_HEADER = 10_000  # bytes; ours has about 700
ALIGNED = 64  # bytes: a row of h begins where a line of the processor's cache does
BLOCK = 16_384  # rows written at once

# In the order of the file: the widest numbers first, so that all are aligned.
COLUMNS: dict[str, tuple[str, np.dtype[Any]]] = {
    "modified_ns": ("I64", np.dtype("<i8")), "bytes": ("I64", np.dtype("<i8")), "ends": ("I64", np.dtype("<i8")),
    "size": ("I32", np.dtype("<i4")), "h": ("F32", np.dtype("<f4")), "digest": ("U8", np.dtype("u1")),
    "names": ("U8", np.dtype("u1")),
}  # fmt: skip
WORDS = {kind: word for word, kind in COLUMNS.values()}


@dataclass(frozen=True, eq=False)
class Rows:
    """Vectors, each with the picture that it is of."""

    h: NDArray[np.float32]  # (M, D), each of length 1
    names: NDArray[np.uint8]  # (B,) the relative paths' bytes, put end to end
    ends: NDArray[np.int64]  # (M,) where each one ends
    bytes: NDArray[np.int64]  # (M,) of the file
    modified_ns: NDArray[np.int64]  # (M,)
    digest: NDArray[np.uint8]  # (M, 32) SHA-256 of the file
    size: NDArray[np.int32]  # (M, 2) upright height and width, px

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, row: int) -> str:
        """The relative path of one row; bytes that are not UTF-8 as surrogates."""
        start = int(self.ends[row - 1]) if row else 0
        return os.fsdecode(self.names[start : int(self.ends[row])].tobytes())

    def row(self, name: str) -> int | None:
        """The first row of that relative path, or None."""
        wanted, whole = os.fsencode(name), self.names.tobytes()
        found = whole.find(wanted)
        while found >= 0 and wanted:
            row = int(np.searchsorted(self.ends, found + len(wanted), side="left"))
            starts = int(self.ends[row - 1]) if row else 0
            if starts == found and int(self.ends[row]) == found + len(wanted):
                return row
            found = whole.find(wanted, found + 1)
        return None

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """Some of them, but for h, which is too large to be copied at once: it comes as no column at all."""
        starts = np.concatenate([[0], self.ends[:-1]])[rows] if len(self) else rows
        stops = self.ends[rows]
        whole = self.names.tobytes()
        names = b"".join(whole[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True))
        return Rows(
            h=np.empty((0, self.h.shape[1]), np.float32),
            names=np.frombuffer(names, np.uint8),
            ends=np.cumsum(stops - starts),
            bytes=self.bytes[rows],
            modified_ns=self.modified_ns[rows],
            digest=self.digest[rows],
            size=self.size[rows],
        )


def named(names: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The columns `names` and `ends` of relative paths."""
    parts = [os.fsencode(name) for name in names]
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    return np.frombuffer(b"".join(parts), np.uint8), ends


def write_rows(file: Path, parts: Sequence[tuple[Rows, NDArray[np.int64] | None]]) -> str:
    """Write the chosen rows of each part, in order, as one file; h block by block, so that it need not fit in memory.

    Args:
        parts: rows, and which of them; None: all.

    Returns:
        SHA-256 of the file.

    Raises:
        MachineError: the system refused.
    """
    chosen = [(rows, np.arange(len(rows)) if which is None else which) for rows, which in parts]
    taken = [rows.take(which) for rows, which in chosen]
    columns: dict[str, NDArray[Any]] = {
        name: np.concatenate([getattr(rows, name) for rows in taken])
        for name in ("modified_ns", "bytes", "size", "digest", "names")
    }
    before = np.cumsum([0, *(len(rows.names) for rows in taken)])
    columns["ends"] = np.concatenate([rows.ends + start for rows, start in zip(taken, before, strict=False)])
    shape = (len(columns["ends"]), parts[0][0].h.shape[1])
    digest = hashlib.sha256()

    def write(stream: IO[bytes]) -> None:
        for piece in _pieces(columns, shape, chosen):
            digest.update(piece)
            stream.write(piece)

    write_file(file, write)
    return digest.hexdigest()


def _pieces(
    columns: Mapping[str, NDArray[Any]], shape: tuple[int, int], chosen: Sequence[tuple[Rows, NDArray[np.int64]]]
) -> Iterator[bytes]:
    shapes = {name: (shape if name == "h" else columns[name].shape) for name in COLUMNS}
    yield header({name: (kind, shapes[name]) for name, (_, kind) in COLUMNS.items()})
    for name, (_, kind) in COLUMNS.items():
        if name != "h":
            yield np.ascontiguousarray(columns[name], kind).tobytes()
            continue
        for rows, which in chosen:
            for start in range(0, len(which), BLOCK):
                yield np.ascontiguousarray(rows.h[which[start : start + BLOCK]], kind).tobytes()


def header(
    columns: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The beginning of a .safetensors, up to the first column, so long that h begins where a line of the cache does.

    Args:
        columns: type and shape of each, in the order of the file; h is one of them.
        metadata: ASCII, for whoever reads the file with the library.
    """
    described: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    start = 0
    for name, (kind, shape) in columns.items():
        stop = start + kind.itemsize * int(np.prod(shape))
        described[name] = {"dtype": WORDS[kind], "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(described).encode("ascii")
    to_h: int = described["h"]["data_offsets"][0]
    text += b" " * (-(8 + len(text) + to_h) % ALIGNED)
    return len(text).to_bytes(8, "little") + text


def read_rows(file: Path) -> Rows:
    """Map a file; nothing but its header is read.

    Raises:
        RunError: missing, cut, or not such a file.
    """
    try:
        size = check_file(file)
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > MOST_HEADER:
                raise ValueError("its header is too long")
            described = parse_json(stream.read(length))
        columns: dict[str, NDArray[Any]] = {}
        start = 8 + length
        for name, (word, kind) in COLUMNS.items():
            shape = tuple(described[name]["shape"])
            if described[name]["dtype"] != word or any(type(n) is not int or not 0 <= n <= size for n in shape):
                raise ValueError(f"{name} is not what it should be")
            if described[name]["data_offsets"][0] != start - 8 - length or len(shape) != _dimensions(name):
                raise ValueError(f"{name} is not where it should be")
            stop = start + kind.itemsize * int(np.prod(shape, dtype=object))
            if stop > size:
                raise ValueError("it is cut short")
            columns[name] = np.memmap(file, kind, "c", start, shape) if stop > start else np.empty(shape, kind)
            start = stop
        rows = Rows(**columns)
        lengths = {len(column) for name, column in columns.items() if name != "names"}
        last = int(rows.ends[-1]) if len(rows) else 0
        if start != size or lengths != {len(rows)} or last != len(rows.names):
            raise ValueError("its columns do not fit one another")
        if rows.digest.shape[1] != 32 or rows.size.shape[1] != 2 or np.any(np.diff(rows.ends, prepend=0) < 0):
            raise ValueError("its columns do not fit one another")
        if _leaves(rows):
            raise ValueError("it names files outside the folder of the pictures")
    except FileNotFoundError:
        raise RunError(f"There is no {file}.", "Run the command again: it is made anew.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file} is damaged ({error}).", "Run the command again: it is made anew.") from None
    return rows


def _leaves(rows: Rows) -> bool:
    """Whether a name is no relative path below its folder: a stranger's file must not lead anywhere else."""
    starts = np.concatenate([[0], rows.ends[:-1]])[: len(rows)]
    if len(rows) and bool((rows.names[starts[starts < rows.ends]] == ord("/")).any()):
        return True
    whole = rows.names.tobytes()
    if b".." not in whole and b"\0" not in whole:
        return False
    names = [whole[a:b] for a, b in zip(starts.tolist(), rows.ends.tolist(), strict=True)]
    return any(b".." in name.split(b"/") or b"\0" in name for name in names)


def _dimensions(name: str) -> int:
    return 2 if name in ("h", "digest", "size") else 1
