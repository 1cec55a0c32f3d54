"""The one way to write: a temporary file beside the target, fsync, rename, fsync the folder; and digests."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from simclr_cli.errors import MachineError

TEMPORARY_PREFIX = ".simclr-tmp-"


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turn the system's refusal to write into an error that names the path and the way out."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        free = ""
        with contextlib.suppress(OSError):
            free = f" ({free_bytes(target) / 2**20:,.0f} MiB free there)"
        raise MachineError(
            f"Cannot write {target}: {reason}{free}.", "Choose a place that can be written to, or make room."
        ) from error


def free_bytes(path: Path) -> int:
    """Free space where `path` is or would be."""
    return shutil.disk_usage(next((p for p in (path, *path.absolute().parents) if p.exists()), Path())).free


def make_folder(folder: Path) -> None:
    """Create a folder and prove that files can be made in it.

    Raises:
        MachineError: it cannot be created or written to.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix=TEMPORARY_PREFIX):
            pass


def write_file(target: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `target`, then put it in place whole and durably.

    Whatever happens on the way, `target` is afterwards the old file or the new one, never a part of one.

    Raises:
        MachineError: the system refused (no right, no space, not a folder).
    """
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not mkstemp, whose 0600 would lock out colleagues: opened so, the file gets the rights that any file gets.
        temporary = target.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)


def move(source: Path, target: Path) -> None:
    """Rename within a folder, durably.

    Raises:
        MachineError: the system refused.
    """
    with _writing(target):
        source.rename(target)
        sync_folder(target.parent)


def relocate(source: Path, target: Path) -> None:
    """Move a file to where there is none, durably, also to another file system.

    At any moment the whole file is in its old place, or in its new one, or in both.

    Raises:
        OSError: the system refused, or (FileExistsError) something is there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}"
    temporary.unlink(missing_ok=True)  # of one that was killed
    try:
        os.link(source, target)  # a rename would overwrite
    except FileExistsError:
        raise
    except OSError:  # another file system, or one that knows no links
        _copy(source, temporary)
        _name(temporary, target)
    sync_folder(target.parent)
    source.unlink()
    sync_folder(source.parent)


def _name(temporary: Path, target: Path) -> None:
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


def _copy(source: Path, target: Path) -> None:
    """A durable copy with the same times and rights, compared with what it is a copy of."""
    try:
        with source.open("rb") as stream, target.open("xb") as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
        shutil.copystat(source, target)
        if digest_file(target) != digest_file(source):
            raise OSError(errno.EIO, "what was written is not what was read", str(target))
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def write_bytes(target: Path, data: bytes) -> None:
    """Write bytes atomically and durably."""
    write_file(target, lambda stream: stream.write(data))


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
    with contextlib.suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
