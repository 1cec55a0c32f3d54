"""Files moved out of a folder into another, so that all of them can be put back.

    FOLDER/simclr-moved.json    where they come from, their names and digests; written before the first of them moves
    FOLDER/<relative path>      each of them

Whatever happens on the way, every file is whole in one of its two places, and the journal knows of both.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from simclr_cli.errors import InputError, SettingsError
from simclr_cli.files import TEMPORARY_PREFIX, digest_file, make_folder, remove, write_json
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
    _write(folder / JOURNAL, Journal(root, tuple(files)))
    moved, left = [], []
    for done, file in enumerate(files, start=1):
        if why := _move(root / file.name, folder / file.name, file.digest, root.resolve() / file.name):
            left.append(f"{root / file.name}: {why}")
        else:
            moved.append(file)
        progress(done, len(files))
    if not moved:
        remove(folder / JOURNAL)
    elif left:
        _write(folder / JOURNAL, Journal(root, tuple(moved)))
    return len(moved), tuple(left)


def is_still(path: Path, digest: str) -> bool:
    """Whether a file is there, and still what its digest says."""
    try:
        return digest_file(path) == digest
    except OSError:
        return False


def _move(source: Path, target: Path, digest: str, itself: Path) -> str:
    """Move one file; why that was not done, or nothing."""
    try:
        if source.resolve(strict=True) != itself:
            return "a link, which would not lead anywhere from there"
        if digest_file(source) != digest:
            return "changed since its vector was made"
        relocate(source, target)
    except FileExistsError:
        return f"{target} is there already"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""


def put_back(folder: Path, progress: Progress) -> tuple[Path, int, tuple[str, ...]]:
    """Move all files back to where they come from, never over another one; what is not possible stays in the journal.

    Returns:
        The folder that they are of, how many were brought back, and a line for each that was not.

    Raises:
        InputError: nothing was moved there, the journal is damaged, or the folder that the files are of is gone.
    """
    journal = read_journal(folder)
    if not journal.root.is_dir():
        raise InputError(
            f"The files are of {journal.root}, which is not there.", "Bring that folder, or its disk, back."
        )
    left: list[tuple[Moved, str]] = []
    back = 0
    for done, file in enumerate(journal.files, start=1):
        away = os.path.lexists(folder / file.name)  # else it never left, or is back
        if why := _return(folder / file.name, journal.root / file.name, file.digest):
            left.append((file, why))
        else:
            back += away
        progress(done, len(journal.files))
    _clean(folder, journal)
    if left:
        _write(folder / JOURNAL, Journal(journal.root, tuple(file for file, _ in left)))
    else:
        remove(folder / JOURNAL)
    lines = tuple(f"{folder / file.name}: {why}" for file, why in left)
    return journal.root, back, lines


def _return(away: Path, home: Path, digest: str) -> str:
    """Bring one file back; why that was not done, or nothing."""
    try:
        if not os.path.lexists(away):
            return "" if os.path.lexists(home) else "gone, from there and from where it was"
        if digest_file(away) != digest:
            return "changed since it was moved"
        if os.path.lexists(home):
            if digest_file(home) != digest:
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
    below = {folder / parent for file in journal.files for parent in PurePosixPath(file.name).parents}
    for path in sorted(below, key=lambda path: -len(path.parts)):
        with contextlib.suppress(OSError):  # not empty
            for temporary in path.glob(f"{TEMPORARY_PREFIX}*"):  # of a move that was killed
                temporary.unlink()
            if path != folder:
                path.rmdir()


def _write(file: Path, journal: Journal) -> None:
    content = {
        "format_version": FORMAT_VERSION,
        "root": str(journal.root.resolve()),
        "files": [
            {"from": str(journal.root.resolve() / name), "to": name, "digest": digest} for name, digest in journal.files
        ],
    }
    write_json(file, content)


def read_journal(folder: Path) -> Journal:
    """What was moved to a folder.

    Raises:
        InputError: nothing, or it cannot be told.
    """
    path = folder / JOURNAL
    try:
        content = json.loads(path.read_bytes())
        files = tuple(Moved(str(entry["to"]), str(entry["digest"])) for entry in content["files"])
        journal = Journal(Path(content["root"]), files)
        if content["format_version"] > FORMAT_VERSION:
            raise InputError(f"{path} is of a newer format.", "Upgrade: pipx upgrade simclr-cli")
        inside = all(not PurePosixPath(n).is_absolute() and ".." not in PurePosixPath(n).parts for n, _ in files)
        if not inside or not journal.root.is_absolute():
            raise ValueError("it names files that were never moved")
    except FileNotFoundError:
        raise InputError(
            f"There is no {JOURNAL} in {folder}: nothing was moved there.", "Give the folder that --move-to was given."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}).", "Move the files back by hand.") from None
    return journal
