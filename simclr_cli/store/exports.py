"""Export of vectors in the formats of other tools: .npz, .safetensors, .csv, .parquet, .tsv.

A format without room for the description (the model, the skipped images) gets a .rows.json.
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
from simclr_cli.core.text import escape_name, escape_name_for_csv
from simclr_cli.store.vectors import Vectors, describe_vectors, write_vectors, write_with_description

ROWS_PER_BLOCK = 256  # converted to text at once
ROWS_PER_PARQUET_GROUP = 16_384
ALIGNMENT_BYTES = 64  # of h in a .safetensors file: a cache line of the processor
SAFETENSORS_DTYPES = {"<i8": "I64", "<f4": "F32", "|u1": "U8"}
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # constant, so that the same vectors give the same bytes


def write_export(out: Path, vectors: Vectors) -> None:
    """Write vectors in the format of the suffix of `out`, except .tsv (`write_embedding_projector`).

    Raises:
        MachineError: the file cannot be written.
    """
    WRITERS[out.suffix](out, vectors)


def write_npz(out: Path, vectors: Vectors) -> None:
    """Write `h` (N, D) float32, `names` (N,) text and `about` () text, the description as JSON; without pickle."""

    def write(stream: IO[bytes]) -> None:
        with zipfile.ZipFile(stream, "w") as archive:
            # Uncompressed: embeddings hardly get smaller, unlike names.
            _add_array(archive, "h", zipfile.ZIP_STORED, vectors.values)
            _add_array(archive, "names", zipfile.ZIP_DEFLATED, np.array(vectors.rows))
            _add_array(archive, "about", zipfile.ZIP_DEFLATED, np.array(json.dumps(describe_vectors(vectors))))

    write_file(out, write)


def _add_array(archive: zipfile.ZipFile, name: str, compression: int, array: NDArray[Any]) -> None:
    info = zipfile.ZipInfo(f"{name}.npy", ZIP_DATE)
    info.compress_type = compression
    with archive.open(info, "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def write_safetensors(out: Path, vectors: Vectors) -> None:
    """Write `h` (N, D) float32, `names` (B,) uint8, concatenated, their `ends` (N,) int64, and the description.

    The description is JSON in the key `simclr` of the metadata, because the header must be valid UTF-8, and a folder's
    name need not be. The library is not used: it cannot write to a stream without a copy of all arrays.
    """
    names = [os.fsencode(name) for name in vectors.rows]
    columns = {
        "ends": np.cumsum([len(name) for name in names], dtype="<i8"),
        "h": np.ascontiguousarray(vectors.values, "<f4"),
        "names": np.frombuffer(b"".join(names), np.uint8),
    }
    header: dict[str, Any] = {"__metadata__": {"simclr": json.dumps(describe_vectors(vectors))}}
    start = 0
    for name, array in columns.items():
        stop = start + array.nbytes
        dtype = SAFETENSORS_DTYPES[array.dtype.str]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [start, stop]}
        start = stop
    encoded = json.dumps(header).encode("ascii")
    encoded += b" " * (-(8 + len(encoded) + columns["ends"].nbytes) % ALIGNMENT_BYTES)

    def write(stream: IO[bytes]) -> None:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        for array in columns.values():
            stream.write(array.data)

    write_file(out, write)


def write_csv(out: Path, vectors: Vectors) -> None:
    """Write a table with the columns path, h_0 ... h_(D-1), and a .rows.json."""

    def iterate_lines() -> Iterator[bytes]:
        yield ",".join(["path", *(f"h_{i}" for i in range(vectors.values.shape[1]))]).encode() + b"\n"
        for name, numbers in zip(vectors.rows, format_rows(vectors.values, ","), strict=True):
            quoted = escape_name_for_csv(name).replace('"', '""')
            yield f'"{quoted}",{numbers}\n'.encode()

    write_with_description(out, vectors, lambda stream: stream.writelines(iterate_lines()))


def format_rows(values: NDArray[np.float32], separator: str) -> Iterator[str]:
    """Yield each row of (N, D) float32 as text.

    Nine digits recover every float32, even if a reader rounds by way of float64: their error is less than a fifth of
    what would change the number.
    """
    row_format = separator.join(["%.9g"] * values.shape[1])
    for start in range(0, len(values), ROWS_PER_BLOCK):
        for row in values[start : start + ROWS_PER_BLOCK].tolist():
            yield row_format % tuple(row)


def write_parquet(out: Path, vectors: Vectors) -> None:
    """Write the columns path (text) and h (a list of D float32); the description is JSON in the metadata `simclr`."""
    import pyarrow as pa
    from pyarrow import parquet

    width = vectors.values.shape[1]
    columns = [pa.field("path", pa.string(), False), pa.field("h", pa.list_(pa.float32(), width), False)]
    schema = pa.schema(columns, metadata={"simclr": json.dumps(describe_vectors(vectors))})

    paths = pa.array([escape_name(name) for name in vectors.rows], pa.string())
    h = pa.FixedSizeListArray.from_arrays(pa.array(vectors.values.reshape(-1)), width)
    table = pa.table([paths, h], schema=schema)
    # Embeddings hardly get smaller and hardly repeat, so neither compression nor a dictionary.
    options = {"compression": {"path": "zstd", "h.list.element": "none"}, "use_dictionary": False}
    write_file(out, lambda stream: parquet.write_table(table, stream, row_group_size=ROWS_PER_PARQUET_GROUP, **options))


def name_sprite_file(out: Path) -> Path:
    """Return the path of the thumbnails of a .tsv."""
    return out.with_suffix(".sprite.png")


def write_embedding_projector(out: Path, vectors: Vectors, side: int) -> None:
    """Write the files of the Embedding Projector (in a browser or in TensorBoard), except the sprite; and a .rows.json.

    NAME.tsv            (N, D), tabs between the numbers, no header
    NAME.metadata.tsv   name and folder of each row, with a header
    NAME.sprite.png     thumbnails in the order of the rows, line by line (images/thumbnails.py)
    NAME.config.json    names of these files

    Args:
        side: of a thumbnail on the sprite, px.
    """
    metadata = out.with_suffix(".metadata.tsv")
    cells = ((escape_name_for_csv(name), escape_name_for_csv(name.rpartition("/")[0] or ".")) for name in vectors.rows)
    rows = (f"{name}\t{folder}\n".encode() for name, folder in chain([("name", "folder")], cells))
    write_file(metadata, lambda stream: stream.writelines(rows))
    embedding = {
        "tensorName": escape_name(out.stem),
        "tensorShape": list(vectors.values.shape),
        "tensorPath": out.name,
        "metadataPath": metadata.name,
        "sprite": {"imagePath": name_sprite_file(out).name, "singleImageDim": [side, side]},
    }
    write_json(out.with_suffix(".config.json"), {"embeddings": [embedding]})
    numbers = (f"{row}\n".encode() for row in format_rows(vectors.values, "\t"))
    write_with_description(out, vectors, lambda stream: stream.writelines(numbers))


WRITERS: dict[str, Callable[[Path, Vectors], None]] = {
    ".npy": write_vectors,
    ".npz": write_npz,
    ".parquet": write_parquet,
    ".safetensors": write_safetensors,
    ".csv": write_csv,
}
