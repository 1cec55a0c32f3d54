"""Vectors in the forms that other tools read, each with what they are of: .npz, .safetensors, .csv; the others by name.

Whatever a form has no room for (which model, which pictures were refused) stands in a .rows.json beside it.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from simclr_cli.files import write_file
from simclr_cli.names import as_cell
from simclr_cli.store.parquet import write_parquet
from simclr_cli.store.vectors import Vectors, about, write_described, write_vectors

BLOCK = 256  # rows made into text, or names into an array, at once
ALIGNED = 64  # bytes: a row of h begins where a line of the processor's cache does
WORDS = {"<i8": "I64", "<f4": "F32", "|u1": "U8"}  # of .safetensors
EPOCH = (1980, 1, 1, 0, 0, 0)  # of the members of an .npz, so that the same vectors are the same bytes


def write_export(out: Path, vectors: Vectors) -> None:
    """Write vectors in the form that the ending of `out` says; .tsv by store/projector.py, as it needs a sprite.

    Raises:
        MachineError: the system refused.
    """
    WRITERS[out.suffix](out, vectors)


def write_npz(out: Path, vectors: Vectors) -> None:
    """`h` (N, D) float32, `names` (N,) text, `about` () text: JSON of what .rows.json would say. No pickle in it."""
    names, most = vectors.rows, max(map(len, vectors.rows))

    def write(stream: IO[bytes]) -> None:
        with zipfile.ZipFile(stream, "w") as archive:
            # Numbers hardly get smaller, and mapped or not they are read at the speed of the disk; names do.
            with _member(archive, "h", zipfile.ZIP_STORED) as member:
                np.lib.format.write_array(member, vectors.values, allow_pickle=False)
            with _member(archive, "names", zipfile.ZIP_DEFLATED) as member:
                form = np.lib.format.dtype_to_descr(np.dtype(f"<U{most}"))
                described = {"descr": form, "fortran_order": False, "shape": (len(names),)}
                np.lib.format.write_array_header_1_0(member, described)
                for start in range(0, len(names), BLOCK):
                    member.write(np.array(names[start : start + BLOCK], f"<U{most}").tobytes())
            with _member(archive, "about", zipfile.ZIP_DEFLATED) as member:
                text = np.array(json.dumps(about(vectors)))
                np.lib.format.write_array(member, text, allow_pickle=False)

    write_file(out, write)


def _member(archive: zipfile.ZipFile, name: str, compression: int) -> IO[bytes]:
    info = zipfile.ZipInfo(f"{name}.npy", EPOCH)
    info.compress_type = compression
    return archive.open(info, "w", force_zip64=True)


def write_safetensors(out: Path, vectors: Vectors) -> None:
    """`h` (N, D) float32; `names` (B,) uint8, one after the other, and `ends` (N,) int64 of each; `simclr` in metadata.

    That is JSON within JSON, because the format's header must be valid UTF-8, and a folder's name need not be.
    """
    names = [os.fsencode(name) for name in vectors.rows]
    columns = {
        "ends": np.cumsum([len(name) for name in names], dtype="<i8"),
        "h": vectors.values.astype("<f4", copy=False),
        "names": np.frombuffer(b"".join(names), np.uint8),
    }
    first = _header(columns, {"simclr": json.dumps(about(vectors))})

    def write(stream: IO[bytes]) -> None:
        stream.write(first)
        for array in columns.values():
            stream.write(np.ascontiguousarray(array).data)

    write_file(out, write)


def _header(columns: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """What a .safetensors begins with, padded so that h begins at a multiple of ALIGNED.

    By hand, for the library holds a copy of all arrays while it writes.
    """
    described: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name, array in columns.items():
        stop = start + array.nbytes
        described[name] = {"dtype": WORDS[array.dtype.str], "shape": array.shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(described).encode("ascii")
    to_h: int = described["h"]["data_offsets"][0]
    text += b" " * (-(8 + len(text) + to_h) % ALIGNED)
    return len(text).to_bytes(8, "little") + text


def write_csv(out: Path, vectors: Vectors) -> None:
    """A table with the columns path, h_0 ... h_(D-1), and a .rows.json beside it."""

    def lines() -> Iterator[bytes]:
        yield ",".join(["path", *(f"h_{i}" for i in range(vectors.values.shape[1]))]).encode() + b"\n"
        for name, numbers in zip(vectors.rows, as_numbers(vectors.values, ","), strict=True):
            quoted = as_cell(name).replace('"', '""')
            yield f'"{quoted}",{numbers}\n'.encode()

    write_described(out, vectors, lambda stream: stream.writelines(lines()))


def as_numbers(values: NDArray[np.float32], between: str) -> Iterator[str]:
    """Every row of (N, D) float32 as text.

    Nine digits give every float32 back, also to a reader that goes through float64 and is a little off there: they are
    off by less than a fifth of what would make them another number's.
    """
    form = between.join(["%.9g"] * values.shape[1])
    for start in range(0, len(values), BLOCK):
        for row in values[start : start + BLOCK].tolist():
            yield form % tuple(row)


WRITERS: dict[str, Callable[[Path, Vectors], None]] = {
    ".npy": write_vectors,
    ".npz": write_npz,
    ".parquet": write_parquet,
    ".safetensors": write_safetensors,
    ".csv": write_csv,
}
