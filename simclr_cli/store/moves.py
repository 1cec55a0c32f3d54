"""Moves of image files to another folder, with a journal by which they can be restored.

    FOLDER/simclr-moved.jsonl   the original folder, then a line for each file, written before that file moves
    FOLDER/<relative path>      the moved files

Whatever happens, every file is complete in one of the two folders, and the journal names it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from simclr_cli.core.errors import InputError, SettingsError
from simclr_cli.core.files import (
    TEMPORARY_PREFIX,
    append_bytes,
    ensure_folder,
    inspect_new_file,
    remove_file,
    rename_without_overwrite,
    sync_folder,
    write_bytes,
)
from simclr_cli.core.safe_read import MAX_LIST_BYTES, check_version, checksum_file, is_safe_path, parse_json, read_bytes
from simclr_cli.core.text import quote_words

FORMAT_VERSION = 1
JOURNAL = "simclr-moved.jsonl"

Progress = Callable[[int, int], None]


class MovedFile(NamedTuple):
    """A file in the journal."""

    name: str  # relative path, below both folders
    checksum: str  # SHA-256


class Journal(NamedTuple):
    """The moved files and their original folder."""

    root: Path  # the original folder
    files: tuple[MovedFile, ...]


def check_destination(folder: Path, root: Path) -> None:
    """Check that files of `root` may be moved to a folder.

    Raises:
        SettingsError: one of the two folders contains the other, or the folder has a journal.
    """
    destination, source = folder.resolve(), root.resolve()
    if destination.is_relative_to(source) or source.is_relative_to(destination):
        raise SettingsError(
            f"--move-to {folder} overlaps the folder of the images, {root}.", "Use a folder outside of it."
        )
    check_unused(folder)


def check_unused(folder: Path) -> None:
    """Raise SettingsError if files were moved to a folder before and are not restored."""
    if os.path.lexists(folder / JOURNAL):
        raise SettingsError(
            f"Files were moved to {folder} before and are not restored.",
            f"Use another folder, or restore them: simclr duplicates IMAGES --restore {quote_words(folder)}",
        )


def move_files(root: Path, folder: Path, files: Sequence[MovedFile], progress: Progress) -> tuple[int, tuple[str, ...]]:
    """Move files to the same relative paths below `folder`, if their checksums still match.

    Args:
        progress: called with the number of processed files and of all files.

    Returns:
        The number of moved files, and a line with the reason for each file that was not moved.

    Raises:
        MachineError: the journal cannot be written; a file that it does not name has not moved.
        SettingsError: another process moves files there.
    """
    check_unused(folder)  # once more: another process may have started meanwhile
    write_bytes(folder / JOURNAL, _encode_line({"format_version": FORMAT_VERSION, "root": str(root.resolve())}))
    (folder / JOURNAL).chmod(0o600)
    moved, not_moved = 0, []
    for done, file in enumerate(files, start=1):
        line = _encode_line({"name": file.name, "checksum": file.checksum})
        if reason := _move_file(file, root, folder, partial(append_bytes, folder / JOURNAL, line)):
            not_moved.append(f"{root / file.name}: {reason}")
        moved += not reason
        progress(done, len(files))
    if not any(os.path.lexists(folder / file.name) for file in read_journal(folder).files):
        remove_file(folder / JOURNAL)
    return moved, tuple(not_moved)


def restore_files(folder: Path, root: Path, progress: Progress) -> tuple[int, tuple[str, ...]]:
    """Move all files back, never over another file; keep the journal if one fails.

    Args:
        root: the folder that the user named; the one in the journal is only a hint.

    Returns:
        The number of restored files, and a line with the reason for each other file.

    Raises:
        InputError: no journal, or it is damaged or from another user, or the root does not exist.
    """
    journal = read_journal(folder)
    if not root.is_dir():
        raise InputError(f"The folder to restore the files to, {root}, does not exist.", "Make it available again.")
    restored, not_restored = 0, []
    for done, file in enumerate(journal.files, start=1):
        moved, original = folder / file.name, root / file.name
        if os.path.lexists(moved) or not os.path.lexists(original):  # else it was not moved, or is restored already
            if reason := _move_file(file, folder, root):
                not_restored.append(f"{moved}: {reason}")
            restored += not reason
        with contextlib.suppress(OSError):
            if _is_below(root, file.name):
                _get_temporary_path(original, file.checksum).unlink(missing_ok=True)  # of a move that was killed
            if _is_below(folder, file.name):
                _get_temporary_path(moved, file.checksum).unlink(missing_ok=True)
                os.removedirs(moved.parent)  # up to the first folder that is not empty: `folder` has the journal
        progress(done, len(journal.files))
    if not not_restored:
        remove_file(folder / JOURNAL)
    return restored, tuple(not_restored)


def read_journal(folder: Path) -> Journal:
    """Read the journal of a folder; ignore an incomplete last line, whose file has not moved.

    Raises:
        InputError: no journal, or it is damaged, or another user may have written it.
    """
    path = folder / JOURNAL
    try:
        _check_owner(path)
        header, *lines = map(parse_json, read_bytes(path, MAX_LIST_BYTES).split(b"\n")[:-1])
        check_version(header, FORMAT_VERSION, path)
        root, files = Path(header["root"]), tuple(MovedFile(str(line["name"]), str(line["checksum"])) for line in lines)
        is_valid = all(_is_image_path(name) and re.fullmatch("[0-9a-f]{64}", checksum) for name, checksum in files)
        if not (is_valid and root.root and "\0" not in str(root)):
            raise ValueError("it names files outside of the folder, or hidden ones")
    except FileNotFoundError:
        raise InputError(
            f"There is no {JOURNAL} in {folder}: nothing was moved there.", "Use the folder of the earlier --move-to."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be used ({error}).", "Move the files back by hand.") from None
    return Journal(root, files)


def _check_owner(path: Path) -> None:
    """Raise ValueError if another user may have written a journal.

    Owner and mode are compared with those of a new private file next to it: some drives and shares know only one.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is a link, or not a regular file")
    own = inspect_new_file(path.parent)
    if status.st_uid != own.st_uid:
        raise ValueError("another user owns it")
    if status.st_mode & ~own.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError("other users may write to it")


def _is_image_path(name: str) -> bool:
    """Return whether a relative path stays inside of its folder and is not hidden, as an image's is."""
    return is_safe_path(name) and not any(part.startswith(".") for part in Path(name).parts)


def matches_checksum(path: Path, checksum: str) -> bool:
    """Return whether a path is a regular file, not a link, with this checksum."""
    try:
        return stat.S_ISREG(path.lstat().st_mode) and checksum_file(path) == checksum
    except OSError:
        return False


def _encode_line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode("ascii") + b"\n"


def _is_below(folder: Path, name: str) -> bool:
    """Return whether a relative path stays below a folder, without links in between."""
    return (folder / name).parent.resolve() == (folder.resolve() / name).parent


def _get_temporary_path(target: Path, checksum: str) -> Path:
    """Return the path of an unfinished copy, the same at every attempt, so that one left by a kill is found."""
    return target.with_name(f"{TEMPORARY_PREFIX}{checksum[:16]}")


def _move_file(file: MovedFile, source: Path, target: Path, write_journal: Callable[[], object] | None = None) -> str:
    """Move a file between two folders, durably and without overwriting; return the reason if it was not moved, or "".

    At any moment the complete file is at its old path, at its new path, or at both.

    Args:
        write_journal: called before anything is changed; without it, continue a move that may have been interrupted.
    """
    old, new = source / file.name, target / file.name
    try:
        if not (_is_below(source, file.name) and _is_below(target, file.name)):
            return "its path has a link to another folder"
        if not stat.S_ISREG(old.lstat().st_mode):
            return "a link, or not a regular file"
        if checksum_file(old) != file.checksum:
            return "changed since it was read" if write_journal else "changed since it was moved"
        if os.path.lexists(new) and (write_journal or not matches_checksum(new, file.checksum)):
            return f"{new} exists already"
        if write_journal:
            write_journal()
        if not os.path.lexists(new):
            ensure_folder(new.parent)
            try:
                os.link(old, new)  # a rename would overwrite
            except OSError:  # another file system, or one without links
                _copy_file(old, new, file.checksum)
            sync_folder(new.parent)
        old.unlink()
        sync_folder(old.parent)
    except OSError as error:
        return (error.strerror or str(error)).lower() if os.path.lexists(old) or not os.path.lexists(new) else ""
    return ""


def _copy_file(source: Path, target: Path, checksum: str) -> None:
    """Copy a file, completely and durably, with its times and permissions; never overwrite the target."""
    temporary = _get_temporary_path(target, checksum)
    temporary.unlink(missing_ok=True)
    try:
        with source.open("rb") as stream, temporary.open("xb") as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
        shutil.copystat(source, temporary)
        if checksum_file(temporary) != checksum:
            raise OSError("the copy is damaged")
        rename_without_overwrite(temporary, target)  # fails if the target exists
    finally:
        temporary.unlink(missing_ok=True)
