"""The images of a run that goes on: found where they are now, and compared with what they were."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.errors import InputError, RunError
from simclr_cli.core.events import Note, Report
from simclr_cli.images.census import Census
from simclr_cli.store.history import read_epochs
from simclr_cli.store.run import RunFolder
from simclr_cli.store.run_info import ImageList, read_images, write_images

NAMED = 5  # images of each kind of change


@dataclass(frozen=True)
class Changes:
    """How the images of a folder differ from those of a run, by name."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()  # of another size in bytes
    touched: tuple[str, ...] = ()  # of the same size, at another time

    def __bool__(self) -> bool:
        return any(vars(self).values())

    @property
    def words(self) -> str:
        """2 added (a.jpg, b.jpg), 1 removed (c.jpg)."""
        kinds = {"added": self.added, "removed": self.removed, "changed": self.changed,
                 "of the same size but another time of change": self.touched}  # fmt: skip
        return ", ".join(f"{len(names):,} {kind} ({_some(names)})" for kind, names in kinds.items() if names)


def compare(files: Mapping[str, tuple[int, int]], census: Census) -> Changes:
    """Compare images as they were and as they are, by names, sizes in bytes and times of change."""
    now = _files(census)
    if now == files:  # as nearly always, also of a million
        return Changes()
    others = [name for name, status in now.items() if files.get(name) != status]
    added, known = [name for name in others if name not in files], [name for name in others if name in files]
    some_removed = len(now) - len(added) < len(files)
    return Changes(
        added=tuple(added),
        removed=tuple(name for name in files if name not in now) if some_removed else (),
        changed=tuple(name for name in known if now[name][0] != files[name][0]),
        touched=tuple(name for name in known if now[name][0] == files[name][0]),
    )


def _files(census: Census) -> dict[str, tuple[int, int]]:
    """Sizes in bytes and times of change, by name."""
    return {image.name: (image.bytes, image.modified_ns) for image in census.images}


def find_folder(run: RunFolder, before: Path, given: Path | None) -> Path:
    """Where the images of a run are: where the person says, where they were before, or near there or here.

    Raises:
        RunError: nowhere.
    """
    if given is not None or before.is_dir():
        return given or before
    runs = run.path.absolute().parent
    near = [place / before.name for place in (runs, runs.parent, Path.cwd(), before.parent.parent)]
    with contextlib.suppress(OSError):
        near += sorted(before.parent.iterdir())
    files = read_images(run).files
    for folder in near:
        if _holds(folder, files):
            return folder.resolve()
    raise RunError(
        f"The images of the run {run.path} are no longer in {before}, nor in a folder near it or near the run.",
        "Say where they are now, by --images FOLDER.",
    )


def is_of(run: RunFolder, before: Path, folder: Path) -> bool:
    """Whether a folder is the one that a run is of, also if it was moved from where it was before."""
    with contextlib.suppress(RunError):
        return before == folder.resolve() or _holds(folder, read_images(run).files)
    return False


def check_images(run: RunFolder, root: Path, census: Census, chosen: ResolvedSettings, report: Report) -> None:
    """See to it that a folder holds the images that a run is of, or that the person accepts what has changed.

    Args:
        root: where they were.

    Raises:
        RunError: they have changed.
        InputError: there are too few left.
    """
    before = read_images(run).files
    if changes := compare(before, census):
        if not chosen.accept_changes:
            raise RunError(
                f"The images in {census.root} have changed since {run.path} began "
                f"({len(before)} then, {len(census.images)} now): {changes.words}.",
                "Bring the folder back to what it was, go on with what is there now by --accept-changes, or train "
                "under another --run.",
            )
        if len(census.images) < chosen.batch_size + chosen.held_out:
            kept_out = f" and {chosen.held_out} kept out" if chosen.held_out else ""
            raise InputError(
                f"The run {run.path} has batches of {chosen.batch_size}{kept_out}, and there are only "
                f"{len(census.images)} images now.",
                "Bring some back, or train under another --run.",
            )
        report(Note(f"From here on the batches are of the images as they are now: {changes.words}.", warning=True))
    if root != census.root.resolve():
        report(Note(f"The images of {run.path} are in {census.root} now; they were in {root}."))


def keep_images(run: RunFolder, census: Census) -> list[Mapping[str, int]]:
    """Write down which images a run is of from now on, and if they were others before, when that was.

    Args:
        census: with those that could not be decoded, for one of them may be mended later.

    Returns:
        All changes so far (see store.images).
    """
    changes: list[Mapping[str, int]] = []
    if run.begun:
        before = read_images(run)
        changes += before.changes
        if found := compare(before.files, census):
            counts = {name: len(names) for name, names in vars(found).items()}
            changes.append({"after_epochs": len(read_epochs(run)), **counts})
    write_images(run, ImageList(_files(census), changes))
    return changes


def _holds(folder: Path, files: Mapping[str, tuple[int, int]]) -> bool:
    """Whether all of these files are in a folder as they were; usually the first one tells."""
    with contextlib.suppress(OSError):
        found = ((status, (folder / name).stat()) for name, status in files.items())
        return all((now.st_size, now.st_mtime_ns) == status for status, now in found)
    return False


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
