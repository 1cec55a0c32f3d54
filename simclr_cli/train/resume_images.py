"""The images of a resumed run: found where they are now, and compared with what they were."""

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
from simclr_cli.store.run_info import ImageList, read_image_list, write_image_list

MAX_NAMES = 5  # of images, for each kind of change


@dataclass(frozen=True)
class ImageChanges:
    """Differences between the images of a folder and those of a run, by name."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()  # of another size in bytes
    touched: tuple[str, ...] = ()  # of the same size, at another time

    def __bool__(self) -> bool:
        return any(vars(self).values())

    @property
    def words(self) -> str:
        """Describe them: 2 added (a.jpg, b.jpg), 1 removed (c.jpg)."""
        kinds = {"added": self.added, "removed": self.removed, "changed": self.changed,
                 "of the same size but another modification time": self.touched}  # fmt: skip
        return ", ".join(f"{len(names):,} {kind} ({_join_names(names)})" for kind, names in kinds.items() if names)


def compare_images(files: Mapping[str, tuple[int, int]], census: Census) -> ImageChanges:
    """Compare images as they were and as they are, by names, sizes in bytes and modification times."""
    now = _list_files(census)
    if now == files:  # the usual case, quick also for a million
        return ImageChanges()
    different = [name for name, status in now.items() if files.get(name) != status]
    added = [name for name in different if name not in files]
    known = [name for name in different if name in files]
    some_removed = len(now) - len(added) < len(files)
    return ImageChanges(
        added=tuple(added),
        removed=tuple(name for name in files if name not in now) if some_removed else (),
        changed=tuple(name for name in known if now[name][0] != files[name][0]),
        touched=tuple(name for name in known if now[name][0] == files[name][0]),
    )


def _list_files(census: Census) -> dict[str, tuple[int, int]]:
    """Return sizes in bytes and modification times, by name."""
    return {image.name: (image.bytes, image.modified_ns) for image in census.images}


def find_image_folder(run: RunFolder, before: Path, given: Path | None) -> Path:
    """Find the images of a run: as given, where they were before, or near there, the run or the working folder.

    Raises:
        RunError: they are in none of these.
    """
    if given is not None or before.is_dir():
        return given or before
    runs = run.path.absolute().parent
    near = [place / before.name for place in (runs, runs.parent, Path.cwd(), before.parent.parent)]
    with contextlib.suppress(OSError):
        near += sorted(before.parent.iterdir())
    files = read_image_list(run).files
    for folder in near:
        if _has_files(folder, files):
            return folder.resolve()
    raise RunError(
        f"The images of the run {run.path} are no longer in {before}, nor in a folder near it or near the run.",
        "Set --images FOLDER to where they are now.",
    )


def has_images_of(run: RunFolder, before: Path, folder: Path) -> bool:
    """Return whether a folder has the images of a run, also if it was moved."""
    with contextlib.suppress(RunError):
        return before == folder.resolve() or _has_files(folder, read_image_list(run).files)
    return False


def check_unchanged_images(
    run: RunFolder, root: Path, census: Census, settings: ResolvedSettings, report: Report
) -> None:
    """Check that a folder has the images of a run, or that the user accepts what has changed.

    Args:
        root: where they were.

    Raises:
        RunError: they have changed.
        InputError: too few are left.
    """
    before = read_image_list(run).files
    if changes := compare_images(before, census):
        if not settings.accept_changes:
            raise RunError(
                f"The images in {census.root} have changed since {run.path} was started "
                f"({len(before)} then, {len(census.images)} now): {changes.words}.",
                "Restore the folder, resume with what is there now by --accept-changes, or train under another --run.",
            )
        if len(census.images) < settings.batch_size + settings.held_out:
            held_out = f" and {settings.held_out} held-out images" if settings.held_out else ""
            raise InputError(
                f"The run {run.path} has batches of {settings.batch_size}{held_out}, and there are only "
                f"{len(census.images)} images now.",
                "Restore some, or train under another --run.",
            )
        report(Note(f"Batches are made of the images as they are now: {changes.words}.", warning=True))
    if root != census.root.resolve():
        report(Note(f"The images of {run.path} are in {census.root} now; they were in {root}."))


def record_images(run: RunFolder, census: Census) -> list[Mapping[str, int]]:
    """Write the list of a run's images, with the changes since the last list; return all changes so far.

    Args:
        census: with those that could not be decoded, since one of them may be repaired later.
    """
    changes: list[Mapping[str, int]] = []
    if run.is_started:
        before = read_image_list(run)
        changes += before.changes
        if difference := compare_images(before.files, census):
            counts = {name: len(names) for name, names in vars(difference).items()}
            changes.append({"after_epochs": len(read_epochs(run)), **counts})
    write_image_list(run, ImageList(_list_files(census), changes))
    return changes


def _has_files(folder: Path, files: Mapping[str, tuple[int, int]]) -> bool:
    """Return whether all of these files are in a folder as they were; usually the first one decides."""
    with contextlib.suppress(OSError):
        statuses = ((status, (folder / name).stat()) for name, status in files.items())
        return all((now.st_size, now.st_mtime_ns) == status for status, now in statuses)
    return False


def _join_names(names: tuple[str, ...]) -> str:
    return ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")
