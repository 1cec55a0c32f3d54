"""Files that appear whole or not at all: a temporary file beside the target, fsync, rename, fsync the folder.

What is not finished is called `.simclr-tmp-<random>`. Once nothing has been written to it for a day, the next process
that makes ready to write in the folder removes it. All raise OSError as the system does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

TEMPORARY_PREFIX = ".simclr-tmp-"
ABANDONED_SECONDS = 86_400  # without a change; even a process that was suspended overnight may go on


def temporary_beside(target: Path) -> Path:
    """Return a free name for what will be `target`."""
    return target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"


def remove_strays(folder: Path, older_than: float = ABANDONED_SECONDS) -> None:
    """Remove the unfinished files of a folder.

    Args:
        older_than: seconds without a change; 0 only under a lock that whoever writes there has.
    """
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            # By a time that copies of files do not keep.
            if time.time() - path.lstat().st_ctime >= older_than:
                path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)


def ensure_folder(folder: Path) -> None:
    """A folder and all above it, durably."""
    if not folder.is_dir():
        ensure_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def replace(target: Path, write: Callable[[IO[bytes]], object], before: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside the target, and put it in its place, durably; `before`, call that."""
    ensure_folder(target.parent)
    temporary = temporary_beside(target)
    try:
        # Not mkstemp, whose 0600 would lock out colleagues: opened so, the file gets the rights that any file gets.
        with temporary.open("xb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        before(temporary)
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error counts; the next start removes it
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def give_name(temporary: Path, target: Path) -> None:
    """Give a file its name, if nothing has that name."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable; a no-op where folders cannot be opened (Windows)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
