"""Safe reading of untrusted files: regular files of bounded size, and unambiguous JSON.

Any problem is an OSError or a ValueError, which the caller turns into an error with a remedy.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
from pathlib import Path
from typing import Any, cast

from simclr_cli.core.errors import RunError
from simclr_cli.core.hardware import ON_WINDOWS

MAX_BYTES = 16 << 20  # of a description, and of the header of a .safetensors file
MAX_LIST_BYTES = 1 << 30  # of a file that lists every image
MAX_WEIGHTS_HEADER_BYTES = 2 << 20  # that of timm's largest models has 0.3 MB
MAX_CHECKSUM_BYTES = 1 << 35  # of a file whose checksum is computed: a sparse one may have any size
MAX_DIGITS = 20  # of an integer, its sign included: those of 64 bits have no more

UPGRADE = "Upgrade: pipx upgrade simclr-cli (or uv tool upgrade simclr-cli)."


def check_regular_file(path: Path) -> int:
    """Return the size of a regular file, in bytes; raise ValueError for a pipe or a device, which may never end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    return status.st_size


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Read a regular file; raise ValueError if it has more than `max_bytes`."""
    if (size := check_regular_file(path)) > max_bytes:
        raise ValueError(f"it has {size:,} bytes, more than {max_bytes:,}")
    with path.open("rb") as stream:
        return stream.read(max_bytes)


def checksum_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def has_checksum(path: Path, checksum: object) -> bool:
    """Return whether a file has this SHA-256, and no more than MAX_CHECKSUM_BYTES."""
    return check_regular_file(path) <= MAX_CHECKSUM_BYTES and checksum_file(path) == checksum


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """Read a JSON file by `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path, max_bytes))


def parse_json(text: bytes | str, *, finite: bool = True) -> Any:
    """Parse JSON in UTF-8; raise ValueError for duplicate keys, too deep nesting, or integers of more than MAX_DIGITS.

    Args:
        finite: reject NaN and infinity.
    """
    try:
        return json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            object_pairs_hook=_build_object,
            parse_int=_parse_integer,
            parse_float=_parse_finite if finite else None,
            parse_constant=_parse_finite if finite else None,
        )
    except (RecursionError, MemoryError):
        raise ValueError("it is nested too deep, or too large") from None


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("it has a duplicate key")
    return content


def _parse_integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"it has a number of {len(text):,} digits")
    return int(text)


def _parse_finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not finite")
    return value


def check_version(content: Any, supported: int, path: Path) -> dict[str, Any]:
    """Return the object in a file if its `format_version` is supported.

    Raises:
        RunError: it is of a newer version.
    """
    version = content.get("format_version") if isinstance(content, dict) else None
    if type(version) is not int or version < 1:
        raise ValueError("it has no format version")
    if version > supported:
        what = f"{path} has a newer format (version {version}; this simclr supports up to {supported})."
        raise RunError(what, UPGRADE)
    return cast(dict[str, Any], content)


def check_safetensors_header(path: Path, max_bytes: int = MAX_BYTES) -> None:
    """Check that the header of a .safetensors file is at most `max_bytes`, and that its tensors fill the file.

    The library itself checks the sizes of tensors before it reads any, but accepts a header of any size.
    """
    from safetensors import SafetensorError, safe_open

    size = check_regular_file(path)
    if size > MAX_CHECKSUM_BYTES:
        raise ValueError(f"it has {size:,} bytes, more than {MAX_CHECKSUM_BYTES:,}")
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if length > min(max_bytes, size - 8):
        raise ValueError(f"its header claims {length:,} bytes")
    try:
        with safe_open(path, "numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def is_safe_path(name: str, *, windows: bool = ON_WINDOWS) -> bool:
    """Return whether a name is a relative path that cannot lead out of its folder.

    Args:
        windows: whether it is used there, where a colon is that of a drive, also of one without a root (C:x), or names
            a stream of a file, and where dots and spaces at the end of a part do not count.
    """
    parts = (name.replace("\\", "/") if windows else name).split("/")
    if parts[0] == "" or "\0" in name or (windows and ":" in name):
        return False
    return not any(part.startswith("..") and not part.rstrip(". ") if windows else part == ".." for part in parts)
