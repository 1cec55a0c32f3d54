"""A folder for one process that writes: a file in it names the process; those that read need none."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from simclr_cli.errors import MachineError
from simclr_cli.events import Note, Report
from simclr_cli.files import create_file, discard, make_folder
from simclr_cli.owner import host, is_gone, started, system

LOCK = ".simclr-lock"
LOOK_SECONDS = 0.1  # between two looks at another's lock
MOST_BYTES = 4_096  # of a lock: what is longer is none of ours


class Busy(MachineError):
    """Another process writes there."""


@dataclass(frozen=True)
class Holder:
    """Which process, and what it is at."""

    host: str
    system: str
    pid: int
    started: str
    work: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, {self.work} since {self.since}"


@contextlib.contextmanager
def locked(folder: Path, work: str, report: Report, *, wait: float = 0) -> Iterator[None]:
    """Within, no other process that asks for the same folder's lock writes in it; the folder is made.

    The lock of a dead process is freed, with a note. Of another machine it cannot be told whether a process is dead.

    Args:
        work: what is being done, such as "training", for whoever finds the lock.
        wait: seconds, for another process to come to its end.

    Raises:
        Busy: another process has the lock.
        NotWritten: the system refused.
    """
    make_folder(folder)
    file, until = folder / LOCK, time.monotonic() + wait
    own = Holder(host(), system(), os.getpid(), started(os.getpid()), work, datetime.now(UTC).isoformat(" ", "seconds"))
    while True:
        found = _read(file)
        if found is None:
            if create_file(file, json.dumps(asdict(own)).encode("ascii")):
                break
        elif isinstance(found, Holder) and is_gone(found.system, found.pid, found.started):
            _free(file, found)
            report(Note(f"The lock of {folder} is freed: {found}, is no more."))
        elif time.monotonic() >= until:
            raise _busy(folder, found)
        else:
            time.sleep(LOOK_SECONDS)
    try:
        yield
    finally:
        if _read(file) == own:  # else a person has removed it, and another process may have it now
            discard(file)


def holder(folder: Path) -> Holder | None:
    """Who has the lock of a folder, as far as can be told, dead or not."""
    found = _read(folder / LOCK)
    return found if isinstance(found, Holder) else None


def _busy(folder: Path, found: Holder | str) -> Busy:
    remedy = "Wait until it has ended, or stop it."
    if isinstance(found, str) or found.system != system() or not found.started:
        remedy = f"Wait until it has ended; if you know that it is no more, remove {folder / LOCK}"
    return Busy(f"Another process writes in {folder}: {found}.", remedy)


def _read(file: Path) -> Holder | str | None:
    """Who has the lock; a word where that cannot be told; None if it is no longer there."""
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            return "its lock is not a file"
        with file.open("rb") as stream:
            content = json.loads(stream.read(MOST_BYTES))
        kept = Holder(**content)
        if type(kept.pid) is not int or any(type(value) is not str for key, value in content.items() if key != "pid"):
            raise ValueError
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError):
        return "its lock cannot be read"
    return kept


def _free(file: Path, dead: Holder) -> None:
    """Remove the lock of a dead process of this machine, unless another process has been quicker and has its own there.

    Raises:
        Busy: the system refused.
    """
    if sys.platform == "win32":
        return  # there, none is known to be dead
    import fcntl

    try:
        with file.open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # two that free it at the same time: one after the other
            if _read(file) == dead:
                file.unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        what = f"The lock of a dead process, {dead}, cannot be freed: {error.strerror}."
        raise Busy(what, f"Remove {file}") from None
