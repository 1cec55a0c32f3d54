"""Vectors for the Embedding Projector, in a browser or in TensorBoard: values, names, a sheet of thumbnails, a config.

NAME.tsv            (N, D), tabs between the numbers, no header
NAME.metadata.tsv   name and folder of each row, with a header
NAME.sprite.png     thumbnails in the order of the rows, line by line (images/thumbnails.py)
NAME.config.json    which file is what, by names beside one another
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from simclr_cli.files import write_file, write_json
from simclr_cli.names import as_cell, as_text
from simclr_cli.store.exports import as_numbers
from simclr_cli.store.vectors import Vectors, write_described


def sprite_file(out: Path) -> Path:
    """The sheet of thumbnails beside a .tsv."""
    return out.with_suffix(".sprite.png")


def write_projector(out: Path, vectors: Vectors, side: int) -> None:
    """Write all but the sprite, and a .rows.json.

    Args:
        side: of a thumbnail on the sprite, px.

    Raises:
        MachineError: the system refused.
    """
    metadata = out.with_suffix(".metadata.tsv")
    numbers = (f"{row}\n".encode() for row in as_numbers(vectors.values, "\t"))
    write_file(metadata, lambda stream: stream.writelines(_metadata(vectors)))
    shown = {
        "tensorName": as_text(out.stem),
        "tensorShape": list(vectors.values.shape),
        "tensorPath": out.name,
        "metadataPath": metadata.name,
        "sprite": {"imagePath": sprite_file(out).name, "singleImageDim": [side, side]},
    }
    write_json(out.with_suffix(".config.json"), {"embeddings": [shown]})
    write_described(out, vectors, lambda stream: stream.writelines(numbers))


def _metadata(vectors: Vectors) -> Iterator[bytes]:
    yield b"name\tfolder\n"
    for name in vectors.rows:
        folder = name.rpartition("/")[0]
        yield f"{as_cell(name)}\t{as_cell(folder or '.')}\n".encode()
