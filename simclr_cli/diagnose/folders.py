"""Checks of the folders of images, runs and cache: collected facts, and a diagnosis of each fault."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from simclr_cli.api.manage import Diagnosis, diagnose
from simclr_cli.core.errors import InputError, RunError
from simclr_cli.core.events import Report, progress
from simclr_cli.core.files import get_free_bytes
from simclr_cli.core.hardware import ON_WINDOWS
from simclr_cli.core.safe_read import UPGRADE
from simclr_cli.core.text import describe_other_files, format_count, format_gigabytes, format_variable, quote_words
from simclr_cli.images.cache_location import cache_root

MIN_FREE_BYTES = 500_000_000
# File names reach sh as arguments, never as a part of a command.
HEIC = (
    "find {} -iname '*.hei[cf]' -exec sh -c 'for f; do heif-convert \"$f\" \"${{f%.*}}.jpg\"; done' sh '{{}}' +"
    "  # of libheif-examples"
)
READABLE, CACHE_ELSEWHERE = "sudo chmod -R a+rX {}", "/var/tmp/simclr-cache"
if ON_WINDOWS:
    HEIC = "Get-ChildItem -Recurse -Include *.heic, *.heif {} | ForEach-Object {{ magick mogrify -format jpg $_ }}"
    READABLE, CACHE_ELSEWHERE = "icacls {} /grant *S-1-1-0:RX /T", r"$env:TEMP\simclr-cache"  # S-1-1-0: everyone
FIXES = (  # kind of skipped file, pattern of the reason, command
    ("HEIC", "HEIC", HEIC),
    ("camera raw", "camera raw", "exiftool -r -b -JpgFromRaw -w .jpg {}  # of libimage-exiftool-perl"),
    ("unreadable", "permission", READABLE),
)


@dataclass(frozen=True)
class OutputFolder:
    """A folder that commands write to."""

    path: str
    error: str = ""  # of writing to it
    free_bytes: int = 2**62


@dataclass(frozen=True)
class FolderFacts:
    """The folders of images, runs and cache."""

    cache: OutputFolder
    runs: OutputFolder
    images: str = ""  # the folder; "": none
    image_count: int = 0
    skipped: tuple[tuple[str, str], ...] = ()  # name, reason
    other: str = ""  # files, in figures
    unused: tuple[tuple[str, str], ...] = ()  # name and reason of the skipped, the odd and the first other files
    no_images: str = ""  # the reason for none
    newer_runs: tuple[str, ...] = ()  # the errors of reading them


def collect_folder_facts(images: Path | None, runs: Path, *, torch: bool, report: Report) -> FolderFacts:
    """Inspect the folders.

    Args:
        torch: can be imported, which reading runs requires.
    """
    facts = FolderFacts(_inspect_folder(cache_root()), _inspect_folder(runs))
    if torch and not facts.runs.error:
        with contextlib.suppress(ImportError):  # of a library whose absence is a fault of its own
            facts = replace(facts, newer_runs=tuple(_newer_runs(runs)))
    if images is None:
        return facts
    facts = replace(facts, images=str(images))
    try:
        from simclr_cli.images.scan import take_census

        census = take_census(images, progress=progress(report, "reading headers"))
    except ImportError as error:  # the other checks still run
        return replace(facts, no_images=f"No image can be read: a library is missing or broken ({error}).")
    except InputError as error:
        return replace(facts, no_images=error.problem)
    skipped = tuple((file.name, file.reason) for file in census.skipped)
    other = describe_other_files(census.other_files, census.other_kinds) if census.other_files else ""
    unused = tuple(census.list_skipped_and_odd())
    return replace(facts, image_count=len(census.images), skipped=skipped, other=other, unused=unused)


def _inspect_folder(path: Path) -> OutputFolder:
    try:
        existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        with tempfile.TemporaryFile(dir=existing):
            return OutputFolder(str(path), free_bytes=get_free_bytes(path))
    except OSError as error:
        return OutputFolder(str(path), error.strerror or str(error))


def _newer_runs(runs: Path) -> Iterator[str]:
    """Yield the error of each run that a newer version made."""
    from simclr_cli.store.run import list_runs
    from simclr_cli.store.run_info import read_run_info

    for run in list_runs(runs):
        try:
            read_run_info(run)
        except RunError as error:
            if error.remedy == UPGRADE:
                yield error.problem


def check_image_folder(facts: FolderFacts) -> Iterator[Diagnosis]:
    """Diagnose a folder without images, and skipped files."""
    folder, skipped = quote_words(facts.images), facts.skipped
    if facts.no_images:
        commands = [command.format(folder) for _, pattern, command in FIXES if re.search(pattern, facts.no_images)]
        commands.append("simclr doctor FOLDER  # the folder with the images")
        yield diagnose("no images", facts.no_images, commands[0])
    for kind, pattern, command in FIXES:
        names = tuple(name for name, reason in skipped if re.search(pattern, reason))
        skipped = tuple((name, reason) for name, reason in skipped if not re.search(pattern, reason))
        if names:
            what = f"{format_count(len(names), f'{kind} file')} in {facts.images}, the first is {names[0]}."
            yield diagnose(f"{kind} images", what, command.format(folder), names)
    if skipped:
        reasons = Counter(reason for _, reason in skipped).most_common(3)
        summary = "; ".join(f"{times:,} x {reason}" for reason, times in reasons)
        names = tuple(name for name, _ in skipped)
        number = format_count(len(names), "file")
        what = f"{number} in {facts.images} cannot be used ({summary}), the first is {names[0]}."
        yield diagnose("skipped images", what, f"simclr doctor {folder} --json  # lists all of them", names)


def check_output_folders(facts: FolderFacts) -> Iterator[Diagnosis]:
    """Diagnose the cache and the runs folder."""
    other_disk = "simclr pretrain FOLDER --runs ~/simclr-runs"
    for name, folder, command in (
        ("cache not writable", facts.cache, format_variable("SIMCLR_CACHE", CACHE_ELSEWHERE)),
        ("runs not writable", facts.runs, other_disk),
    ):
        if folder.error:
            yield diagnose(name, f"{folder.path} cannot be written to ({folder.error}).", command)
    if facts.runs.free_bytes < MIN_FREE_BYTES:
        free = format_gigabytes(facts.runs.free_bytes)
        what = f"{free} is free for {facts.runs.path}; a run needs 0.31 GB (resnet18)."
        yield diagnose("little disk", what, f"simclr cache --clear  # or, on a larger disk: {other_disk}")
    for what in facts.newer_runs:
        yield diagnose("newer run", what, "pipx upgrade simclr-cli  # or: uv tool upgrade simclr-cli")
