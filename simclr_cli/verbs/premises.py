"""The folders that commands work in, and what can be wrong with them: each fault a function of facts."""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from simclr_cli.atomic import TEMPORARY_PREFIX, is_stray
from simclr_cli.errors import InputError
from simclr_cli.events import Report, gigabytes, progress
from simclr_cli.files import free_bytes
from simclr_cli.locks import LOCK, holder
from simclr_cli.owner import is_gone, system
from simclr_cli.results.diagnosing import Diagnosis
from simclr_cli.settings.views import LARGEST_ON_CPU, LARGEST_ON_GPU
from simclr_cli.wording import count, duration

NETWORK = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "fuse.sshfs",
    "fuse.rclone",
)
RUN_BYTES = 310_000_000  # of a run by default (resnet18), measured, while its second checkpoint is written
LEAST_DISK = 500_000_000
OFF_SECONDS = 60  # that clocks of two machines may differ by


@dataclass(frozen=True)
class Pictures:
    """What the census says of a folder."""

    folder: str
    pictures: int = 0
    refused: tuple[tuple[str, str], ...] = ()  # name, reason
    error: str = ""  # why there are none
    shortage: str | None = None  # a sentence, if the cache has no room for all
    newest: float = 0.0  # time of the last change of a picture, seconds since 1970


@dataclass(frozen=True)
class Folder:
    """One that is written to."""

    path: str
    refusal: str = ""  # why it cannot be
    free: int = 2**62  # bytes
    network: str = ""  # its file system, where that is of a network


@dataclass(frozen=True)
class Unfinished:
    """A run without an encoder that no process of this machine is at."""

    path: str
    command: str  # that goes on with it
    by: str = ""  # the process that has its lock
    gone: bool = True  # whether that certainly is no more


@dataclass(frozen=True)
class Premises:
    """The folders, and the time by which their files are judged."""

    cache: Folder
    runs: Folder
    pictures: Pictures | None = None
    pictures_network: str = ""
    strays: tuple[str, ...] = ()  # temporary files that no one will finish
    unfinished: tuple[Unfinished, ...] = ()
    newest_run: float = 0.0  # time of the last change of a run
    now: float = 0.0


def premises(images: Path | None, runs: Path, *, gpu: bool, torch: bool, report: Report) -> Premises:
    """Look at the folders.

    Args:
        gpu: whether there is one, on which larger pictures are trained on.
        torch: whether it can be imported, which looking into runs needs.
    """
    from simclr_cli.images.caches import cache_root  # where numpy or Pillow is broken, the other checks still are made

    runs_there = sorted(runs.iterdir()) if os.access(runs, os.R_OK | os.X_OK) and runs.is_dir() else []
    now = time.time()
    return Premises(
        cache=_folder(cache_root()),
        runs=_folder(runs),
        pictures=None if images is None else _pictures(images, gpu, report),
        pictures_network="" if images is None else network_of(images),
        strays=tuple(str(path) for run in runs_there for path in run.rglob(f"{TEMPORARY_PREFIX}*") if _left(path)),
        unfinished=tuple(_unfinished(runs)) if torch and runs_there else (),
        newest_run=max((_changed(path, 0.0) for path in runs_there), default=0.0),
        now=now,
    )  # fmt: skip


def _changed(path: Path, otherwise: float) -> float:
    """When, in seconds since 1970; what is said otherwise if it is gone."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return otherwise


def _left(path: Path) -> bool:
    """Whether a temporary file is of a command that is no more."""
    try:
        return is_stray(path)
    except OSError:  # its command has just ended
        return False


def _pictures(images: Path, gpu: bool, report: Report) -> Pictures:
    try:
        from simclr_cli.images.cache import lack_of_room
        from simclr_cli.images.folder import take_census
    except ImportError as error:
        return Pictures(str(images), error=f"No picture can be read, for numpy or Pillow is broken ({error}).")
    try:
        census = take_census(images, progress=progress(report, "reading headers"))
    except InputError as error:
        return Pictures(str(images), error=error.what)
    return Pictures(
        str(images), len(census.pictures), tuple((one.name, one.reason) for one in census.refused),
        shortage=lack_of_room(census, LARGEST_ON_GPU if gpu else LARGEST_ON_CPU, None),
        newest=max(picture.modified_ns for picture in census.pictures) / 1e9,
    )  # fmt: skip


def _folder(path: Path) -> Folder:
    try:
        there = next(p for p in (path, *path.absolute().parents) if p.exists())
        with tempfile.TemporaryFile(dir=there, prefix=TEMPORARY_PREFIX):
            pass
        return Folder(str(path), "", free_bytes(path), network_of(path))
    except OSError as error:
        return Folder(str(path), error.strerror or str(error))


def network_of(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The type of the file system that a path is on, if it is one of a network; else nothing."""
    real, best, kind = os.path.realpath(path), "", ""
    try:
        lines = mounts.read_bytes().splitlines()
    except OSError:
        return ""
    for line in lines:
        _, escaped, of, *_ = line.split()  # a space in a name is \040
        point = os.fsdecode(escaped.decode("unicode_escape").encode("latin-1"))
        if len(point) >= len(best) and (real == point or real.startswith(point.rstrip("/") + "/")):
            best, kind = point, of.decode()
    return kind if kind in NETWORK else ""


def _unfinished(runs: Path) -> Iterator[Unfinished]:
    from simclr_cli.store.runs import list_runs

    for run in list_runs(runs):
        if not run.finished:
            by = holder(run.path)
            gone = by is None or is_gone(by.system, by.pid, by.started)
            if gone or (by is not None and by.system != system()):
                yield Unfinished(str(run.path), run.resume_command, "" if by is None else str(by), gone)


def cache_trouble(here: Premises) -> Iterator[Diagnosis]:
    """Not to be written to, on a network, or without room."""
    elsewhere = "export SIMCLR_CACHE=/var/tmp/simclr-cache"
    if here.cache.refusal:
        yield Diagnosis(
            "cache not writable", "fault", f"The cache {here.cache.path} cannot be written to ({here.cache.refusal}).",
            "Training keeps the decoded pictures there.", elsewhere,
        )  # fmt: skip
    if here.cache.network:
        yield Diagnosis(
            "cache on a network", "advice",
            f"The cache {here.cache.path} is on a network file system ({here.cache.network}).",
            "Every batch is read from it.", elsewhere,
        )  # fmt: skip
    if here.pictures and here.pictures.shortage:
        yield Diagnosis(
            "little room in the cache", "advice", here.pictures.shortage,
            "To decode a picture takes longer than to train a small model on it.",
            "simclr cache --clear  # of all folders; or export SIMCLR_CACHE=FOLDER on a larger disk",
        )  # fmt: skip


def runs_trouble(here: Premises) -> Iterator[Diagnosis]:
    """The folder of runs is not to be written to, or without room."""
    elsewhere = "simclr pretrain FOLDER --runs ~/simclr-runs"
    if here.runs.refusal:
        yield Diagnosis(
            "runs not writable", "fault",
            f"The folder of runs {here.runs.path} cannot be written to ({here.runs.refusal}).",
            "A run keeps its checkpoints and its encoder there.", elsewhere,
        )  # fmt: skip
    if here.runs.free < LEAST_DISK:
        yield Diagnosis(
            "little disk", "fault", f"{gigabytes(here.runs.free)} is free for {here.runs.path}, and a run takes about "
            f"{gigabytes(RUN_BYTES)} (resnet18).",
            "A checkpoint that has no room stops the training.",
            f"simclr cache --clear  # or, on a larger disk: {elsewhere}",
        )  # fmt: skip


def clock_behind(here: Premises) -> Iterator[Diagnosis]:
    """Files are of the future."""
    newest = max(here.newest_run, here.pictures.newest if here.pictures else 0.0)
    if newest > here.now + OFF_SECONDS:
        yield Diagnosis(
            "clock behind", "advice",
            f"The newest file was changed {duration(newest - here.now)} after now, by the clock of this machine.",
            "Which run is the newest is told by their times.", "sudo timedatectl set-ntp true",
        )  # fmt: skip


def stray_files(here: Premises) -> Iterator[Diagnosis]:
    """Of commands that were killed."""
    if here.strays:
        yield Diagnosis(
            "stray files", "advice", f"{count(len(here.strays), 'temporary file')} of commands that were killed "
            f"{'lies' if len(here.strays) == 1 else 'lie'} in {here.runs.path}.",
            "They take room, and nothing else.",
            f"find {shlex.quote(here.runs.path)} -name '{TEMPORARY_PREFIX}*' -exec rm -r {{}} +  # if no command runs",
            here.strays,
        )  # fmt: skip


def unfinished_runs(here: Premises) -> Iterator[Diagnosis]:
    """That could go on, or that another machine may be at."""
    for run in here.unfinished:
        if run.gone:
            by = f" ({run.by}, was killed)" if run.by else ""
            yield Diagnosis(
                "unfinished run", "note", f"The run {run.path} was stopped before its end{by}.",
                "Only a finished run has an encoder; it goes on where it was.", run.command,
            )  # fmt: skip
        else:
            yield Diagnosis(
                "locked run", "note", f"The run {run.path} is locked by {run.by}.",
                "No other process trains there; whether that one still is there can be told on its own machine only.",
                f"rm {shlex.quote(run.path)}/{LOCK}  # only if you know that it is no more",
            )  # fmt: skip


CHECKS: tuple[Callable[[Premises], Iterator[Diagnosis]], ...] = (
    cache_trouble, runs_trouble, clock_behind, stray_files,
    unfinished_runs,
)  # fmt: skip
