"""Location of the caches: one for each folder of images, in the user's cache folder; listing and clearing them.

    <cache root>/<key of the folder>/headers.json     headers of the files (images/scan.py)
    <cache root>/<key of the folder>/<side>/...       decoded images of one size (images/cache.py)
    <cache root>/<key of the folder>/embeddings-<key of the encoder>/...   an index (store/index_files.py), and pages

All of it can be recreated; clearing it costs only time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from simclr_cli.api import FolderCache
from simclr_cli.core.errors import MachineError
from simclr_cli.core.events import silent
from simclr_cli.core.files import TEMPORARY_PREFIX
from simclr_cli.core.locks import LOCK_FILE, lock_folder

HEADERS, INDEX, PIXELS = "headers.json", "index.json", "pixels-*.u8"
EMBEDDINGS_PREFIX, PAGES_FOLDER = "embeddings-", "pages"


def cache_root() -> Path:
    """Return the folder of all caches: $SIMCLR_CACHE, or the platform's cache folder."""
    if os.environ.get("SIMCLR_CACHE"):
        return Path(os.environ["SIMCLR_CACHE"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "simclr"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "simclr"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "simclr"


def locate_cache(folder: Path) -> Path:
    """Return the cache of a folder of images, existing or not."""
    return cache_root() / hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]


def locate_embeddings(folder: Path, model_checksum: str) -> Path:
    """Return the folder for the index of a folder of images and an encoder."""
    return locate_cache(folder) / f"{EMBEDDINGS_PREFIX}{model_checksum[:16]}"


def list_caches() -> list[FolderCache]:
    """List all caches that name their folder, most recently used first."""
    caches: list[tuple[float, FolderCache]] = []
    for headers in cache_root().glob(f"*/{HEADERS}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            folder = str(json.loads(headers.read_bytes())["folder"])
            statuses = [path.stat() for path in _files(headers.parent)]
            sides = sorted(int(path.name) for path in _side_folders(headers.parent) if (path / INDEX).is_file())
            used_time = max(status.st_mtime for status in statuses)
            size = sum(status.st_size for status in statuses)
            used = datetime.fromtimestamp(used_time, UTC).isoformat(timespec="seconds")
            encoders = sum((path / INDEX).is_file() for path in _embeddings_folders(headers.parent))
            caches.append((used_time, FolderCache(str(headers.parent), folder, tuple(sides), encoders, size, used)))
    return [cache for _, cache in sorted(caches, key=lambda item: -item[0])]


def clear_cache(cache: Path) -> None:
    """Delete a cache: the files that simclr writes, by their names, and the folders that are then empty.

    Raises:
        MachineError: the system did not allow it, or another process updates embeddings there.
    """
    for folder in _embeddings_folders(cache):
        if (folder / LOCK_FILE).exists():
            with lock_folder(folder, silent):  # removes the lock file of a killed process
                pass
    try:
        for path in _files(cache):
            path.unlink(missing_ok=True)
        with_pages = [*_embeddings_folders(cache), cache]
        for folder in (*_side_folders(cache), *(path / PAGES_FOLDER for path in with_pages), *with_pages):
            with contextlib.suppress(OSError):  # it holds files of others
                folder.rmdir()
    except OSError as error:
        raise MachineError(f"Cannot clear {cache}: {error.strerror}.", "Change its permissions.") from None


def _side_folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.name.isascii() and path.name.isdigit() and path.is_dir()]


def _embeddings_folders(cache: Path) -> list[Path]:
    return [path for path in cache.glob(f"{EMBEDDINGS_PREFIX}*") if path.is_dir()]


def _files(cache: Path) -> Iterator[Path]:
    """Yield all files; last the one by which the cache is listed, so that an interrupted clearing can be repeated."""
    for folder in _side_folders(cache):
        for pattern in (INDEX, PIXELS, f"{TEMPORARY_PREFIX}*"):
            yield from folder.glob(pattern)
    for folder in _embeddings_folders(cache):
        for pattern in (INDEX, "*.bin", f"{TEMPORARY_PREFIX}*", f"{PAGES_FOLDER}/*.html"):
            yield from folder.glob(pattern)
    for pattern in (f"{PAGES_FOLDER}/*.html", f"{TEMPORARY_PREFIX}*", HEADERS):
        yield from cache.glob(pattern)
