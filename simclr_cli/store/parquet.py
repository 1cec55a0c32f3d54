"""Vectors as a Parquet file, by pyarrow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO

from simclr_cli.files import write_file
from simclr_cli.names import as_text
from simclr_cli.store.vectors import Vectors, about

ROW_GROUP = 16_384  # rows


def write_parquet(out: Path, vectors: Vectors) -> None:
    """The columns path (text) and h (a list of D float32); JSON of what they are of, `simclr`, in its metadata.

    Raises:
        MachineError: the system refused.
    """
    import pyarrow as pa
    from pyarrow import parquet

    width = vectors.values.shape[1]
    columns = [pa.field("path", pa.string(), False), pa.field("h", pa.list_(pa.float32(), width), False)]
    schema = pa.schema(columns, metadata={"simclr": json.dumps(about(vectors))})

    def write(stream: IO[bytes]) -> None:
        # Numbers hardly get smaller, and hardly one comes twice: neither compressed nor looked up.
        how = {"compression": {"path": "zstd", "h.list.element": "none"}, "use_dictionary": False}
        with parquet.ParquetWriter(stream, schema, **how) as table:
            for start in range(0, len(vectors.rows), ROW_GROUP):
                part = slice(start, start + ROW_GROUP)
                paths = pa.array([as_text(name) for name in vectors.rows[part]], pa.string())
                h = pa.FixedSizeListArray.from_arrays(pa.array(vectors.values[part].reshape(-1)), width)
                table.write_batch(pa.record_batch([paths, h], schema=schema))

    write_file(out, write)
