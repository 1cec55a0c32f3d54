"""The headers of a folder's images in the user's cache, so that a census reads only new and changed files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from simclr_cli.core.errors import MachineError
from simclr_cli.core.files import write_json
from simclr_cli.core.safe_read import MAX_LIST_BYTES, read_json
from simclr_cli.images.cache_location import HEADERS, locate_cache
from simclr_cli.images.census import ImageFile
from simclr_cli.images.formats import DECODING_VERSION, FORMATS, MAX_PIXELS

VERSION = 3  # of the file


class CostlyFile(NamedTuple):
    """A file that took long to be found unusable."""

    name: str
    reason: str
    bytes: int
    modified_ns: int


KnownFile = ImageFile | CostlyFile


def read_cached_headers(root: Path) -> dict[str, KnownFile]:
    """Return the files of the last census by name; none if that is missing or damaged."""
    file = locate_cache(root) / HEADERS
    try:
        content = read_json(file, MAX_LIST_BYTES)
        files = [(CostlyFile if len(fields) == 4 else ImageFile)(*fields) for fields in content["files"]]
        if content["version"] != [VERSION, DECODING_VERSION] or not all(map(_is_valid, files)):
            return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    with contextlib.suppress(OSError):  # another user's
        os.utime(file)  # `simclr cache` shows the time of the last use
    return {file.name: file for file in files}


def _is_valid(image: KnownFile) -> bool:
    if isinstance(image, CostlyFile):
        return [type(value) for value in image] == [str, str, int, int]
    numbers = (image.height, image.width, image.bytes, image.modified_ns, image.bits)
    has_names = isinstance(image.name, str) and image.format in FORMATS and isinstance(image.note, str)
    return (
        has_names
        and all(type(x) is int for x in numbers)
        and 0 < image.height * image.width <= MAX_PIXELS
        and 0 <= image.bits <= 16
    )


def write_cached_headers(root: Path, files: Sequence[KnownFile]) -> None:
    """Write the files of a census, if possible: without them the next one reads all headers again."""
    rows = [list(file if isinstance(file, CostlyFile) else vars(file).values()) for file in files]
    content = {"version": [VERSION, DECODING_VERSION], "folder": str(root.resolve()), "files": rows}
    with contextlib.suppress(MachineError):
        write_json(locate_cache(root) / HEADERS, content)
