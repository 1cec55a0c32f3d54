"""The one way to write: a temporary file beside the target, fsync, rename, fsync the folder.

What is not finished is called `.simclr-tmp-<system>-<process>-<random>`. Once that process is no more, the next one
that makes ready to write in the folder removes it.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from simclr_cli.digests import DIGESTS, Table, changing, encoded, relative, root_of
from simclr_cli.errors import MachineError
from simclr_cli.owner import is_gone, system

TEMPORARY_PREFIX = ".simclr-tmp-"
TEMPORARY = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}([0-9a-f]{{8}})-([0-9]{{1,10}})-[0-9a-f]{{16}}")
ABANDONED_SECONDS = 86_400  # after which what another machine has begun is no one's
FULL, FORBIDDEN = (errno.ENOSPC,), (errno.EACCES, errno.EPERM, errno.EROFS)


class NotWritten(MachineError):
    """The system refused to write."""

    def __init__(self, what: str, remedy: str, *, forbidden: bool = False) -> None:
        super().__init__(what, remedy)
        self.forbidden = forbidden  # for want of a right, so that it may still be read there


@contextlib.contextmanager
def _writing(target: Path, needed: int | None = None) -> Iterator[None]:
    """Turn the system's refusal to write into an error that names the path, the bytes needed, and the way out."""
    try:
        yield
    except OSError as error:
        reason, remedy = error.strerror or str(error), "Choose a place that can be written to."
        if error.errno in FULL:
            remedy = "Make room there, or choose another place."
            with contextlib.suppress(OSError):
                reason += f" ({_shortage(needed, free_bytes(target))})"
        forbidden = error.errno in FORBIDDEN
        raise NotWritten(f"Cannot write {target}: {reason}.", remedy, forbidden=forbidden) from error


def _shortage(needed: int | None, free: int) -> str:
    return f"it needs {_size(needed)}, and {_size(free)} are free" if needed else f"it needs more than {_size(free)}"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


def free_bytes(path: Path) -> int:
    """Free space where `path` is or would be."""
    return shutil.disk_usage(next((p for p in (path, *path.absolute().parents) if p.exists()), Path())).free


def make_folder(folder: Path) -> None:
    """Create a folder, prove that files can be made in it, and remove what dead processes have left in it.

    Raises:
        NotWritten: it cannot be created or written to.
    """
    with _writing(folder):
        ensure_folder(folder)
        with tempfile.TemporaryFile(dir=folder, prefix=TEMPORARY_PREFIX):
            pass
        for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
            with contextlib.suppress(OSError):
                if _is_stray(path):
                    path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)


def ensure_folder(folder: Path) -> None:
    """A folder and all above it, durably."""
    if not folder.is_dir():
        ensure_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def _is_stray(path: Path) -> bool:
    """Whether what is at work on it is no more: certainly if it was of this system, else by its age."""
    named = TEMPORARY.fullmatch(path.name)
    gone = named is not None and is_gone(named[1], int(named[2]))
    return gone or time.time() - path.lstat().st_ctime > ABANDONED_SECONDS


def temporary_beside(target: Path) -> Path:
    """A free name for what will be `target`."""
    return target.parent / f"{TEMPORARY_PREFIX}{system()}-{os.getpid()}-{secrets.token_hex(8)}"


def write_file(
    target: Path, write: Callable[[IO[bytes]], object], *, before: Callable[[Path], object] = lambda _: None
) -> None:
    """Let `write` fill a temporary file beside `target`, then put it in place whole and durably.

    Whatever happens on the way, `target` is afterwards the old file or the new one, never a part of one.

    Args:
        before: called with the temporary file, when all is in it and it has not taken its place.

    Raises:
        NotWritten: the system refused (no right, no space, not a folder).
    """
    with _writing(target):
        _replace(target, write, before)


def write_bytes(target: Path, data: bytes) -> None:
    """Write bytes atomically and durably."""
    with _writing(target, len(data)):
        _replace(target, lambda stream: stream.write(data), lambda _: None)


def create_file(target: Path, data: bytes) -> bool:
    """Write a file, whole and durably, where there is none; False: something is there, and stays as it is.

    Raises:
        NotWritten: the system refused.
    """
    with _writing(target, len(data)):
        with _filled(target, lambda stream: stream.write(data)) as temporary:
            try:
                give_name(temporary, target)
            except FileExistsError:
                return False
        sync_folder(target.parent)
    return True


def _replace(target: Path, write: Callable[[IO[bytes]], object], before: Callable[[Path], object]) -> None:
    with _filled(target, write) as temporary:
        before(temporary)
        with _bound(target, temporary):
            temporary.replace(target)
            sync_folder(target.parent)


@contextlib.contextmanager
def _filled(target: Path, write: Callable[[IO[bytes]], object]) -> Iterator[Path]:
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


def move(source: Path, target: Path) -> None:
    """Rename within a folder, durably.

    Raises:
        NotWritten: the system refused.
    """
    with _writing(target), _bound(target, source):
        source.rename(target)
        sync_folder(target.parent)


def remove(file: Path) -> None:
    """Remove a file, durably; it may be gone already.

    Raises:
        NotWritten: the system refused.
    """
    with _writing(file), _bound(file, None):
        file.unlink(missing_ok=True)
        if file.parent.is_dir():
            sync_folder(file.parent)


def discard(*files: Path) -> None:
    """Remove files that nothing names any more; one that cannot be removed now is left for the next time."""
    for file in files:
        with contextlib.suppress(MachineError):
            remove(file)


@contextlib.contextmanager
def _bound(target: Path, source: Path | None) -> Iterator[None]:
    """Note in the digests of a run, where `target` lies in one, that it becomes what `source` is; None: nothing."""
    root = root_of(target)
    if root is None or target.name == DIGESTS or is_temporary(target, root):
        yield
        return
    changes: dict[Path, str | None] = {target: None}
    if source is not None:
        changes = {target / file.relative_to(source): digest_file(file) for file in files_in(source)}
        if root_of(source) == root and not is_temporary(source, root):
            changes |= dict.fromkeys(files_in(source))
    with changing(root, changes, write_bytes):
        yield


def bind(root: Path, *, but: Collection[Path] = ()) -> None:
    """Write digests.json of what is in a folder as it stands: from now on, what is written there is noted.

    Raises:
        MachineError: the system refused.
    """
    no = (root / DIGESTS, *but)
    files = [f for f in files_in(root) if f not in no and not f.name.startswith(".") and not is_temporary(f, root)]
    found: Table = {file.relative_to(root).as_posix(): [digest_file(file)] for file in files}
    write_bytes(root / DIGESTS, encoded(found))


def files_in(path: Path) -> list[Path]:
    """The file itself, or all files in the folder; links are none."""
    inside = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    return [file for file in (path, *inside) if file.is_file() and not file.is_symlink()]


def is_temporary(path: Path, root: Path) -> bool:
    """Whether a path below `root` is of something that is being written, or was when its writer was killed."""
    return any(part.startswith(TEMPORARY_PREFIX) for part in relative(path, root).parts)


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


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
