"""Files moved out of a folder into another, so that all of them can be put back.

    FOLDER/simclr-moved.jsonl   first where they come from; then a line for each file, written before that one moves
    FOLDER/<relative path>      each of them

Whatever happens on the way, every file is whole in one of its two places, and the list names it.
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
    give_name,
    make_folder,
    remove,
    sync_folder,
    write_bytes,
)
from simclr_cli.core.safe_read import MOST_OF_LIST, check_version, checksum_file, is_within, parse_json, read_bytes

FORMAT_VERSION = 1
JOURNAL = "simclr-moved.jsonl"

Progress = Callable[[int, int], None]


class Moved(NamedTuple):
    """One file."""

    name: str  # relative, below the folder that it is of, and below the one it was moved to
    checksum: str  # SHA-256


class Journal(NamedTuple):
    """What was moved, and where from."""

    root: Path  # the folder that the files are of
    files: tuple[Moved, ...]
    inodes: Any  # of the folder that they were moved to and of the root, which no stranger knows


def check_destination(folder: Path, root: Path) -> None:
    """Make a folder that files of `root` may be moved to.

    Raises:
        SettingsError: one of the two lies in the other, or other files were moved there and not put back.
        MachineError: it cannot be written to.
    """
    ours, theirs = folder.resolve(), root.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise SettingsError(
            f"--move-to is {folder}, and that and the folder of the images ({root}) lie in one another.",
            "Give a folder beside it.",
        )
    check_free(folder)
    make_folder(folder)


def check_free(folder: Path) -> None:
    """Raise SettingsError if files were moved to a folder before, and were not put back."""
    if os.path.lexists(folder / JOURNAL):
        raise SettingsError(
            f"Files were moved to {folder} before, and are not put back.",
            f"Give another folder, or type: simclr duplicates --restore {folder}",
        )


def move_out(root: Path, folder: Path, files: Sequence[Moved], progress: Progress) -> tuple[int, tuple[str, ...]]:
    """Move files to the same relative paths below `folder`, each if it is still what its checksum says.

    Args:
        progress: called with (files seen to, files in all).

    Returns:
        How many were moved; and a line for each that was left where it is.

    Raises:
        MachineError: the list cannot be written; then a file that it does not name has not moved.
        SettingsError: another process moves files there.
    """
    check_free(folder)  # once more: another process may have begun meanwhile
    first = {"format_version": FORMAT_VERSION, "root": str(root.resolve()), "inodes": _inodes(folder, root)}
    write_bytes(folder / JOURNAL, _line(first))
    moved, left = 0, []
    for done, file in enumerate(files, start=1):
        line = _line({"name": file.name, "checksum": file.checksum})
        if why := _move(file, root, folder, partial(append_bytes, folder / JOURNAL, line)):
            left.append(f"{root / file.name}: {why}")
        moved += not why
        progress(done, len(files))
    if not any(os.path.lexists(folder / file.name) for file in read_journal(folder).files):
        remove(folder / JOURNAL)
    return moved, tuple(left)


def put_back(folder: Path, progress: Progress, into: Path | None = None) -> tuple[Path, int, tuple[str, ...]]:
    """Move all files back to where they come from, never over another one; if one is left, the list stays.

    A list that was not written here is a stranger's, who must not choose where files go.

    Args:
        into: the folder that they go back to, whatever the list says.

    Returns:
        The folder that they are of, how many were brought back, and a line for each that was not.

    Raises:
        InputError: nothing was moved there, the list is damaged or was not written here, or the folder that the files
            are of is gone.
    """
    journal = read_journal(folder)
    root = into or journal.root
    named = f"simclr duplicates --restore {folder} --restore-to FOLDER"
    if not root.is_dir():
        raise InputError(
            f"The files are of {root}, which is not there.",
            f"Bring that folder, or its disk, back, or name the one that they go to: {named}",
        )
    if into is None and journal.inodes != _inodes(folder, root):
        raise InputError(
            f"The {JOURNAL} in {folder} was not written there for {root}: one of the two was moved or copied, or it is "
            "a stranger's.",
            f"Look at it, and name the folder that the files go to: {named}",
        )
    back, left = 0, []
    for done, file in enumerate(journal.files, start=1):
        away, home = folder / file.name, root / file.name
        if os.path.lexists(away) or not os.path.lexists(home):  # else it never left, or is back
            if why := _move(file, folder, root):
                left.append(f"{away}: {why}")
            back += not why
        with contextlib.suppress(OSError):
            if _is_reached(root, file.name):
                _temporary(home, file.checksum).unlink(missing_ok=True)  # of a move that was killed
            if _is_reached(folder, file.name):
                _temporary(away, file.checksum).unlink(missing_ok=True)
                os.removedirs(away.parent)  # up to the first that is not empty: the list is in `folder`
        progress(done, len(journal.files))
    if not left:
        remove(folder / JOURNAL)
    return root, back, tuple(left)


def read_journal(folder: Path) -> Journal:
    """Return what was moved to a folder; a line that a kill cut short is of a file that had not moved.

    Raises:
        InputError: nothing, or it cannot be told.
    """
    path = folder / JOURNAL
    try:
        first, *lines = map(parse_json, read_bytes(path, MOST_OF_LIST).split(b"\n")[:-1])
        check_version(first, FORMAT_VERSION, path)
        root, files = Path(first["root"]), tuple(Moved(str(line["name"]), str(line["checksum"])) for line in lines)
        whole = all(is_within(name) and re.fullmatch("[0-9a-f]{64}", checksum) for name, checksum in files)
        if not (whole and root.is_absolute() and "\0" not in str(root)):
            raise ValueError("it names files that were never moved")
    except FileNotFoundError:
        raise InputError(
            f"There is no {JOURNAL} in {folder}: nothing was moved there.", "Give the folder that --move-to was given."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}).", "Move the files back by hand.") from None
    return Journal(root, files, first.get("inodes"))


def is_still(path: Path, checksum: str) -> bool:
    """Return whether there is an ordinary file, no link, pipe or device, with this checksum."""
    try:
        return stat.S_ISREG(path.lstat().st_mode) and checksum_file(path) == checksum
    except OSError:
        return False


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode("ascii") + b"\n"


def _inodes(folder: Path, root: Path) -> list[int]:
    return [folder.stat().st_ino, root.stat().st_ino]


def _is_reached(folder: Path, name: str) -> bool:
    """Return whether a file's path leads below a folder without a link on the way."""
    return (folder / name).parent.resolve() == (folder.resolve() / name).parent


def _temporary(target: Path, checksum: str) -> Path:
    """Return the name of an unfinished copy, the same at every try, so that one left by a kill is found."""
    return target.with_name(f"{TEMPORARY_PREFIX}{checksum[:16]}")


def _move(file: Moved, source: Path, target: Path, begin: Callable[[], object] | None = None) -> str:
    """Move a file to where there is none, durably; return why that was not done, or "".

    At any moment the whole file is in its old place, or in its new one, or in both.

    Args:
        source: the folder that it is below.
        target: the folder that it goes to.
        begin: called before anything is changed; without it the move may be one that was cut short.
    """
    old, new = source / file.name, target / file.name
    try:
        if not (_is_reached(source, file.name) and _is_reached(target, file.name)):
            return "a link on the way leads elsewhere"
        if not stat.S_ISREG(old.lstat().st_mode):
            return "a link, or no ordinary file"
        if checksum_file(old) != file.checksum:
            return "changed since its vector was made" if begin else "changed since it was moved"
        if os.path.lexists(new) and (begin or not is_still(new, file.checksum)):
            return f"{new} is there already"
        if begin:
            begin()
        if not os.path.lexists(new):
            ensure_folder(new.parent)
            try:
                os.link(old, new)  # a rename would overwrite
            except OSError:  # another file system, or one without links
                _copy(old, new, file.checksum)
            sync_folder(new.parent)
        old.unlink()
        sync_folder(old.parent)
    except OSError as error:
        return (error.strerror or str(error)).lower() if os.path.lexists(old) or not os.path.lexists(new) else ""
    return ""


def _copy(source: Path, target: Path, checksum: str) -> None:
    """Copy a file to where there is none, whole and durably, with its times and rights."""
    temporary = _temporary(target, checksum)
    temporary.unlink(missing_ok=True)
    try:
        with source.open("rb") as stream, temporary.open("xb") as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
        shutil.copystat(source, temporary)
        if checksum_file(temporary) != checksum:
            raise OSError("the copy is not what was copied")
        give_name(temporary, target)  # fails where there is a file
    finally:
        temporary.unlink(missing_ok=True)
