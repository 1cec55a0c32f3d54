"""Files that appear whole or not at all: a temporary file beside the target, fsync, rename, fsync the folder.

What is not finished is called `.simclr-tmp-<system>-<process>-<random>`. Once that process is no more, the next one
that makes ready to write in the folder removes it. All raise OSError as the system does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import IO

from simclr_cli.owner import is_gone, system

TEMPORARY_PREFIX = ".simclr-tmp-"
TEMPORARY = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}([0-9a-f]{{8}})-([0-9]{{1,10}})-[0-9a-f]{{16}}")
ABANDONED_SECONDS = 86_400  # after which what another machine has begun is no one's


def temporary_beside(target: Path) -> Path:
    """A free name for what will be `target`."""
    return target.parent / f"{TEMPORARY_PREFIX}{system()}-{os.getpid()}-{secrets.token_hex(8)}"


def is_temporary(path: Path, root: Path) -> bool:
    """Whether a path below `root` is of something that is being written, or was when its writer was killed."""
    return any(part.startswith(TEMPORARY_PREFIX) for part in PurePath(os.path.relpath(path, root)).parts)


def remove_strays(folder: Path) -> None:
    """Remove what dead processes have left in a folder."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            if is_stray(path):
                path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)


def is_stray(path: Path) -> bool:
    """Whether what is at work on it is no more: certainly if it was of this system, else by its age."""
    named = TEMPORARY.fullmatch(path.name)
    gone = named is not None and is_gone(named[1], int(named[2]))
    return gone or time.time() - path.lstat().st_ctime > ABANDONED_SECONDS


def ensure_folder(folder: Path) -> None:
    """A folder and all above it, durably."""
    if not folder.is_dir():
        ensure_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


@contextlib.contextmanager
def filled(target: Path, write: Callable[[IO[bytes]], object]) -> Iterator[Path]:
    """A temporary file beside the target, all in it and durable; afterwards it is gone, or has another name."""
    ensure_folder(target.parent)
    temporary = temporary_beside(target)
    try:
        # Not mkstemp, whose 0600 would lock out colleagues: opened so, the file gets the rights that any file gets.
        with temporary.open("xb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        yield temporary
    except BaseException:
        with contextlib.suppress(OSError):  # the first error counts; the next start removes it
            temporary.unlink(missing_ok=True)
        raise


def replace(temporary: Path, target: Path) -> None:
    """Put a file that is filled in the target's place, durably."""
    temporary.replace(target)
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
