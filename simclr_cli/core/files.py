"""Atomic and durable writes: each file is replaced completely or not at all.

A write goes to a temporary file in the target's folder: fsync, rename, fsync the folder. An unfinished file is named
`.simclr-tmp-<random>`. After a day without a change, the next process that writes in the folder removes it. Functions
that write raise WriteError; the helpers at the end of the module raise OSError.
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
from simclr_cli.core.hardware import ON_WINDOWS

TEMPORARY_PREFIX = ".simclr-tmp-"
ABANDONED_SECONDS = 86_400  # without a change; a process that was suspended overnight may still continue
RETRY_SECONDS = 1.0 if ON_WINDOWS else 0.0
_private_folders: set[Path] = set()
DISK_FULL_ERRNOS, FORBIDDEN_ERRNOS = (errno.ENOSPC,), (errno.EACCES, errno.EPERM, errno.EROFS)


class WriteError(MachineError):
    """A write that the operating system rejected."""

    def __init__(self, problem: str, remedy: str, *, is_forbidden: bool = False) -> None:
        super().__init__(problem, remedy)
        self.is_forbidden = is_forbidden  # no write permission, but reading may still work


@contextlib.contextmanager
def _translate_os_error(target: Path, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn an OSError into a WriteError that names the path, the needed bytes and the remedy."""
    try:
        yield
    except OSError as error:
        choose = "set SIMCLR_CACHE to" if _is_private(target) else "choose"
        reason, remedy = (
            error.strerror or str(error),
            f"{choose[0].upper()}{choose[1:]} a folder with write permission.",
        )
        if error.errno in DISK_FULL_ERRNOS:
            remedy = f"Free disk space there, or {choose} another folder."
            with contextlib.suppress(OSError):
                free = _format_size(get_free_bytes(target))
                needs = f"{_format_size(needed_bytes)}, {free} free" if needed_bytes else f"more than {free}"
                reason += f" (needs {needs})"
        is_forbidden = error.errno in FORBIDDEN_ERRNOS
        if ON_WINDOWS and is_forbidden and target.is_file():
            remedy = f"Close the programs that have it open, or {choose} a folder with write permission."
        raise WriteError(f"Cannot write {target}: {reason}.", remedy, is_forbidden=is_forbidden) from error


def _format_size(byte_count: int) -> str:
    return f"{byte_count / 1e6:,.1f} MB" if byte_count >= 1e5 else f"{byte_count / 1e3:,.1f} kB"


def get_free_bytes(path: Path) -> int:
    """Return the free space of the disk that `path` is, or would be, on."""
    # Of a folder: Windows gives none for a relative path of a file.
    return shutil.disk_usage(next((p for p in (path, *path.absolute().parents) if p.is_dir()), Path())).free


def prepare_folder(folder: Path) -> None:
    """Create a folder, check that it is writable, and remove abandoned temporary files in it."""
    with _translate_os_error(folder):
        ensure_folder(folder)
        with tempfile.TemporaryFile(dir=folder, prefix=TEMPORARY_PREFIX):
            pass
        remove_abandoned_files(folder)


def write_file(
    target: Path,
    write: Callable[[IO[bytes]], object],
    *,
    before_rename: Callable[[Path], object] = lambda _: None,
    needed_bytes: int | None = None,
) -> None:
    """Let `write` fill a temporary file, then rename it to `target`, durably.

    Whatever happens, `target` is afterwards the complete old file or the complete new one.

    Args:
        before_rename: called with the complete temporary file.
        needed_bytes: for the message if the disk is full; None if unknown.
    """
    with _translate_os_error(target, needed_bytes):
        remove_abandoned_files(target.parent)
        ensure_folder(target.parent)
        temporary = choose_temporary_path(target)
        try:
            # Not mkstemp, whose mode 0600 would lock out colleagues.
            with temporary.open("xb") as stream:
                if _is_private(temporary):
                    temporary.chmod(0o600)
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            before_rename(temporary)
            _retry(lambda: temporary.replace(target))
        except BaseException:
            with contextlib.suppress(OSError):  # the first error counts; a later write removes the file
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)


def write_bytes(target: Path, data: bytes) -> None:
    """Write bytes atomically and durably."""
    write_file(target, lambda stream: stream.write(data), needed_bytes=len(data))


def append_bytes(target: Path, data: bytes, start: int | None = None) -> int:
    """Write bytes at `start` of a file, by default at its end, durably; cut off the old bytes behind `start`.

    If the process is killed, a part of the bytes may remain; those before `start` never change.

    Args:
        start: 0 creates the file.

    Returns:
        The file's modification time, ns.
    """
    with _translate_os_error(target, len(data)):
        ensure_folder(target.parent)
        with target.open("xb" if start == 0 else "r+b") as stream:
            if start == 0 and _is_private(target):
                target.chmod(0o600)
            stream.seek(*(0, os.SEEK_END) if start is None else (start,))
            try:
                stream.truncate()
            except OSError:
                if not ON_WINDOWS:  # which cuts off nothing of a file that is mapped
                    raise
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            modified_ns = os.fstat(stream.fileno()).st_mtime_ns
        if start == 0:
            sync_folder(target.parent)
    return modified_ns


def rename(source: Path, target: Path) -> None:
    """Rename a file or folder within its folder, durably."""
    with _translate_os_error(target):
        _retry(lambda: source.rename(target))
        sync_folder(target.parent)


def _retry(rename: Callable[[], object]) -> None:
    """Rename; on Windows once more if another process, such as a virus scanner, has the file open for a moment."""
    until = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            rename()
            return
        except PermissionError:
            if time.monotonic() >= until:
                raise
        time.sleep(0.02)


def remove_file(file: Path) -> None:
    """Remove a file, if it exists, durably."""
    with _translate_os_error(file):
        file.unlink(missing_ok=True)
        if file.parent.is_dir():
            sync_folder(file.parent)


def try_remove_files(*files: Path) -> None:
    """Remove files that are no longer referenced; ignore those that cannot be removed now."""
    for file in files:
        with contextlib.suppress(MachineError):
            remove_file(file)


def write_json(target: Path, content: Any) -> None:
    """Write JSON atomically and durably, in ASCII: names that are not UTF-8 survive as escapes."""
    write_bytes(target, (json.dumps(content, indent=1) + "\n").encode("ascii"))


def write_csv(target: Path, columns: Sequence[str], rows: Iterable[Sequence[str | int | float | None]]) -> None:
    """Write a table atomically and durably, None as an empty cell; file names must be escaped (core/text.py)."""
    stream = io.StringIO(newline="")
    table = csv.writer(stream)
    table.writerow(columns)
    table.writerows(rows)
    write_bytes(target, stream.getvalue().encode("utf-8"))


def choose_temporary_path(target: Path) -> Path:
    """Return the path of a temporary file or folder next to `target`."""
    return target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"


def remove_abandoned_files(folder: Path, older_than: float = ABANDONED_SECONDS) -> None:
    """Remove the unfinished files of a folder.

    Args:
        older_than: seconds without a change; 0 only under a lock that every writer of the folder takes.
    """
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            # By ctime, which copying does not preserve.
            if time.time() - path.lstat().st_ctime >= older_than:
                path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)


def ensure_folder(folder: Path) -> None:
    """Create a folder and its parents, durably, unless they exist."""
    if not folder.is_dir():
        ensure_folder(folder.parent)
        folder.mkdir(0o700 if _is_private(folder) else 0o777, exist_ok=True)
        sync_folder(folder.parent)


def inspect_new_file(folder: Path) -> os.stat_result:
    """Return the status that a new private file in a folder gets: some drives and shares know one owner and mode only.

    Raises:
        OSError: the folder cannot be written to.
    """
    with tempfile.TemporaryFile(dir=folder) as new:
        return os.fstat(new.fileno())


def keep_private(folder: Path) -> None:
    """From now on, create this folder, a cache, and all that is in it for this user only; restrict it if it exists."""
    _private_folders.add(folder.absolute())
    with contextlib.suppress(OSError):  # it does not exist, or is another user's
        if folder.lstat().st_mode & 0o077:
            folder.chmod(0o700)


def _is_private(path: Path) -> bool:
    return not _private_folders.isdisjoint((path.absolute(), *path.absolute().parents))


def rename_without_overwrite(temporary: Path, target: Path) -> None:
    """Rename a file; raise FileExistsError if the target exists."""
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
