"""Files of an index: reading, verification, appending and saving.

    vectors/
      index.json           valid lengths of the other files, removed rows, skipped images
      embeddings-<id>.bin  (M, D) float32, each row of length 1
      images-<id>.bin      (M,) IMAGE: size, modification time, checksum, height and width of each image
      names-<id>.bin       M relative paths, a NUL after each

An update appends rows and then replaces index.json, so at any moment the old or the new index is complete. Bytes behind
the ends named in index.json do not count. Rows never change. Once more than half of the images are removed, the others
are copied to new files. One process writes at a time (core/locks.py); readers need no lock and no write permission.
"""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from dataclasses import asdict, astuple, replace
from pathlib import Path

import numpy as np

from simclr_cli.core.errors import RunError
from simclr_cli.core.files import append_bytes, try_remove_files, write_json
from simclr_cli.core.safe_read import MAX_LIST_BYTES, check_regular_file, check_version, parse_json, read_bytes
from simclr_cli.store.index import FLOAT, IMAGE, PART_KINDS, Index, Part, Rows, SkippedFile, create_parts

FORMAT_VERSION = 1
INDEX_FILE = "index.json"
ROWS_PER_COPY = 16_384
BYTES_PER_READ = 1 << 22
MAX_INDEX_BYTES = 1 << 22  # of index.json, enough for 20,000 skipped images
MAX_INDEX_BYTES_PER_ROW = 256  # in addition
REMEDY = "Run the command again without --no-update to embed the images again."


class InvalidIndexError(RunError):
    """An index that is damaged or of another model, and can be computed again."""


def append_rows(index: Index, rows: Rows) -> Index:
    """Append rows of an unfinished update, durably; `Index.finish_update` makes them count.

    Raises:
        MachineError: no write permission, or no space.
    """
    if not all(_has_one_name(index.folder / part.file) for part in index.parts.values() if part.bytes):
        index = _copy_live_rows(index)
    return save_index(_append_to_parts(index, rows))


def save_index(index: Index) -> Index:
    """Write index.json atomically and durably, and remove files that it no longer names.

    Raises:
        MachineError: no write permission, or no space.
    """
    if len(index.removed_rows) > len(index):
        index = _copy_live_rows(index)
    content = {
        "format_version": FORMAT_VERSION, "root": index.root,
        "model_checksum": index.model_checksum, "width": index.width,
        "parts": {kind: asdict(part) for kind, part in index.parts.items()}, "searched": index.finished_rows,
        "gone": index.removed_rows.tolist(), "skipped": [astuple(file) for file in index.skipped],
        "similarity": index.similarity, "bits": index.bits, "decoding": index.decoding,
    }  # fmt: skip
    write_json(index.folder / INDEX_FILE, content)
    named = {part.file for part in index.parts.values()}
    part_files = (path for kind in PART_KINDS for path in index.folder.glob(f"{kind}-*.bin"))
    try_remove_files(*(path for path in part_files if path.name not in named))
    return index


def _append_to_parts(index: Index, rows: Rows) -> Index:
    """Append rows to the files; index.json does not name them yet."""
    names = b"".join(os.fsencode(name) + b"\0" for name in rows.names)
    content = (rows.h.astype(FLOAT, copy=False).tobytes(), rows.images.tobytes(), names)
    parts = {}
    for (kind, part), data in zip(index.parts.items(), content, strict=True):
        modified_ns = append_bytes(index.folder / part.file, data, part.bytes) if data else part.modified_ns
        parts[kind] = Part(part.file, part.bytes + len(data), zlib.crc32(data, part.crc32), modified_ns)
    return replace(index, parts=parts)


def _copy_live_rows(index: Index) -> Index:
    """Copy the rows of existing images to new files, which index.json does not name yet."""
    source = index.include_unfinished()
    copied = replace(index, parts=create_parts(), finished_rows=0, removed_rows=np.empty(0, np.int64))
    for start in range(0, len(source), ROWS_PER_COPY):
        places = slice(start, start + ROWS_PER_COPY)
        copied = _append_to_parts(copied, Rows(source.h[places], source.names[places], source.images[places]))
    return replace(copied, finished_rows=len(index))


def _has_one_name(file: Path) -> bool:
    """Return whether a file is regular and has no other hard link, such as a backup, that would grow with it."""
    status = file.lstat()
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def read_index(folder: Path, *, model_checksum: str) -> Index | None:
    """Open an index, mapped; return None if there is none.

    Raises:
        InvalidIndexError: damaged, or of another model.
        RunError: of a newer version.
    """
    while True:
        try:
            content = read_index_file(folder)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InvalidIndexError(f"{folder / INDEX_FILE} cannot be read ({error}).", REMEDY) from None
        try:
            return _parse_index(folder, content, model_checksum)
        except InvalidIndexError:
            with contextlib.suppress(OSError, ValueError):
                if read_index_file(folder) != content:
                    continue  # another process has replaced it, and may have removed the files that it named
            raise


def read_index_file(folder: Path) -> bytes:
    """Return index.json; raise ValueError if it is longer than the number of images can explain."""
    rows = sum(file.stat().st_size for file in folder.glob("images-*.bin")) // IMAGE.itemsize
    return read_bytes(folder / INDEX_FILE, min(MAX_LIST_BYTES, MAX_INDEX_BYTES + MAX_INDEX_BYTES_PER_ROW * rows))


def _parse_index(folder: Path, data: bytes, model_checksum: str) -> Index:
    path = folder / INDEX_FILE
    try:
        content = check_version(parse_json(data), FORMAT_VERSION, path)
        index_model = str(content["model_checksum"])
        if index_model != model_checksum:
            raise InvalidIndexError(
                f"{folder} holds embeddings of another model ({index_model[:12]}, not {model_checksum[:12]}).", REMEDY
            )
        parts = {kind: Part(**content["parts"][kind]) for kind in PART_KINDS}
        for part in parts.values():
            _verify_part(folder, part)
        skipped = tuple(SkippedFile(str(name), str(reason), int(size), int(time))
                        for name, reason, size, time in content["skipped"])  # fmt: skip
        index = Index(folder, content["root"], index_model, content["width"], parts, content["searched"],
                      np.array(content["gone"], np.int64), skipped, content["similarity"],
                      content.get("bits"), content.get("decoding", 0))  # fmt: skip
        index.check()
    except FileNotFoundError as error:
        raise InvalidIndexError(f"There is no {error.filename}.", REMEDY) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InvalidIndexError(f"{path} is not a valid index ({error}).", REMEDY) from None
    return index


def _verify_part(folder: Path, part: Part) -> None:
    """Check the size of a part, and its checksum if the file has another modification time than recorded."""
    if [type(value) for value in astuple(part)] != [str, int, int, int] or Path(part.file).name != part.file:
        raise ValueError("a part has an invalid description")
    file = folder / part.file
    if not 0 <= part.bytes <= (check_regular_file(file) if part.bytes else 0):
        raise ValueError(f"{part.file} is truncated")
    if part.bytes and file.stat().st_mtime_ns != part.modified_ns and compute_crc32(file, part.bytes) != part.crc32:
        raise ValueError(f"{part.file} is damaged: its checksum differs")


def compute_crc32(file: Path, byte_count: int) -> int:
    """Return the CRC-32 of the first bytes of a file."""
    crc32 = 0
    with file.open("rb") as stream:
        while byte_count > 0 and (block := stream.read(min(byte_count, BYTES_PER_READ))):
            crc32, byte_count = zlib.crc32(block, crc32), byte_count - len(block)
    return crc32
