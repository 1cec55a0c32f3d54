"""Checks of the folders that commands work in: facts, and what follows from them."""

from __future__ import annotations

import re
import shlex
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from simclr_cli.api.manage import Diagnosis, diagnose
from simclr_cli.core.errors import InputError, RunError
from simclr_cli.core.events import Report, gigabytes, progress
from simclr_cli.core.files import free_bytes
from simclr_cli.core.safe_read import UPGRADE
from simclr_cli.core.text import count
from simclr_cli.images.cache_location import cache_root

ENOUGH_BYTES = 500_000_000
# sh takes a name as an argument, never as a part of a command
HEIC = "find {} -iname '*.hei[cf]' -exec sh -c 'for f; do heif-convert \"$f\" \"${{f%.*}}.jpg\"; done' sh '{{}}' +"
INCLUDED_BY = (  # kind of the files that are skipped, words of the reason, the command
    ("HEIC", "HEIC", f"{HEIC}  # of libheif-examples"),
    ("camera raw", "camera raw", "exiftool -r -b -JpgFromRaw -w .jpg {}  # of libimage-exiftool-perl"),
    ("unreadable", "no right|permission|may not be read", "sudo chmod -R a+rX {}"),
)


@dataclass(frozen=True)
class Folder:
    """A folder that commands write to."""

    path: str
    unusable: str = ""  # why they cannot
    free: int = 2**62  # bytes


@dataclass(frozen=True)
class FolderFacts:
    """The folders that commands work in."""

    cache: Folder
    runs: Folder
    images: str = ""  # the folder; "" for none
    image_count: int = 0
    skipped: tuple[tuple[str, str], ...] = ()  # name, reason
    no_images: str = ""  # why there are none
    newer_runs: tuple[str, ...] = ()  # what tells that a newer simclr made it


def folder_facts(images: Path | None, runs: Path, *, torch: bool, report: Report) -> FolderFacts:
    """Look at the folders.

    Args:
        torch: whether it can be imported, which reading runs needs.
    """
    facts = FolderFacts(_folder(cache_root()), _folder(runs))
    if torch and not facts.runs.unusable:
        facts = replace(facts, newer_runs=tuple(_newer_runs(runs)))
    if images is None:
        return facts
    facts = replace(facts, images=str(images))
    try:
        from simclr_cli.images.scan import take_census

        census = take_census(images, progress=progress(report, "reading headers"))
    except ImportError as error:  # other checks still are made
        return replace(facts, no_images=f"No image can be read, for numpy or Pillow is broken ({error}).")
    except InputError as error:
        return replace(facts, no_images=error.what)
    skipped = tuple((one.name, one.reason) for one in census.skipped)
    return replace(facts, image_count=len(census.images), skipped=skipped)


def _folder(path: Path) -> Folder:
    try:
        there = next(p for p in (path, *path.absolute().parents) if p.exists())
        with tempfile.TemporaryFile(dir=there):
            return Folder(str(path), free=free_bytes(path))
    except OSError as error:
        return Folder(str(path), error.strerror or str(error))


def _newer_runs(runs: Path) -> Iterator[str]:
    from simclr_cli.store.run import list_runs
    from simclr_cli.store.run_info import read_run_info

    for run in list_runs(runs):
        try:
            read_run_info(run)
        except RunError as error:
            if error.remedy == UPGRADE:
                yield error.what


def check_images(facts: FolderFacts) -> Iterator[Diagnosis]:
    """Diagnose a folder without images, and files in it that are skipped."""
    folder, skipped = shlex.quote(facts.images), facts.skipped
    if facts.no_images:
        commands = [command.format(folder) for _, words, command in INCLUDED_BY if re.search(words, facts.no_images)]
        commands.append("simclr doctor FOLDER  # the folder that holds the images")
        yield diagnose("no images", facts.no_images, commands[0])
    for kind, words, command in INCLUDED_BY:
        names = tuple(name for name, reason in skipped if re.search(words, reason))
        skipped = tuple((name, reason) for name, reason in skipped if not re.search(words, reason))
        if names:
            what = f"{count(len(names), f'{kind} file')} in {facts.images}, the first of them {names[0]}."
            yield diagnose(f"{kind} images", what, command.format(folder), names)
    if skipped:
        reasons = Counter(reason for _, reason in skipped).most_common(3)
        words = "; ".join(f"{times:,} x {reason}" for reason, times in reasons)
        what = f"{count(len(skipped), 'file')} in {facts.images} cannot be used ({words}), first {skipped[0][0]}."
        command = f"simclr doctor {folder} --json  # names them all, to be fetched again"
        yield diagnose("skipped images", what, command, tuple(name for name, _ in skipped))


def check_written_folders(facts: FolderFacts) -> Iterator[Diagnosis]:
    """Diagnose the cache and the folder of runs."""
    elsewhere = "simclr pretrain FOLDER --runs ~/simclr-runs"
    for name, folder, command in (
        ("cache not writable", facts.cache, "export SIMCLR_CACHE=/var/tmp/simclr-cache"),
        ("runs not writable", facts.runs, elsewhere),
    ):
        if folder.unusable:
            yield diagnose(name, f"{folder.path} cannot be written to ({folder.unusable}).", command)
    if facts.runs.free < ENOUGH_BYTES:
        what = f"{gigabytes(facts.runs.free)} is free for {facts.runs.path}; a run takes 0.31 GB (resnet18)."
        yield diagnose("little disk", what, f"simclr cache --clear  # or, on a larger disk: {elsewhere}")
    for what in facts.newer_runs:
        yield diagnose("newer run", what, "pipx upgrade simclr-cli  # or: uv tool upgrade simclr-cli")
