"""Files moved out of a folder into another, so that all of them can be put back.

    FOLDER/simclr-moved.json    where they come from, their names and digests; written before the first of them moves
    FOLDER/<relative path>      each of them

Whatever happens on the way, every file is whole in one of its two places, and the journal knows of both.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from simclr_cli.atomic import TEMPORARY_PREFIX
from simclr_cli.digests import digest_file
from simclr_cli.errors import InputError, SettingsError
from simclr_cli.files import make_folder, remove, write_json
from simclr_cli.reading import MOST_OF_LIST, check_version, is_within, read_json
from simclr_cli.store.relocation import relocate

FORMAT_VERSION = 1
JOURNAL = "simclr-moved.json"

Progress = Callable[[int, int], None]


class Moved(NamedTuple):
    """One file."""

    name: str  # relative, below the folder that it is of, and below the one it was moved to
    digest: str  # SHA-256


@dataclass(frozen=True)
class Journal:
    """What was moved, and where from."""

    root: Path  # the folder that the files are of
    files: tuple[Moved, ...]
    lies: Any  # where it was written: see _lies


def check_destination(folder: Path, root: Path) -> None:
    """Whether files of `root` may be moved to `folder`, which is made.

    Raises:
        SettingsError: one of the two lies in the other, or other files were moved there and not put back.
        MachineError: it cannot be written to.
    """
    ours, theirs = folder.resolve(), root.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise SettingsError(
            f"--move-to is {folder}, and that and the folder of the pictures ({root}) lie in one another.",
            "Give a folder beside it.",
        )
    check_free(folder)
    make_folder(folder)


def check_free(folder: Path) -> None:
    """Whether no files were moved to a folder before that were not put back.

    Raises:
        SettingsError: some were.
    """
    if os.path.lexists(folder / JOURNAL):
        raise SettingsError(
            f"Files were moved to {folder} before, and are not put back.",
            f"Give another folder, or type: simclr duplicates --put-back {folder}",
        )


def move_out(root: Path, folder: Path, files: Sequence[Moved], progress: Progress) -> tuple[int, tuple[str, ...]]:
    """Move files to the same relative paths below `folder`, each if it is still what its digest says.

    Args:
        progress: called with (files seen to, files in all).

    Returns:
        How many were moved; and a line for each that was left where it is.

    Raises:
        MachineError: the journal cannot be written; then nothing has moved.
        SettingsError: another process moves files there.
    """
    check_free(folder)  # once more: another process may have begun meanwhile
    _write(folder, root, files)
    moved, left, there = 0, [], []
    for done, file in enumerate(files, start=1):
        other = os.path.lexists(folder / file.name)
        why = _move(root, folder, file)
        if not other and os.path.lexists(folder / file.name):
            there.append(file)  # perhaps it is in its old place too; if not, only the last sync has failed
            why = why if os.path.lexists(root / file.name) else ""
        if why:
            left.append(f"{root / file.name}: {why}")
        else:
            moved += 1
        progress(done, len(files))
    if not there:
        remove(folder / JOURNAL)
    elif len(there) < len(files):
        _write(folder, root, there)
    return moved, tuple(left)


def is_still(path: Path, digest: str) -> bool:
    """Whether a file is there, and still what its digest says."""
    try:
        return digest_file(path) == digest
    except OSError:
        return False


def _move(root: Path, folder: Path, file: Moved) -> str:
    """Move one file; why that was not done, or nothing."""
    source, target = root / file.name, folder / file.name
    try:
        if source.resolve(strict=True) != root.resolve() / file.name:
            return "a link, which would not lead anywhere from there"
        if not _reached(folder, file.name):
            return f"{target.parent} leads out of {folder}"
        if digest_file(source) != file.digest:
            return "changed since its vector was made"
        relocate(source, target)
    except FileExistsError:
        return f"{target} is there already"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""


def put_back(folder: Path, progress: Progress, into: Path | None = None) -> tuple[Path, int, tuple[str, ...]]:
    """Move all files back to where they come from, never over another one; what is not possible stays in the journal.

    A journal that was not written here is a stranger's, who must not choose where files go.

    Args:
        into: the folder that they go back to, whatever the journal says.

    Returns:
        The folder that they are of, how many were brought back, and a line for each that was not.

    Raises:
        InputError: nothing was moved there, the journal is damaged or was not written here, or the folder that the
            files are of is gone.
    """
    journal = read_journal(folder)
    root = into or journal.root
    named = f"simclr duplicates --put-back {folder} --into FOLDER"
    if not root.is_dir():
        raise InputError(
            f"The files are of {root}, which is not there.",
            f"Bring that folder, or its disk, back, or name the one that they go to: {named}",
        )
    if into is None and journal.lies != _lies(folder, root):
        raise InputError(
            f"The {JOURNAL} in {folder} was not written there for {root}: one of the two was moved or copied, or it is "
            "a stranger's.",
            f"Look at it, and name the folder that the files go to: {named}",
        )
    left: list[tuple[Moved, str]] = []
    back = 0
    for done, file in enumerate(journal.files, start=1):
        away = os.path.lexists(folder / file.name)  # else it never left, or is back
        if why := _return(folder, root, file):
            left.append((file, why))
        else:
            back += away
        progress(done, len(journal.files))
    _clean(folder, journal)
    if left:
        _write(folder, root, [file for file, _ in left])
    else:
        remove(folder / JOURNAL)
    lines = tuple(f"{folder / file.name}: {why}" for file, why in left)
    return root, back, lines


def _return(folder: Path, root: Path, file: Moved) -> str:
    """Bring one file back; why that was not done, or nothing."""
    away, home = folder / file.name, root / file.name
    try:
        if not (_reached(folder, file.name) and _reached(root, file.name)):
            return "a link on the way there leads elsewhere"
        if not os.path.lexists(away):
            return "" if os.path.lexists(home) else "gone, from there and from where it was"
        if not _is_file(away) or digest_file(away) != file.digest:
            return "changed since it was moved"
        if os.path.lexists(home):
            if not _is_file(home) or digest_file(home) != file.digest:
                return f"{home} is there now"
            away.unlink()  # a move was cut short between its two halves
            return ""
        relocate(away, home)
    except FileExistsError:
        return f"{home} is there now"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""


def _clean(folder: Path, journal: Journal) -> None:
    """Whatever the moves have left there: the folders that held the files, where nothing else is in them."""
    names = {file.name for file in journal.files if _reached(folder, file.name)}
    below = {folder / parent for name in names for parent in PurePosixPath(name).parents}
    for path in sorted(below, key=lambda path: -len(path.parts)):
        with contextlib.suppress(OSError):  # not empty
            for temporary in path.glob(f"{TEMPORARY_PREFIX}*"):  # of a move that was killed
                temporary.unlink()
            if path != folder:
                path.rmdir()


def _reached(folder: Path, name: str) -> bool:
    """Whether a file's path leads below a folder without a link on the way."""
    return (folder / name).parent.resolve() == (folder.resolve() / name).parent


def _is_file(path: Path) -> bool:
    """Whether it is an ordinary file itself, and no link, pipe or device."""
    return stat.S_ISREG(path.lstat().st_mode)


def _lies(folder: Path, root: Path) -> list[Any]:
    """What only this machine knows of two folders: where the one is, and the file system's numbers of both."""
    return [str(folder.resolve()), folder.stat().st_ino, root.stat().st_ino]


def _write(folder: Path, root: Path, files: Sequence[Moved]) -> None:
    home = root.resolve()
    content = {
        "format_version": FORMAT_VERSION,
        "root": str(home),
        "lies": _lies(folder, root),
        "files": [{"from": str(home / name), "to": name, "digest": digest} for name, digest in files],
    }
    write_json(folder / JOURNAL, content)


def read_journal(folder: Path) -> Journal:
    """What was moved to a folder.

    Raises:
        InputError: nothing, or it cannot be told.
    """
    path = folder / JOURNAL
    try:
        content = check_version(read_json(path, MOST_OF_LIST), FORMAT_VERSION, path)
        files = tuple(Moved(str(entry["to"]), str(entry["digest"])) for entry in content["files"])
        journal = Journal(Path(content["root"]), files, content.get("lies"))
        if (
            not all(is_within(file.name) for file in files)
            or not journal.root.is_absolute()
            or "\0" in str(journal.root)
        ):
            raise ValueError("it names files that were never moved")
    except FileNotFoundError:
        raise InputError(
            f"There is no {JOURNAL} in {folder}: nothing was moved there.", "Give the folder that --move-to was given."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}).", "Move the files back by hand.") from None
    return journal
