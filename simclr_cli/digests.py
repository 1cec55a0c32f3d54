"""digests.json of a run: what each of its files must be, so that damage is found, and a file of another run.

    {"format_version": 1, "digest": SHA-256 of "files", "files": {"encoder/config.json": [SHA-256], ...}}

A file that is about to be put in place, replaced or removed has two entries: what it was, and what it will be (null:
not there). They are written before and settled afterwards, so that a kill at any moment leaves no whole file accused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath

from simclr_cli.atomic import filled, is_temporary, remove_strays, replace
from simclr_cli.errors import RunError
from simclr_cli.reading import MOST, check_version, parse_json, read_bytes

if sys.platform != "win32":
    import fcntl

FORMAT_VERSION = 1
DIGESTS = "digests.json"
MOST_BYTES = 64 << 20  # of a digests.json: half a million files

Table = dict[str, list[str | None]]  # relative path, with /: what may be there


class Damaged(RunError):
    """A file that is not what was written."""


def root_of(path: Path) -> Path | None:
    """The run that a path lies in: the nearest folder above it that has digests; None: in none."""
    folders = Path(os.path.normpath(path.absolute())).parents
    return next((folder for folder in folders if (folder / DIGESTS).is_file()), None)


def relative(file: Path, root: Path) -> PurePath:
    """The path of a file from the run that it lies in."""
    return PurePath(os.path.relpath(file, root))


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_in(path: Path) -> list[Path]:
    """The file itself, or all files in the folder; links are none."""
    inside = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    return [file for file in (path, *inside) if file.is_file() and not file.is_symlink()]


def encoded(files: Mapping[str, list[str | None]]) -> bytes:
    """digests.json of these files."""
    files = dict(sorted(files.items()))
    digest = hashlib.sha256(json.dumps(files).encode("ascii")).hexdigest()
    content = {"format_version": FORMAT_VERSION, "digest": digest, "files": files}
    return (json.dumps(content, indent=1) + "\n").encode("ascii")


def read_table(root: Path) -> Table:
    """What digests.json of a run says.

    Raises:
        Damaged: it is not what was written, or not ours.
        RunError: of a newer version.
    """
    file = root / DIGESTS
    try:
        data = read_bytes(file, MOST_BYTES)
        content = check_version(parse_json(data), FORMAT_VERSION, file)
        files: Table = {str(name): list(known) for name, known in content["files"].items()}
        if encoded(files) != data:  # to the byte: a flipped bit may leave the same JSON
            raise ValueError("its own digest differs")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{file} is damaged ({error}).", f"Type: simclr check {root}") from None
    return files


def read_bound(file: Path, most: int = MOST) -> bytes:
    """The content of a small file, which must be what was written, where it lies in a run.

    Raises:
        Damaged: it is not.
        OSError, ValueError: as read_bytes.
    """
    data = read_bytes(file, most)
    if (root := root_of(file)) is None:
        return data
    while True:
        try:
            known = read_table(root).get(relative(file, root).as_posix())
        except Damaged:  # nothing can be said; `simclr check` says so
            return data
        if known is None or hashlib.sha256(data).hexdigest() in known:
            return data
        again = read_bytes(file, most)
        if again == data:
            raise Damaged(f"{file} is not what was written: its digest differs.", f"Type: simclr check {root}")
        data = again  # another process has just put a new one in its place


@contextlib.contextmanager
def bound(target: Path, source: Path | None) -> Iterator[None]:
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
    with changing(root, changes):
        yield


@contextlib.contextmanager
def changing(root: Path, changes: Mapping[Path, str | None]) -> Iterator[None]:
    """Note what files of a run are about to be, and afterwards that they are.

    Args:
        changes: digest of each; None: no longer there.
    """
    with _alone(root):
        remove_strays(root)  # a table that another process could not put in place, for one
        try:
            table = read_table(root)
        except Damaged:  # nothing can be noted; `simclr check` says so
            yield
            return
        named = {relative(file, root).as_posix(): digest for file, digest in changes.items()}
        named = {name: digest for name, digest in named.items() if name in table or digest is not None}
        noted = {name: list(dict.fromkeys([*table.get(name, [None]), now])) for name, now in named.items()}
        during = {**table, **noted}
        if during != table:
            _write_table(root, during)
        yield
        after = {**table, **{name: [now] for name, now in named.items()}}
        after = {name: known for name, known in after.items() if known != [None]}
        if after != during:
            _write_table(root, after)


def _write_table(root: Path, files: Table) -> None:
    file = root / DIGESTS
    with filled(file, lambda stream: stream.write(encoded(files))) as temporary:
        replace(temporary, file)


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """No other process changes the digests meanwhile; where a folder cannot be locked (Windows, NFS), one might."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(root, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
