"""Vectors files: embeddings with the names of their rows and the checksum of their model.

NAME.npy, float32 (N, D), can be read by any tool. NAME.rows.json names the image of each row and the model, and has the
checksum of the .npy, so that the two cannot be mixed up. store/exports.py has the other formats.
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
from simclr_cli.core.files import try_remove_files, write_file, write_json
from simclr_cli.core.safe_read import (
    MAX_BYTES,
    MAX_LIST_BYTES,
    check_regular_file,
    check_version,
    checksum_file,
    is_safe_path,
    read_json,
)

FORMAT_VERSION = 1
NAME_BYTES_PER_ROW_BYTE = 64  # of a description: 256 for a row of one number, and more for longer rows
REMEDY = "Embed the images again."
SELF_DESCRIBING_FORMATS = (".npz", ".parquet", ".safetensors")  # with the names and the description in the file
KEY_TYPES = {
    "vectors_checksum": str, "rows_checksum": str, "shape": list, "model_checksum": str, "normalized": bool,
    "root": str, "rows": list, "skipped": list, "source_fingerprint": str,
}  # fmt: skip


@dataclass(frozen=True)
class Vectors:
    """Rows of h with their names and description."""

    values: NDArray[np.float32]  # (N, D)
    rows: tuple[str, ...]  # N relative paths, sorted
    root: str  # the folder that they are relative to
    model_checksum: str
    normalized: bool  # each row of length 1
    source_fingerprint: str  # of the images' census
    skipped: tuple[Mapping[str, str], ...] = ()  # images without a row: name and reason


def name_rows_file(out: Path) -> Path:
    """Return the file with the description of `out`: a .rows.json, or `out` if its format has room for it."""
    if out.suffix in SELF_DESCRIBING_FORMATS:
        return out
    return out.with_suffix(".rows.json") if out.suffix == ".npy" else out.with_name(f"{out.name}.rows.json")


def write_vectors(out: Path, vectors: Vectors) -> None:
    """Write a .npy and its .rows.json."""
    write_with_description(out, vectors, lambda s: np.lib.format.write_array(s, vectors.values, allow_pickle=False))


def write_with_description(out: Path, vectors: Vectors, write: Callable[[IO[bytes]], object]) -> None:
    """Write a vectors file by `write`, and its .rows.json.

    The description is written first. Until the vectors file is in place it also holds the last description, so at any
    moment one of the two matches the file.
    """
    description = describe_vectors(vectors)
    description |= {"rows_checksum": _checksum_rows(vectors.rows), "rows": list(vectors.rows)}
    try:
        last_description = {name: value for name, value in _read_description(out).items() if name != "before"}
    except RunError:
        last_description = None

    def write_both_descriptions(file: Path) -> None:
        description["vectors_checksum"] = checksum_file(file)
        both = description if last_description is None else {**description, "before": last_description}
        write_json(name_rows_file(out), both)

    try:
        write_file(out, write, before_rename=write_both_descriptions)
    except BaseException:
        if not out.exists():
            try_remove_files(name_rows_file(out))
        raise
    if last_description is not None:
        write_json(name_rows_file(out), description)


def describe_vectors(vectors: Vectors) -> dict[str, Any]:
    """Return the description of vectors as JSON, without the names of their rows."""
    return {
        "format_version": FORMAT_VERSION,
        "shape": list(vectors.values.shape),
        "model_checksum": vectors.model_checksum,
        "normalized": vectors.normalized,
        "root": vectors.root,
        "source_fingerprint": vectors.source_fingerprint,
        "skipped": [dict(entry) for entry in vectors.skipped],
    }


def name_shard_file(out: Path, number: int, count: int) -> Path:
    """Return the path of the shard `number`, from 0."""
    return out.with_name(f"{out.stem}-{number:05}-of-{count:05}{out.suffix}")


def name_shard_list(out: Path) -> Path:
    """Return the path of the list of shards."""
    return out.with_suffix(".shards.json")


def write_shards(out: Path, shards: Sequence[tuple[Path, int]]) -> None:
    """Write the list of shards: file and number of rows of each, in order; each has its own .rows.json."""
    files = [{"file": path.name, "rows": rows, "vectors_checksum": checksum_file(path)} for path, rows in shards]
    total = sum(rows for _, rows in shards)
    write_json(name_shard_list(out), {"format_version": FORMAT_VERSION, "rows": total, "shards": files})


def read_vectors(out: Path, *, model_checksum: str) -> Vectors:
    """Open vectors, memory-mapped.

    Raises:
        RunError: missing, damaged, without a matching description, or of another model.
    """
    description = _read_description(out)
    vectors_model, rows = description["model_checksum"], tuple(description["rows"])
    if vectors_model != model_checksum:
        raise RunError(
            f"{out} holds vectors of another model ({vectors_model[:12]}, not {model_checksum[:12]}).",
            "Embed the images again with this run.",
        )
    if not _matches_file(description, out) or _checksum_rows(rows) != description["rows_checksum"]:
        raise RunError(f"{out} and {name_rows_file(out)} do not belong together.", REMEDY)
    try:
        values = np.load(out, mmap_mode="r", allow_pickle=False)
        shape = list(values.shape)
        if values.dtype != np.float32 or not shape == description["shape"] == [len(rows), *shape[1:]]:
            raise ValueError("its shape or dtype differs from the description")
    except Exception as error:  # numpy raises many types for a damaged header
        raise RunError(f"{out} cannot be read ({error}).", REMEDY) from None
    return Vectors(
        values=values,
        rows=rows,
        root=description["root"],
        model_checksum=vectors_model,
        normalized=description["normalized"],
        source_fingerprint=description["source_fingerprint"],
        skipped=tuple(description["skipped"]),
    )


def _read_description(out: Path) -> dict[str, Any]:
    path = name_rows_file(out)
    try:
        row_bytes = out.stat().st_size if out.exists() else 0
        max_bytes = min(MAX_LIST_BYTES, MAX_BYTES + NAME_BYTES_PER_ROW_BYTE * row_bytes)
        description = check_version(read_json(path, max_bytes), FORMAT_VERSION, path)
        if isinstance(description.get("before"), dict) and not _matches_file(description, out):
            description = description["before"]  # the vectors file of the newer description was never put in place
        if any(not isinstance(description.get(key), kind) for key, kind in KEY_TYPES.items()):
            raise ValueError("it is not a description of vectors")
        if not all(isinstance(name, str) and is_safe_path(name) for name in description["rows"]):
            raise ValueError("it names files outside the folder of the images")
    except FileNotFoundError:
        raise RunError(f"There is no {path} for {out}.", REMEDY) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}).", REMEDY) from None
    return description


def _matches_file(description: Mapping[str, Any], out: Path) -> bool:
    """Return whether the checksum of a vectors file is that of its description."""
    try:
        check_regular_file(out)
        return checksum_file(out) == description.get("vectors_checksum")
    except (OSError, ValueError):
        return False


def _checksum_rows(rows: tuple[str, ...]) -> str:
    """Return the SHA-256 of the names in order, to detect swapped names."""
    return hashlib.sha256(json.dumps(rows).encode("ascii")).hexdigest()
