"""The one way to read what a stranger may have written: files only, of a bounded size, and JSON that says one thing.

Whatever is wrong is an OSError or a ValueError; who reads knows what to do about it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from pathlib import Path
from typing import Any, cast

from simclr_cli.core.errors import RunError

MOST = 16 << 20  # bytes of a description, and of the header of a .safetensors
MOST_OF_LIST = 1 << 30  # bytes of what names every image

UPGRADE = "Upgrade: pipx upgrade simclr-cli (or uv tool upgrade simclr-cli)."


def check_file(path: Path) -> int:
    """The size of an ordinary file; a pipe or a device, whose reading may never end, is skipped."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no ordinary file")
    return status.st_size


def read_bytes(path: Path, most: int = MOST) -> bytes:
    """A whole file; one that is no ordinary file, or larger than `most` bytes, is skipped."""
    if (size := check_file(path)) > most:
        raise ValueError(f"it has {size:,} bytes, and may have {most:,}")
    with path.open("rb") as stream:
        return stream.read(most)


def checksum_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: Path, most: int = MOST) -> Any:
    """The JSON in a file, read as by read_bytes and parse_json."""
    return parse_json(read_bytes(path, most))


def parse_json(text: bytes | str, *, finite: bool = True) -> Any:
    """JSON in which no key comes twice, in UTF-8, and not nested too deep.

    Args:
        finite: whether every number must be.
    """
    try:
        return json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            object_pairs_hook=_object,
            parse_float=_finite if finite else None,
            parse_constant=_finite if finite else None,
        )
    except (RecursionError, MemoryError):
        raise ValueError("it is nested too deep, or too large") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not finite")
    return value


def check_version(content: Any, known: int, path: Path) -> dict[str, Any]:
    """The object in a file, if it says a `format_version` that this simclr knows.

    Raises:
        RunError: it is of a newer version, and left as it is.
    """
    version = content.get("format_version") if isinstance(content, dict) else None
    if type(version) is not int or version < 1:
        raise ValueError("it does not say its format version")
    if version > known:
        raise RunError(f"{path} is of a newer format (version {version}; this simclr knows up to {known}).", UPGRADE)
    return cast(dict[str, Any], content)


def check_tensors(path: Path) -> None:
    """Whether the header of a .safetensors is within the file, and not huge; the rest is the library's to check.

    The library finds columns that are larger than the file before it reads any, but takes any header that there is.
    """
    size = check_file(path)
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if length > min(MOST, size - 8):
        raise ValueError(f"its header claims {length:,} bytes")


def is_within(name: str) -> bool:
    """Whether a name is a relative path that cannot lead out of the folder that it is below."""
    parts = name.replace(os.sep, "/").split("/")
    return bool(name) and "\0" not in name and ".." not in parts and not Path(name).is_absolute()
