"""Location of the caches: one for each folder of images, in the user's cache folder; listing and clearing them.

    <cache root>/gpu-checks.json                      the GPUs that compute as the CPU does (encode/device.py)
    <cache root>/<key of the folder>/headers.json     headers of the files (images/scan.py)
    <cache root>/<key of the folder>/<side>/...       decoded images of one size (images/cache.py)
    <cache root>/<key of the folder>/embeddings-<key of the encoder>/...   an index (store/index_files.py), and pages

All of it can be recreated; clearing it costs only time. It is for this user only: the images may be private.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from simclr_cli.api import FolderCache
from simclr_cli.core.errors import MachineError
from simclr_cli.core.events import silent
from simclr_cli.core.files import TEMPORARY_PREFIX, inspect_new_file, keep_private
from simclr_cli.core.locks import LOCK_FILE, lock_folder
from simclr_cli.core.safe_read import MAX_LIST_BYTES, read_json

HEADERS, INDEX, PIXELS = "headers.json", "index.json", "pixels-*.u8"
EMBEDDINGS_PREFIX, PAGES_FOLDER = "embeddings-", "pages"


def cache_root() -> Path:
    """Return the folder of all caches: $SIMCLR_CACHE, or the platform's cache folder, or a temporary one.

    Raises:
        MachineError: there is none of these.
    """
    return Path(os.environ["SIMCLR_CACHE"]) if os.environ.get("SIMCLR_CACHE") else _find_root()[0]


def explain_temporary_cache() -> str | None:
    """Return a sentence about it if the caches are in a temporary folder, else None."""
    if os.environ.get("SIMCLR_CACHE") or not (reason := _find_root()[1]):
        return None
    return f"{reason}: the cache is in {cache_root()}. Set SIMCLR_CACHE to a folder that is kept."


def _find_root() -> tuple[Path, str]:
    """Return the folder of all caches without $SIMCLR_CACHE, and if it is temporary the reason."""
    folder = _locate_platform_cache()
    if folder is not None:
        known = (path for path in (folder, *folder.absolute().parents) if os.access(path, os.F_OK))
        if os.access(next(known, folder), os.W_OK | os.X_OK):  # the folder itself, or what it is to be created in
            return folder, ""
    try:
        temporary = Path(tempfile.gettempdir()) / f"simclr-{_user()}"
    except FileNotFoundError:
        raise MachineError("There is no folder to write to.", "Set SIMCLR_CACHE to one.") from None
    if os.path.lexists(temporary) and not _is_own(temporary):
        raise MachineError(f"{temporary} is another user's.", "Set SIMCLR_CACHE to a folder of your own.")
    keep_private(temporary)
    return temporary, "There is no home folder" if folder is None else f"{folder} cannot be written to"


def _locate_platform_cache() -> Path | None:
    """Return the platform's cache folder; None if this user has no home folder, as in a container."""
    named = {"darwin": None, "win32": "LOCALAPPDATA"}.get(sys.platform, "XDG_CACHE_HOME")
    if named and os.environ.get(named):
        return Path(os.environ[named]) / "simclr"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    below = {"darwin": "Library/Caches", "win32": ""}.get(sys.platform, ".cache")
    return home / below / "simclr" if home != Path(home.anchor) else None


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0  # Windows has a temporary folder for each user


def _is_own(path: Path) -> bool:
    """Return whether a file or folder, or the link itself, is this user's; on a share, all may be of one owner."""
    if (owner := path.lstat().st_uid) == _user():
        return True
    try:
        return inspect_new_file(path.parent).st_uid == owner
    except OSError:
        return False


def locate_cache(folder: Path) -> Path:
    """Return the cache of a folder of images, existing or not; another user's is neither read nor written.

    Raises:
        MachineError: other users were there first.
    """
    return _locate_own(hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16])


def locate_gpu_checks() -> Path:
    """Return the file of the GPUs that were compared with the CPU, existing or not; raise as locate_cache does."""
    return _locate_own("gpu-checks.json")


def _locate_own(name: str) -> Path:
    for path in (cache_root() / name, cache_root() / f"{name}-{_user()}"):
        if not os.path.lexists(path) or _is_own(path):
            keep_private(path)
            return path
    raise MachineError(f"{path} is another user's.", "Set SIMCLR_CACHE to a folder of your own.")


def locate_embeddings(folder: Path, model_checksum: str) -> Path:
    """Return the folder for the index of a folder of images and an encoder."""
    return locate_cache(folder) / f"{EMBEDDINGS_PREFIX}{model_checksum[:16]}"


def list_caches() -> list[FolderCache]:
    """List all caches of this user that name their folder, most recently used first."""
    caches: list[tuple[float, FolderCache]] = []
    for headers in cache_root().glob(f"*/{HEADERS}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            if not _is_own(headers.parent):  # its links may lead anywhere
                continue
            folder = str(read_json(headers, MAX_LIST_BYTES)["folder"])
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
