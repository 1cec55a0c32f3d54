"""The formats of `embed --out`: seconds to write and to read, and bytes.

    python benchmarks/exports.py [--rows 10000] [--width 512] [--rounds 5]

The formats run in turn, round by round, and are read as in docs/use-elsewhere.md: random unit rows, file names of 32
letters. Writers sync their files to the disk. The thumbnails of .tsv are excluded, since they cost as much as decoding.
Prints one JSON object.
"""

from __future__ import annotations

from machine import describe_machine, summarize  # before torch

# isort: split
import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyarrow import parquet
from safetensors.numpy import load_file

from simclr_cli.store.exports import WRITERS, write_embedding_projector
from simclr_cli.store.vectors import Vectors


def read_npz(out: Path) -> Any:
    """Return h and names."""
    with np.load(out) as file:
        return file["h"], file["names"].tolist()


READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": np.load,
    ".npz": read_npz,
    ".safetensors": load_file,
    ".parquet": parquet.read_table,
    ".csv": lambda out: pd.read_csv(out, dtype={"path": str}, keep_default_na=False),
    ".tsv": lambda out: pd.read_csv(out, sep="\t", header=None),
}


def measure(rows: int, width: int, rounds: int) -> dict[str, Any]:
    """Measure the formats in turn."""
    values = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    names = tuple(f"{i % 10}/{hashlib.md5(str(i).encode()).hexdigest()}.jpg" for i in range(rows))
    vectors = Vectors(values, names, "/images", "a" * 64, True, "f" * 64)
    writers = {**WRITERS, ".tsv": lambda out, vectors: write_embedding_projector(out, vectors, 64)}
    seconds: dict[str, dict[str, list[float]]] = {form: {"write": [], "read": []} for form in READERS}
    sizes: dict[str, int] = {}
    for round_index in range(rounds + 1):
        for form, read in READERS.items():
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / f"vecs{form}"
                start = time.perf_counter()
                writers[form](out, vectors)
                write_end = time.perf_counter()
                read(out)
                read_end = time.perf_counter()
                sizes[form] = sum(file.stat().st_size for file in Path(folder).iterdir())
            if round_index:  # the first is warm-up
                seconds[form]["write"].append(write_end - start)
                seconds[form]["read"].append(read_end - write_end)
    forms = {
        form: {
            "megabytes": round(sizes[form] / 1e6, 1),
            **{action: summarize(values) for action, values in times.items()},
        }
        for form, times in seconds.items()
    }
    return {"rows": rows, "width": width, "forms": forms}


def main() -> None:
    """Run the rounds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 10_000), ("width", 512), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    print(json.dumps({**measure(**vars(parser.parse_args())), **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
