"""`simclr report`: report.html of a run, finished or not, from the files in its folder."""

from __future__ import annotations

from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch

from simclr_cli.api import ProbeResult, ReportResult, ReportSettings
from simclr_cli.api.fields import has_type
from simclr_cli.core.errors import InputError, Interrupted, RunError, SimclrError
from simclr_cli.core.events import Note, Report, silent
from simclr_cli.core.files import write_bytes
from simclr_cli.core.safe_read import read_json
from simclr_cli.encode.device import resolve_device
from simclr_cli.encode.load import load_run_encoder
from simclr_cli.evaluate.run_samples import sample_neighbors, sample_views
from simclr_cli.images.census import USED, Census, SkippedImage
from simclr_cli.images.decode import decode_thumbnail
from simclr_cli.images.decode_pool import isolate
from simclr_cli.images.formats import UnusableImage
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import count_workers
from simclr_cli.pages.images import as_data_uri
from simclr_cli.pages.report import ReportContent, SampleNeighbors, SampleViews, render_report
from simclr_cli.store.history import read_epochs
from simclr_cli.store.run import RunFolder, find_started_run
from simclr_cli.store.run_info import RunInfo, read_run_info
from simclr_cli.train.outcome import has_learned_little, read_probe_gain

MAX_CONFUSION_SIDE = 1000  # px
NO_PROBE = "Not run yet. To measure the encoder with labels, run: simclr probe FOLDER"


def report(settings: ReportSettings, *, report: Report = silent) -> ReportResult:
    """Write the report of a run.

    Raises:
        SimclrError: one of its kinds, with what to do next.
    """
    run = find_started_run(settings.run, settings.runs)
    workers = count_workers(settings.workers)
    size = write_report(
        run, read_run_info(run), device=resolve_device(settings.device, report=report), workers=workers, report=report
    )
    return ReportResult(str(run.path), str(run.report_file), run.is_finished, size)


def try_report(run: RunFolder, info: RunInfo, *, census: Census, device: torch.device, report: Report) -> str | None:
    """Write the report of a run that has just finished, and return its path; on failure note why, and return None."""
    workers = count_workers(info.settings.workers)
    try:
        write_report(run, info, device=device, workers=workers, report=report, census=census)
    except Interrupted:  # the run is finished, so the stop is not an error
        return None
    except Exception as error:  # a finished run does not fail for its report
        reason = error.problem if isinstance(error, SimclrError) else f"{type(error).__name__}: {error}."
        report(Note(f"report.html was not written ({reason}) {run.report_command}", warning=True))
        return None
    return str(run.report_file)


def write_report(
    run: RunFolder, info: RunInfo, *, device: torch.device, workers: int, report: Report, census: Census | None = None
) -> int:
    """Write report.html, and return its size in bytes.

    Args:
        census: without the skipped images; None: it is taken from the folder.
    """
    try:
        skipped = run.read_skipped() if run.skipped_file.exists() else []
    except RunError as error:
        skipped = []
        report(Note(error.problem, warning=True))
    views, neighbors = _sample_images(run, info, skipped, census, device, workers, report)
    try:
        decode = isolate(decode_thumbnail, workers)
        confusion = as_data_uri(decode(run.probe_folder / "confusion.png", MAX_CONFUSION_SIDE, MAX_CONFUSION_SIDE))
    except UnusableImage:  # usually missing
        confusion = None
    probe = read_probe(run.probe_folder / "probe.json")
    content = ReportContent(
        name=run.path.absolute().name,
        finished=run.is_finished,
        config=info.to_config(),
        epochs=read_epochs(run),
        skipped=skipped,
        views=views,
        neighbors=neighbors,
        probe=probe,
        confusion=confusion,
        outcome=_read_outcome(run, probe),
    )
    data = render_report(content).encode("utf-8")
    write_bytes(run.report_file, data)
    return len(data)


def _sample_images(
    run: RunFolder,
    info: RunInfo,
    skipped: list[tuple[str, str]],
    census: Census | None,
    device: torch.device,
    workers: int,
    report: Report,
) -> tuple[SampleViews | str, SampleNeighbors | str]:
    """Return views and neighbors, or the reason for none."""
    lead = "Each image with its two views in the first step of training."
    try:
        if census is None:
            census = take_census(info.settings.images, workers=workers)
            census = census.without([SkippedImage(*entry) for entry in skipped if not entry[1].startswith(USED)])
            if census.fingerprint != info.census.get("fingerprint"):
                lead = "The folder has changed since training. Each image is in it now, with two views."
        ready = load_run_encoder(run, device) if run.is_finished else None
        views = sample_views(census, ready, info.settings, workers, lead)
        if ready is None:
            return views, "Neighbors are shown once the run is finished."
        return views, sample_neighbors(ready, run, census, info.settings, workers, report)
    except InputError as error:
        report(Note(f"{error.problem} The report shows none.", warning=True))
        return error.problem, error.problem


def read_probe(file: Path) -> ProbeResult | str:
    """Return the result that `probe` wrote, or the reason for none."""
    if not file.is_file():
        return NO_PROBE
    try:
        result: ProbeResult = _parse(ProbeResult, read_json(file))
        return result
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "The file probe/probe.json cannot be read. Run again: simclr probe"


def _parse(kind: Any, value: Any) -> Any:
    """Build a result of type `kind` from JSON; unknown keys are of a later version, and ignored.

    Raises:
        TypeError: a value has another type, or is missing.
    """
    if isinstance(kind, type) and is_dataclass(kind):
        kinds = get_type_hints(kind)
        return kind(**{name: _parse(kinds[name], item) for name, item in value.items() if name in kinds})
    if get_origin(kind) is UnionType:
        return None if value is None else _parse(get_args(kind)[0], value)
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_parse(get_args(kind)[0], item) for item in value)
    if not has_type(value, kind):
        raise TypeError(f"{value!r} is none of its values")
    return value


def _read_outcome(run: RunFolder, probe: ProbeResult | str) -> dict[str, Any] | None:
    """Return state, words and gains of the outcome, overruled by the probe where that clearly says otherwise."""
    try:
        outcome = read_json(run.outcome_file)
        gains = [{"metric": str(gain["metric"]), "chance": float(gain["chance"])} for gain in outcome.get("gains", ())]
        state, words = str(outcome["state"]), str(outcome["words"])
        is_better = read_probe_gain(run)
        if is_better == has_learned_little(outcome) and outcome.get("kept") is None and isinstance(probe, ProbeResult):
            state = "learning" if is_better else "unchanged"
            words = f"By labels, the probe found otherwise than the training. {probe.verdict} The training: {words}"
        return {"state": state, "words": words, "gains": gains}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # usually missing
        return None
