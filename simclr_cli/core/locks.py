"""Locks of folders, for one writing process at a time. The system releases a lock when its process ends."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from simclr_cli.core.errors import MachineError
from simclr_cli.core.events import Note, Report
from simclr_cli.core.files import FORBIDDEN_ERRNOS, WriteError, prepare_folder

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK_FILE = ".simclr-lock"  # empty; only the system's lock on it counts, not that it exists
POLL_SECONDS = 0.1
NO_LOCK_SUPPORT_ERRNOS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of some network file systems

_held_locks: dict[Path, BaseFileLock] = {}  # of this process


class FolderLockedError(MachineError):
    """A folder that another process writes in."""


@contextlib.contextmanager
def lock_folder(folder: Path, report: Report, *, wait: float | None = 0) -> Iterator[None]:
    """Create a folder and hold its lock within the block.

    Args:
        wait: seconds to wait for another process. None: until it ends, after a note.

    Raises:
        FolderLockedError: another process has the lock.
    """
    from filelock import FileLock, Timeout

    prepare_folder(folder)
    file = folder / LOCK_FILE
    # Not of one thread: the command may end in another one.
    lock = FileLock(file, timeout=wait or 0, poll_interval=POLL_SECONDS, fallback_to_soft=False, thread_local=False)
    try:
        try:
            lock.acquire()
        except Timeout:
            if wait is not None:
                raise
            report(Note(f"Another process writes in {folder}: waiting until it ends."))
            lock.acquire(timeout=-1)
    except Timeout:
        raise FolderLockedError(f"Another process writes in {folder}.", "Wait until it ends, or stop it.") from None
    except OSError as error:
        if error.errno not in NO_LOCK_SUPPORT_ERRNOS:
            raise WriteError(
                f"Cannot lock {file}: {error.strerror or error}.",
                "Remove it, or choose a folder with write permission.",
                is_forbidden=error.errno in FORBIDDEN_ERRNOS,
            ) from error
        warning = f"The file system of {folder} has no locks. Make sure that no other process writes there."
        report(Note(warning, warning=True))
    _held_locks[file] = lock
    try:
        yield
    finally:
        _held_locks.pop(file, None)
        _release(file, lock)


def release_locks() -> None:
    """Release the locks of this process, for an exit that does not leave the `lock_folder` blocks."""
    for file, lock in tuple(_held_locks.items()):
        _release(file, lock)


def _release(file: Path, lock: BaseFileLock) -> None:
    """Release a lock and remove its file."""
    with contextlib.suppress(OSError):  # on Windows, where an open file cannot be removed: filelock removes it then
        file.unlink(missing_ok=True)  # before the release: a waiting process sees that it is gone and creates another
    lock.release(force=True)
