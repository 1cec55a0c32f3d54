"""Run folders: the paths and files of a run, and the search for a run or classifier by name.

A run is finished when it has `encoder/`, which appears complete, by one rename, at the end.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simclr_cli.api import RUNS_FOLDER
from simclr_cli.core.errors import RunError, SettingsError
from simclr_cli.core.files import prepare_folder, remove_file, rename, write_bytes, write_json
from simclr_cli.core.safe_read import read_bytes, read_json
from simclr_cli.core.text import quote_words
from simclr_cli.store.manifest import MANIFEST, write_manifest
from simclr_cli.store.models import FORMAT_VERSION, encode_tensors, read_model, write_model

if TYPE_CHECKING:
    from torch import Tensor

CLASSIFIER_PREFIX = "classifier"  # of a folder name
SCRATCH_SUFFIX = "-scratch"
MAX_SKIPPED_BYTES = 1 << 26  # half a million skipped files; a gigabyte of JSON may take 20 of memory


class RunPath:
    """Descriptor of a path below the run folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: RunFolder, _: type[RunFolder]) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """The files and folders of a run."""

    path: Path

    config_file = RunPath("config.json")
    metrics_file = RunPath("metrics.jsonl")
    speed_file = RunPath("speed.jsonl")
    images_file = RunPath("images.json")
    skipped_file = RunPath("skipped.json")
    encoder_folder = RunPath("encoder")
    start_folder = RunPath("start")
    weights_file = RunPath("encoder/model.safetensors")
    projection_head_file = RunPath("projection_head.safetensors")
    report_file = RunPath("report.html")
    pages_folder = RunPath("pages")
    outcome_file = RunPath("outcome.json")
    probe_folder = RunPath("probe")
    event_folder = RunPath("tensorboard")
    checkpoint_folder = RunPath("checkpoint")
    vectors_folder = RunPath("vectors")
    failure_file = RunPath("failed-batch.json")
    last_good_folder = RunPath("last-good")

    @property
    def is_finished(self) -> bool:
        """True if the run has its encoder."""
        return self.weights_file.is_file()

    @property
    def is_started(self) -> bool:
        """True if the folder has a config or an encoder."""
        return self.config_file.is_file() or self.is_finished

    @property
    def resume_command(self) -> str:
        """The command that resumes the run."""
        runs = f" --runs {quote_words(self.path.parent)}" if self.path.parent != RUNS_FOLDER else ""
        return f"simclr pretrain --resume --run {quote_words(self.path.name)}{runs}"

    @property
    def report_command(self) -> str:
        """A sentence with the command that writes the report."""
        return f"Write the report with: simclr report {quote_words(self.path)}"

    def explain_unfinished(self) -> RunError:
        """Return the error for a use of this run before it is finished, with the commands that finish it."""
        try:
            done = len(read_bytes(self.metrics_file).splitlines())
        except (OSError, ValueError):  # usually missing: no epoch is done
            done = 0
        now = f"; or end it now, and use it: {self.resume_command} --epochs {done}" if done else ""
        return RunError(f"The run {self.path} is not finished.", f"Resume it: {self.resume_command}{now}")

    def check_links(self) -> RunFolder:
        """Return the run; raise RunError if a link in it leads to a folder outside, which must not be written to."""
        target = self.path.resolve()
        for path in self.path.iterdir() if target.is_dir() else ():
            if path.is_symlink() and path.is_dir() and not path.resolve().is_relative_to(target):
                raise RunError(
                    f"{path} is a link to a folder outside of the run, {path.resolve()}.",
                    "Replace the link by the folder itself, or remove it.",
                )
        return self

    def write_config(self, content: Mapping[str, Any]) -> None:
        """Write config.json with its format version."""
        write_json(self.config_file, {"format_version": FORMAT_VERSION, **content})

    def write_skipped(self, skipped: Sequence[tuple[str, str]]) -> None:
        """Write skipped.json: name and reason of every skipped or odd file."""
        write_json(self.skipped_file, [{"name": name, "reason": reason} for name, reason in skipped])

    def read_skipped(self) -> list[tuple[str, str]]:
        """Return name and reason of every skipped or odd file.

        Raises:
            RunError: missing or damaged.
        """
        try:
            entries = read_json(self.skipped_file, MAX_SKIPPED_BYTES)
            return [(str(entry["name"]), str(entry["reason"])) for entry in entries]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.skipped_file} cannot be read ({error}).", "Train under another --run.") from None

    def write_last_good(self, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        """Write last-good/, which --weights accepts like the encoder/ of a run."""
        prepare_folder(self.last_good_folder)
        write_bytes(self.last_good_folder / "model.safetensors", encode_tensors(state, {"format": "pt"}))
        write_json(self.last_good_folder / "config.json", config)

    def write_projection_head(self, state: Mapping[str, Tensor]) -> None:
        """Write the projection head g, for further training."""
        write_bytes(self.projection_head_file, encode_tensors(state))

    def write_encoder(self, state: Mapping[str, Tensor], config: Mapping[str, Any], card: str) -> str:
        """Write the manifest and encoder/, in timm's `local-dir:` layout; this finishes the run.

        Returns:
            The model's checksum: SHA-256 of model.safetensors.
        """
        if self.encoder_folder.exists():
            raise RunError(f"The run {self.path} is finished, and is never overwritten.", "Use another --run.")
        return write_model(
            self.encoder_folder, state, config, card, before_rename=lambda folder: write_manifest(self.path, folder)
        )

    def archive_encoder(self, epochs: int) -> None:
        """Move the encoder and the files that belong to it to encoder-N-epochs/.

        Until one rename the run stays finished; after it the run is unfinished.
        """
        for file in (self.projection_head_file, self.outcome_file, *self.probe_folder.glob("*")):
            if file.is_file():
                write_bytes(self.encoder_folder / file.relative_to(self.path), file.read_bytes())
        archive, number = self.path / f"{self.encoder_folder.name}-{epochs}-epochs", 2
        while archive.exists():
            archive, number = archive.with_name(f"{self.encoder_folder.name}-{epochs}-epochs-{number}"), number + 1
        rename(self.encoder_folder, archive)
        for file in (self.outcome_file, *self.probe_folder.glob("*")):
            remove_file(file)
        with contextlib.suppress(OSError):  # it does not exist, or has other files
            self.probe_folder.rmdir()

    def read_encoder(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return encoder/config.json and the weights, whose checksum must match.

        Raises:
            RunError: not finished, damaged, or of a newer version.
        """
        if not self.is_finished:
            raise self.explain_unfinished()
        return read_model(self.encoder_folder, "Train the run again.")


def find_run(name: str | None, runs: Path) -> RunFolder:
    """Return a finished run by name or path; without a name the one that finished last.

    Raises:
        RunError: no such run, or it is not finished.
    """
    if name is not None:
        run = _resolve_run(name, runs)
        if not run.is_finished:
            raise run.explain_unfinished()
        return run.check_links()
    return find_newest_run([run for run in list_runs(runs) if run.is_finished], runs)


def find_named_run(name: str, runs: Path, *, is_run: bool) -> RunFolder | None:
    """Return the finished run of a name or path; None if it is the name of another encoder.

    Args:
        is_run: whether a name that is no run's is an error.

    Raises:
        RunError: the run is not finished; or, with `is_run`, there is none.
        SettingsError: no file can have this name.
    """
    try:
        run = next((run for run in (RunFolder(runs / name), RunFolder(Path(name))) if run.is_started), None)
    except OSError as error:
        raise SettingsError(f"{name[:60]!r} cannot be a name ({error.strerror}).", "Use another --encoder.") from None
    is_model_folder = run is not None and (run.path / "model.safetensors").is_file()
    if (run is not None and not is_model_folder) or (run is None and is_run):
        return find_run(name, runs)
    return None


def find_newest_run(finished_runs: Sequence[RunFolder], runs: Path) -> RunFolder:
    """Return the run that finished last.

    Raises:
        RunError: there is none.
    """
    if not finished_runs:
        started = list_runs(runs)
        remedy = "Train one with simclr pretrain FOLDER, or add the folder of images."
        remedy = started[0].explain_unfinished().remedy if started else remedy
        raise RunError(f"There is no finished run under {runs}.", remedy)
    return max(finished_runs, key=lambda run: run.weights_file.stat().st_mtime_ns).check_links()


def find_started_run(name: str | None, runs: Path) -> RunFolder:
    """Return a run, finished or not, by name or path; without a name the newest.

    Raises:
        RunError: no such run.
    """
    if name is not None:
        run = _resolve_run(name, runs)
        if not run.is_started and not (run.path / MANIFEST).is_file():
            raise RunError(f"{run.path} is not the folder of a run.", "Use the name of a run.")
        return run.check_links()
    started_runs = list_runs(runs)
    if not started_runs:
        raise RunError(f"There is no run under {runs}.", "Train one: simclr pretrain FOLDER")
    return started_runs[0].check_links()


def _resolve_run(name: str, runs: Path) -> RunFolder:
    run = RunFolder(runs / name) if (runs / name).is_dir() else RunFolder(Path(name))
    if not run.path.is_dir():
        names = ", ".join(run.path.name for run in list_runs(runs)[:5])
        remedy = f"Use one of the runs under {runs}: {names}." if names else "Train one: simclr pretrain FOLDER"
        raise RunError(f"There is no run {name}.", remedy)
    return run


def list_runs(runs: Path) -> list[RunFolder]:
    """Return all runs under a folder, the newest first."""
    folders = [RunFolder(path) for path in runs.iterdir()] if runs.is_dir() else []
    started_runs = [run for run in folders if run.is_started]
    dated_paths = {run: run.config_file if run.config_file.is_file() else run.path for run in started_runs}
    return sorted(started_runs, key=lambda run: dated_paths[run].stat().st_mtime_ns, reverse=True)


def name_classifier_folder(parent: Path, labels_fraction: float, *, scratch: bool) -> Path:
    """Return the default folder: classifier, classifier-10-percent, classifier-1-percent-scratch ..."""
    share = "" if labels_fraction == 1 else f"-{100 * labels_fraction:g}-percent"
    return parent / f"{CLASSIFIER_PREFIX}{share}{SCRATCH_SUFFIX if scratch else ''}"


def choose_classifier_folder(out: Path | None, run: RunFolder | None, labels_fraction: float, *, scratch: bool) -> Path:
    """Return the folder of a new classifier: `out`, or else one in the run.

    Raises:
        RunError: it exists.
    """
    out = out or name_classifier_folder(run.path if run else Path(), labels_fraction, scratch=scratch)
    if os.path.lexists(out):
        raise RunError(f"{out} already exists, and a classifier is never overwritten.", "Set another --out FOLDER.")
    return out


def find_classifier(run: str | None, runs: Path) -> Path:
    """Return the newest classifier of a run, or of any run; one trained from scratch only if there is no other.

    Raises:
        RunError: no classifier.
    """
    searched_runs = [find_run(run, runs)] if run is not None else list_runs(runs)
    pattern = f"{CLASSIFIER_PREFIX}*/model.safetensors"
    weights_files = [file for folder in searched_runs for file in folder.path.glob(pattern)]
    if not weights_files:
        where = f"in {searched_runs[0].path}" if run is not None else f"of a run under {runs}"
        raise RunError(f"There is no classifier {where}.", "Train one: simclr finetune FOLDER")
    return max(
        weights_files, key=lambda file: (not file.parent.name.endswith(SCRATCH_SUFFIX), file.stat().st_mtime_ns)
    ).parent
