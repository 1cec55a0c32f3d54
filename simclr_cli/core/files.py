"""The one way to write: whole or not at all, and durably.

A temporary file beside the target, fsync, rename, fsync the folder. What is not finished is called
`.simclr-tmp-<random>`; once nothing has been written to it for a day, the next process that makes ready to write in the
folder removes it. If the system refuses, whatever writes raises NotWritten, and the tools for it, which stand at the
end, OSError.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from simclr_cli.core.errors import MachineError

TEMPORARY_PREFIX = ".simclr-tmp-"
ABANDONED_SECONDS = 86_400  # without a change; even a process that was suspended overnight may go on
FULL, FORBIDDEN = (errno.ENOSPC,), (errno.EACCES, errno.EPERM, errno.EROFS)


class NotWritten(MachineError):
    """The system refused to write."""

    def __init__(self, what: str, remedy: str, *, forbidden: bool = False) -> None:
        super().__init__(what, remedy)
        self.forbidden = forbidden  # for want of a right, so that it may still be read there


@contextlib.contextmanager
def _writing(target: Path, needed: int | None = None) -> Iterator[None]:
    """Turn the system's unusable to write into an error that names the path, the bytes needed, and the way out."""
    try:
        yield
    except OSError as error:
        reason, remedy = error.strerror or str(error), "Choose a place that can be written to."
        if error.errno in FULL:
            remedy = "Make room there, or choose another place."
            with contextlib.suppress(OSError):
                free = _size(free_bytes(target))
                needs = f"it needs {_size(needed)}, and {free} are free" if needed else f"it needs more than {free}"
                reason += f" ({needs})"
        forbidden = error.errno in FORBIDDEN
        raise NotWritten(f"Cannot write {target}: {reason}.", remedy, forbidden=forbidden) from error


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


def free_bytes(path: Path) -> int:
    """Free space where `path` is or would be."""
    return shutil.disk_usage(next((p for p in (path, *path.absolute().parents) if p.exists()), Path())).free


def make_folder(folder: Path) -> None:
    """Create a folder, prove that files can be made in it, and remove what was never finished in it."""
    with _writing(folder):
        ensure_folder(folder)
        with tempfile.TemporaryFile(dir=folder, prefix=TEMPORARY_PREFIX):
            pass
        remove_strays(folder)


def write_file(
    target: Path,
    write: Callable[[IO[bytes]], object],
    *,
    before: Callable[[Path], object] = lambda _: None,
    needed: int | None = None,
) -> None:
    """Let `write` fill a temporary file beside `target`, then put it in place whole and durably.

    Whatever happens on the way, `target` is afterwards the old file or the new one, never a part of one.

    Args:
        before: called with the temporary file, when all is in it and it has not taken its place.
        needed: bytes, if they are known, to be named where there is no room for them.
    """
    with _writing(target, needed):
        remove_strays(target.parent)
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


def write_bytes(target: Path, data: bytes) -> None:
    """Write bytes atomically and durably."""
    write_file(target, lambda stream: stream.write(data), needed=len(data))


def append_bytes(target: Path, data: bytes, start: int | None = None) -> int:
    """Write bytes at `start` of a file, durably, by default at its end; what was behind goes. A kill may leave a part.

    Args:
        start: 0 makes the file. What lies before it stays as it was, also if the system refuses.

    Returns:
        The file's time of change, ns.
    """
    with _writing(target, len(data)):
        ensure_folder(target.parent)
        with target.open("xb" if start == 0 else "r+b") as stream:
            stream.seek(*(0, os.SEEK_END) if start is None else (start,))
            stream.truncate()
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            modified_ns = os.fstat(stream.fileno()).st_mtime_ns
        if start == 0:
            sync_folder(target.parent)
    return modified_ns


def move(source: Path, target: Path) -> None:
    """Rename within a folder, durably."""
    with _writing(target):
        source.rename(target)
        sync_folder(target.parent)


def remove(file: Path) -> None:
    """Remove a file, durably; it may be gone already."""
    with _writing(file):
        file.unlink(missing_ok=True)
        if file.parent.is_dir():
            sync_folder(file.parent)


def discard(*files: Path) -> None:
    """Remove files that nothing names any more; one that cannot be removed now is left for the next time."""
    for file in files:
        with contextlib.suppress(MachineError):
            remove(file)


def write_json(target: Path, content: Any) -> None:
    """Write JSON atomically and durably; ASCII only, so that names that are not UTF-8 survive as escapes."""
    write_bytes(target, (json.dumps(content, indent=1) + "\n").encode("ascii"))


def write_csv(target: Path, columns: Sequence[str], rows: Iterable[Sequence[str | int | float | None]]) -> None:
    """Write a table atomically and durably, None as an empty cell; names as `names` makes them valid UTF-8."""
    stream = io.StringIO(newline="")
    table = csv.writer(stream)
    table.writerow(columns)
    table.writerows(rows)
    write_bytes(target, stream.getvalue().encode("utf-8"))


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
