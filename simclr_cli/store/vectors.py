"""Embeddings with the names of their rows, bound to the model that made them.

Two files: NAME.npy, float32 (N, D), which any tool reads, and NAME.rows.json, which says what each row is, which model
made it, and the checksum of the .npy, so that the two cannot be mixed up. (Other forms: store/exports.py.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from simclr_cli.core.errors import RunError
from simclr_cli.core.files import discard, write_file, write_json
from simclr_cli.core.safe_read import MOST_OF_LIST, check_file, check_version, checksum_file, is_within, read_json

FORMAT_VERSION = 1
AGAIN = "Embed the images again."
SELF_DESCRIBING = (".npz", ".parquet", ".safetensors")  # they hold names and all else themselves
KEYS = {"vectors_checksum": str, "rows_checksum": str, "shape": list, "model_checksum": str, "normalized": bool,
        "root": str,
        "rows": list, "skipped": list, "source_fingerprint": str}  # fmt: skip


@dataclass(frozen=True)
class Vectors:
    """Rows of h and what they are of."""

    values: NDArray[np.float32]  # (N, D)
    rows: tuple[str, ...]  # N relative paths, sorted
    root: str  # the folder that they are relative to
    model_checksum: str
    normalized: bool  # each row of length 1
    source_fingerprint: str  # of the images' census
    skipped: tuple[Mapping[str, str], ...] = ()  # images without a row: name and reason


def rows_file(out: Path) -> Path:
    """What says what the rows of a file are: a description beside it, or the file itself where there is room in it."""
    if out.suffix in SELF_DESCRIBING:
        return out
    return out.with_suffix(".rows.json") if out.suffix == ".npy" else out.with_name(f"{out.name}.rows.json")


def write_vectors(out: Path, vectors: Vectors) -> None:
    """Write both files."""
    write_described(out, vectors, lambda s: np.lib.format.write_array(s, vectors.values, allow_pickle=False))


def write_described(out: Path, vectors: Vectors, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file of vectors and, beside it, what its rows are.

    The description comes first, and until the file is in place it holds the last one too: at any moment one of the two
    is that of the file.
    """
    described = {**about(vectors), "rows_checksum": _checksum_rows(vectors.rows), "rows": list(vectors.rows)}
    try:
        last = {name: value for name, value in _description(out).items() if name != "before"}
    except RunError:
        last = None

    def describe(file: Path) -> None:
        described["vectors_checksum"] = checksum_file(file)
        write_json(rows_file(out), described if last is None else {**described, "before": last})

    try:
        write_file(out, write, before=describe)
    except BaseException:
        if not out.exists():
            discard(rows_file(out))
        raise
    if last is not None:
        write_json(rows_file(out), described)


def about(vectors: Vectors) -> dict[str, Any]:
    """What can be said of vectors, but for the names of their rows, as JSON can hold it."""
    return {
        "format_version": FORMAT_VERSION,
        "shape": list(vectors.values.shape),
        "model_checksum": vectors.model_checksum,
        "normalized": vectors.normalized,
        "root": vectors.root,
        "source_fingerprint": vectors.source_fingerprint,
        "skipped": [dict(entry) for entry in vectors.skipped],
    }


def shard_file(out: Path, number: int, count: int) -> Path:
    """The `number`th, from 0, of `count` files instead of one."""
    return out.with_name(f"{out.stem}-{number:05}-of-{count:05}{out.suffix}")


def shards_file(out: Path) -> Path:
    """The list of the files that stand for a .npy."""
    return out.with_suffix(".shards.json")


def write_shards(out: Path, shards: Sequence[tuple[Path, int]]) -> None:
    """List files of vectors, each with its rows, in order; every one is described by its own .rows.json."""
    files = [{"file": path.name, "rows": rows, "vectors_checksum": checksum_file(path)} for path, rows in shards]
    total = sum(rows for _, rows in shards)
    write_json(shards_file(out), {"format_version": FORMAT_VERSION, "rows": total, "shards": files})


def read_vectors(out: Path, *, model_checksum: str) -> Vectors:
    """Open vectors (memory-mapped), which must be of this model.

    Raises:
        RunError: missing, damaged, the two files not of one writing, or vectors of another model.
    """
    description = _description(out)
    made_by, rows = description["model_checksum"], tuple(description["rows"])
    if made_by != model_checksum:
        raise RunError(
            f"{out} holds vectors of another model ({made_by[:12]}, not {model_checksum[:12]}).",
            "Embed the images again with this run.",
        )
    if not _is_of(description, out) or _checksum_rows(rows) != description["rows_checksum"]:
        raise RunError(f"{out} and {rows_file(out)} do not belong together.", AGAIN)
    try:
        values = np.load(out, mmap_mode="r", allow_pickle=False)
        shape = list(values.shape)
        if values.dtype != np.float32 or not shape == description["shape"] == [len(rows), *shape[1:]]:
            raise ValueError("it does not hold the rows that it says")
    except Exception as error:  # numpy's reader of headers has many ways to fail
        raise RunError(f"{out} cannot be read ({error}).", AGAIN) from None
    return Vectors(
        values=values,
        rows=rows,
        root=description["root"],
        model_checksum=made_by,
        normalized=description["normalized"],
        source_fingerprint=description["source_fingerprint"],
        skipped=tuple(description["skipped"]),
    )


def _description(out: Path) -> dict[str, Any]:
    path = rows_file(out)
    try:
        description = check_version(read_json(path, MOST_OF_LIST), FORMAT_VERSION, path)
        if isinstance(description.get("before"), dict) and not _is_of(description, out):
            description = description["before"]  # the file that the newer one is of was never put in place
        if any(not isinstance(description.get(key), kind) for key, kind in KEYS.items()):
            raise ValueError("it does not describe vectors")
        if not all(isinstance(name, str) and is_within(name) for name in description["rows"]):
            raise ValueError("it names files outside the folder of the images")
    except FileNotFoundError:
        raise RunError(f"There is no {path} beside {out}.", AGAIN) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}).", AGAIN) from None
    return description


def _is_of(description: Mapping[str, Any], out: Path) -> bool:
    try:
        check_file(out)
        return checksum_file(out) == description.get("vectors_checksum")
    except (OSError, ValueError):
        return False


def _checksum_rows(rows: tuple[str, ...]) -> str:
    """SHA-256 of the names in their order: a swapped name would be a wrong answer."""
    return hashlib.sha256(json.dumps(rows).encode("ascii")).hexdigest()
