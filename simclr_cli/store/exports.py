"""Vectors in the forms that other tools read, each with what they are of: .npz, .safetensors, .csv, .parquet, .tsv.

Whatever a form has no room for (which model, which images were skipped) stands in a .rows.json beside it.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from simclr_cli.core.files import write_file, write_json
from simclr_cli.core.text import as_cell, as_text
from simclr_cli.store.vectors import Vectors, about, write_described, write_vectors

BLOCK = 256  # rows made into text at once
ROW_GROUP = 16_384  # rows of a Parquet file
ALIGNED = 64  # bytes: a row of h begins where a line of the processor's cache does
WORDS = {"<i8": "I64", "<f4": "F32", "|u1": "U8"}  # of .safetensors
EPOCH = (1980, 1, 1, 0, 0, 0)  # of the members of an .npz, so that the same vectors are the same bytes


def write_export(out: Path, vectors: Vectors) -> None:
    """Write vectors in the form that the ending of `out` says; .tsv by `write_projector`, as it needs a sprite.

    Raises:
        MachineError: the system refused.
    """
    WRITERS[out.suffix](out, vectors)


def write_npz(out: Path, vectors: Vectors) -> None:
    """`h` (N, D) float32, `names` (N,) text, `about` () text: JSON of what .rows.json would say. No pickle in it."""

    def write(stream: IO[bytes]) -> None:
        with zipfile.ZipFile(stream, "w") as archive:
            # Numbers hardly get smaller, and mapped or not they are read at the speed of the disk; names do.
            _add(archive, "h", zipfile.ZIP_STORED, vectors.values)
            _add(archive, "names", zipfile.ZIP_DEFLATED, np.array(vectors.rows))
            _add(archive, "about", zipfile.ZIP_DEFLATED, np.array(json.dumps(about(vectors))))

    write_file(out, write)


def _add(archive: zipfile.ZipFile, name: str, compression: int, array: NDArray[Any]) -> None:
    info = zipfile.ZipInfo(f"{name}.npy", EPOCH)
    info.compress_type = compression
    with archive.open(info, "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def write_safetensors(out: Path, vectors: Vectors) -> None:
    """`h` (N, D) float32; `names` (B,) uint8, one after the other, and `ends` (N,) int64 of each; `simclr` in metadata.

    That is JSON within JSON, because the format's header must be valid UTF-8, and a folder's name need not be. By hand,
    for the library writes to no stream but as a copy of all arrays.
    """
    names = [os.fsencode(name) for name in vectors.rows]
    columns = {
        "ends": np.cumsum([len(name) for name in names], dtype="<i8"),
        "h": np.ascontiguousarray(vectors.values, "<f4"),
        "names": np.frombuffer(b"".join(names), np.uint8),
    }
    described: dict[str, Any] = {"__metadata__": {"simclr": json.dumps(about(vectors))}}
    start = 0
    for name, array in columns.items():
        stop = start + array.nbytes
        described[name] = {"dtype": WORDS[array.dtype.str], "shape": array.shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(described).encode("ascii")
    text += b" " * (-(8 + len(text) + columns["ends"].nbytes) % ALIGNED)

    def write(stream: IO[bytes]) -> None:
        stream.write(len(text).to_bytes(8, "little") + text)
        for array in columns.values():
            stream.write(array.data)

    write_file(out, write)


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


def write_parquet(out: Path, vectors: Vectors) -> None:
    """The columns path (text) and h (a list of D float32); JSON of what they are of, `simclr`, in its metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    width = vectors.values.shape[1]
    columns = [pa.field("path", pa.string(), False), pa.field("h", pa.list_(pa.float32(), width), False)]
    schema = pa.schema(columns, metadata={"simclr": json.dumps(about(vectors))})

    paths = pa.array([as_text(name) for name in vectors.rows], pa.string())
    h = pa.FixedSizeListArray.from_arrays(pa.array(vectors.values.reshape(-1)), width)
    table = pa.table([paths, h], schema=schema)
    # Numbers hardly get smaller, and hardly one comes twice: neither compressed nor looked up.
    how = {"compression": {"path": "zstd", "h.list.element": "none"}, "use_dictionary": False}
    write_file(out, lambda stream: parquet.write_table(table, stream, row_group_size=ROW_GROUP, **how))


def sprite_file(out: Path) -> Path:
    """The sheet of thumbnails beside a .tsv."""
    return out.with_suffix(".sprite.png")


def write_projector(out: Path, vectors: Vectors, side: int) -> None:
    """Write all that the Embedding Projector reads, in a browser or in TensorBoard, but the sprite; and a .rows.json.

    NAME.tsv            (N, D), tabs between the numbers, no header
    NAME.metadata.tsv   name and folder of each row, with a header
    NAME.sprite.png     thumbnails in the order of the rows, line by line (images/thumbnails.py)
    NAME.config.json    which file is what, by names beside one another

    Args:
        side: of a thumbnail on the sprite, px.
    """
    metadata = out.with_suffix(".metadata.tsv")
    cells = ((as_cell(name), as_cell(name.rpartition("/")[0] or ".")) for name in vectors.rows)
    rows = (f"{name}\t{folder}\n".encode() for name, folder in chain([("name", "folder")], cells))
    write_file(metadata, lambda stream: stream.writelines(rows))
    shown = {
        "tensorName": as_text(out.stem),
        "tensorShape": list(vectors.values.shape),
        "tensorPath": out.name,
        "metadataPath": metadata.name,
        "sprite": {"imagePath": sprite_file(out).name, "singleImageDim": [side, side]},
    }
    write_json(out.with_suffix(".config.json"), {"embeddings": [shown]})
    numbers = (f"{row}\n".encode() for row in as_numbers(vectors.values, "\t"))
    write_described(out, vectors, lambda stream: stream.writelines(numbers))


WRITERS: dict[str, Callable[[Path, Vectors], None]] = {
    ".npy": write_vectors,
    ".npz": write_npz,
    ".parquet": write_parquet,
    ".safetensors": write_safetensors,
    ".csv": write_csv,
}
