"""Locks: a folder for one process that writes. It is free once that process has ended; reading needs none."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from simclr_cli.core.errors import MachineError
from simclr_cli.core.events import Note, Report
from simclr_cli.core.files import FORBIDDEN, NotWritten, make_folder

LOCK = ".simclr-lock"  # an empty file; that it is there says nothing, only the system's lock on it does
POLL_SECONDS = 0.1
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of some network file systems

_locked: set[Path] = set()  # lock files of this process


class Busy(MachineError):
    """Another process writes there."""


@contextlib.contextmanager
def locked(folder: Path, report: Report, *, wait: float = 0) -> Iterator[None]:
    """Within, no other process that asks for the same folder's lock writes in it; the folder is made.

    Args:
        wait: seconds, for another process to come to its end.

    Raises:
        Busy: another process has the lock.
    """
    from filelock import FileLock, Timeout

    make_folder(folder)
    file = folder / LOCK
    lock = FileLock(file, timeout=wait, poll_interval=POLL_SECONDS, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise Busy(f"Another process writes in {folder}.", "Wait until it has ended, or stop it.") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise NotWritten(
                f"Cannot lock {file}: {error.strerror}.",
                "Remove it, or choose a place that can be written to.",
                forbidden=error.errno in FORBIDDEN,
            ) from error
        what = f"The file system of {folder} has no locks: make sure that no other process writes there."
        report(Note(what, warning=True))
    _locked.add(file)
    try:
        yield
    finally:
        _locked.remove(file)
        _remove(file)  # before it is released: who waits for it sees that it is gone, and makes another one
        lock.release()


def remove_lock_files() -> None:
    """Remove the lock files of this process, which ends now without coming out of `locked`."""
    for file in tuple(_locked):
        _remove(file)


def _remove(file: Path) -> None:
    with contextlib.suppress(OSError):  # on Windows filelock does it
        file.unlink(missing_ok=True)
