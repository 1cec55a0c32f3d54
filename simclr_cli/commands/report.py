"""report.html: the page of a run, made from what lies in its folder, finished or not."""

from __future__ import annotations

from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch

from simclr_cli.api import ProbeResult, ReportResult, ReportSettings
from simclr_cli.core.errors import InputError, Interrupted, RunError, SimclrError
from simclr_cli.core.events import Note, Report, silent
from simclr_cli.core.files import write_bytes
from simclr_cli.core.safe_read import read_json
from simclr_cli.encode.load import pick_device, run_encoder
from simclr_cli.evaluate.run_samples import show_neighbors, show_views
from simclr_cli.images.census import Census, SkippedImage
from simclr_cli.images.decode import UnusableImage, small
from simclr_cli.images.decode_pool import apart
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import count_workers
from simclr_cli.pages.images import as_data_uri
from simclr_cli.pages.report import NeighborsShown, RunShown, ViewsShown, report_page
from simclr_cli.store.history import read_epochs
from simclr_cli.store.run import RunFolder, find_begun_run
from simclr_cli.store.run_info import RunInfo, read_run_info

CONFUSION_SIDE = 1000  # px, at most
NO_PROBE = "There was none. It says how good the encoder is where labels exist: simclr probe FOLDER"


def report(settings: ReportSettings, *, report: Report = silent) -> ReportResult:
    """Make a run's page anew.

    Raises:
        SimclrError: one of its kinds, with what to do next.
    """
    run = find_begun_run(settings.run, settings.runs)
    workers = count_workers(settings.workers)
    size = write_report(run, read_run_info(run), device=pick_device(settings.device), workers=workers, report=report)
    return ReportResult(str(run.path), str(run.report_file), run.finished, size)


def try_report(
    run: RunFolder, info: RunInfo, *, census: Census, device: torch.device, workers: int, report: Report
) -> str | None:
    """The page of a run that has just finished, or a note of why there is none: the run is finished all the same."""
    try:
        write_report(run, info, device=device, workers=workers, report=report, census=census)
    except Interrupted:  # there is nothing to lose any more, and a report of it would be the next one
        return None
    except Exception as error:  # whatever it is, hours of training end well
        why = error.what if isinstance(error, SimclrError) else f"{type(error).__name__}: {error}."
        report(Note(f"There is no report.html ({why}) Make it with: simclr report {run.path}", warning=True))
        return None
    return str(run.report_file)


def write_report(
    run: RunFolder, info: RunInfo, *, device: torch.device, workers: int, report: Report, census: Census | None = None
) -> int:
    """Write report.html, and return its size; `census` is of the images that are not skipped, if it is known."""
    try:
        skipped = run.read_skipped() if run.skipped_file.exists() else []
    except RunError as error:
        skipped = []
        report(Note(error.what, warning=True))
    views, neighbors = _samples(run, info, skipped, census, device, workers, report)
    try:
        confusion = as_data_uri(
            apart(small, workers)(run.probe_folder / "confusion.png", CONFUSION_SIDE, CONFUSION_SIDE)
        )
    except UnusableImage:  # most often there is none
        confusion = None
    shown = RunShown(
        name=run.path.absolute().name,
        finished=run.finished,
        config=info.described(),
        rows=read_epochs(run),
        skipped=skipped,
        views=views,
        neighbors=neighbors,
        probe=read_probe(run.probe_folder / "probe.json"),
        confusion=confusion,
        outcome=_outcome(run.outcome_file),
    )
    data = report_page(shown).encode("utf-8")
    write_bytes(run.report_file, data)
    return len(data)


def _samples(
    run: RunFolder,
    info: RunInfo,
    skipped: list[tuple[str, str]],
    census: Census | None,
    device: torch.device,
    workers: int,
    report: Report,
) -> tuple[ViewsShown | str, NeighborsShown | str]:
    """Views and neighbors, or why there are none."""
    lead = "Some images, each with the two views of it that the first step of training saw."
    try:
        if census is None:
            census = take_census(info.settings.images, workers=workers)
            census = census.without([SkippedImage(*entry) for entry in skipped])
            if census.fingerprint != info.census.get("fingerprint"):
                lead = "The folder has changed since: two views each of images that are in it now."
        chosen = info.settings
        ready = run_encoder(run, device) if run.finished else None
        views = show_views(census, ready, chosen, workers, lead)
        if ready is None:
            return views, "They come with the finished encoder."
        return views, show_neighbors(ready, run, census, chosen, workers, report)
    except InputError as error:
        return error.what, error.what


def read_probe(file: Path) -> ProbeResult | str:
    """What `probe` has kept of its findings, or why there is nothing to show."""
    if not file.is_file():
        return NO_PROBE
    try:
        found: ProbeResult = _made(ProbeResult, read_json(file))
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "The file probe/probe.json cannot be read. Probe again with: simclr probe"


def _made(kind: Any, kept: Any) -> Any:
    """A result from what was kept of it; keys that it does not know are of a later version."""
    if isinstance(kind, type) and is_dataclass(kind):
        kinds = get_type_hints(kind)
        return kind(**{name: _made(kinds[name], value) for name, value in kept.items() if name in kinds})
    if get_origin(kind) is tuple:
        return tuple(_made(get_args(kind)[0], one) for one in kept)
    if get_origin(kind) is UnionType and kept is not None:
        return _made(get_args(kind)[0], kept)
    return kept


def _outcome(file: Path) -> dict[str, str] | None:
    try:
        kept = read_json(file)
        return {"state": str(kept["state"]), "words": str(kept["words"])}
    except (OSError, ValueError, KeyError, TypeError):  # most often there is none
        return None
