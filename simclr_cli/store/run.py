"""The run folder: where things stand in it; which runs and classifiers there are, and which one is meant.

A run is finished when it has `encoder/`, which appears whole, by one rename, at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_safetensors
from torch import Tensor

from simclr_cli.api import RUNS
from simclr_cli.core.errors import RunError
from simclr_cli.core.files import make_folder, move, remove, write_bytes, write_json
from simclr_cli.core.safe_read import MOST_OF_LIST, read_json
from simclr_cli.store.manifest import MANIFEST, write_manifest
from simclr_cli.store.models import FORMAT_VERSION, plain, read_model, write_model

CLASSIFIER = "classifier"  # with what sets one apart behind it
SCRATCH = "-scratch"


class Within:
    """The path of a file or folder in a run's folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: RunFolder, _: type[RunFolder]) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run."""

    path: Path

    config_file = Within("config.json")
    metrics_file = Within("metrics.jsonl")
    speed_file = Within("speed.jsonl")
    images_file = Within("images.json")
    skipped_file = Within("skipped.json")
    encoder = Within("encoder")
    weights_file = Within("encoder/model.safetensors")
    projector_file = Within("projection_head.safetensors")
    report_file = Within("report.html")
    pages = Within("pages")
    outcome_file = Within("outcome.json")
    probe_folder = Within("probe")
    event_files = Within("tensorboard")
    checkpoints = Within("checkpoint")
    vectors = Within("vectors")
    failure_file = Within("failed-batch.json")
    last_good = Within("last-good")

    @property
    def finished(self) -> bool:
        """Whether its encoder is there."""
        return self.weights_file.is_file()

    @property
    def begun(self) -> bool:
        """Whether anything of a run is there."""
        return self.config_file.is_file() or self.finished

    @property
    def resume_command(self) -> str:
        """What to type to go on with it."""
        elsewhere = f" --runs {self.path.parent}" if self.path.parent != RUNS else ""
        return f"simclr pretrain --resume --run {self.path.name}{elsewhere}"

    def checked(self) -> RunFolder:
        """Itself; or RunError if a folder in it is a link that leads out of it: nothing is written through one."""
        home = self.path.resolve()
        for path in self.path.iterdir() if home.is_dir() else ():
            if path.is_symlink() and path.is_dir() and not path.resolve().is_relative_to(home):
                raise RunError(
                    f"{path} is a link that leads out of the run's folder, to {path.resolve()}.",
                    "Put the folder itself there, or remove the link.",
                )
        return self

    def write_config(self, content: Mapping[str, Any]) -> None:
        """Write config.json, with the version of this format."""
        write_json(self.config_file, {"format_version": FORMAT_VERSION, **content})

    def write_skipped(self, skipped: Sequence[tuple[str, str]]) -> None:
        """Write skipped.json: name and reason of every file that was not used."""
        write_json(self.skipped_file, [{"name": name, "reason": reason} for name, reason in skipped])

    def read_skipped(self) -> list[tuple[str, str]]:
        """Name and reason of every file that was not used.

        Raises:
            RunError: missing or damaged.
        """
        try:
            listed = read_json(self.skipped_file, MOST_OF_LIST)
            return [(str(entry["name"]), str(entry["reason"])) for entry in listed]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.skipped_file} cannot be read ({error}).", "Train under another --run.") from None

    def write_last_good(self, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        """Write last-good/, which is to --weights what another run's encoder/ is."""
        make_folder(self.last_good)
        write_bytes(self.last_good / "model.safetensors", to_safetensors(plain(state), metadata={"format": "pt"}))
        write_json(self.last_good / "config.json", config)

    def write_projector(self, state: Mapping[str, Tensor]) -> None:
        """Write the head g, for those who go on training."""
        write_bytes(self.projector_file, to_safetensors(plain(state)))

    def write_encoder(self, state: Mapping[str, Tensor], config: Mapping[str, Any], card: str) -> str:
        """Write the manifest, and encoder/ in timm's `local-dir:` layout, whole or not at all; this finishes the run.

        Returns:
            The model's checksum: SHA-256 of model.safetensors.
        """
        if self.encoder.exists():
            raise RunError(f"The run {self.path} is finished, and is never overwritten.", "Choose another --run.")
        return write_model(self.encoder, state, config, card, before=lambda whole: write_manifest(self.path, whole))

    def set_encoder_aside(self, epochs: int) -> None:
        """Keep the encoder that so many epochs made, with what belongs to it, as encoder-N-epochs/.

        One rename does it, before which the run is finished as it was, and after which it is not finished.
        """
        for file in (self.projector_file, self.outcome_file, *self.probe_folder.glob("*")):
            if file.is_file():
                write_bytes(self.encoder / file.relative_to(self.path), file.read_bytes())
        kept, number = self.path / f"{self.encoder.name}-{epochs}-epochs", 2
        while kept.exists():
            kept, number = kept.with_name(f"{self.encoder.name}-{epochs}-epochs-{number}"), number + 1
        move(self.encoder, kept)
        for file in (self.outcome_file, *self.probe_folder.glob("*")):
            remove(file)
        with contextlib.suppress(OSError):  # there is none, or something else is in it
            self.probe_folder.rmdir()

    def read_encoder(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """encoder/config.json and the weights, which must be those that the config was written for.

        Raises:
            RunError: not finished, damaged, or of a newer version.
        """
        if not self.finished:
            raise RunError(f"The run {self.path} is not finished.", f"Go on with: {self.resume_command}")
        return read_model(self.encoder, "Train the run again.")


def find_run(name: str | None, runs: Path) -> RunFolder:
    """A finished run by name or path; without a name the one that finished last.

    Raises:
        RunError: there is none, or it is not finished.
    """
    if name is not None:
        chosen = _named(name, runs)
        if not chosen.finished:
            raise RunError(f"The run {chosen.path} is not finished.", f"Go on with: {chosen.resume_command}")
        return chosen.checked()
    finished = [run for run in list_runs(runs) if run.finished]
    if not finished:
        raise RunError(f"There is no finished run under {runs}.", "Train one with: simclr pretrain FOLDER")
    return max(finished, key=lambda run: run.weights_file.stat().st_mtime_ns).checked()


def find_begun_run(name: str | None, runs: Path) -> RunFolder:
    """A run, finished or not, by name or path; without a name the newest.

    Raises:
        RunError: there is none.
    """
    if name is not None:
        chosen = _named(name, runs)
        if not chosen.begun and not (chosen.path / MANIFEST).is_file():
            raise RunError(f"{chosen.path} is not the folder of a run.", "Give the name of one.")
        return chosen.checked()
    begun = list_runs(runs)
    if not begun:
        raise RunError(f"There is no run under {runs}.", "Train one with: simclr pretrain FOLDER")
    return begun[0].checked()


def _named(name: str, runs: Path) -> RunFolder:
    chosen = RunFolder(runs / name) if (runs / name).is_dir() else RunFolder(Path(name))
    if not chosen.path.is_dir():
        known = ", ".join(run.path.name for run in list_runs(runs)[:5]) or "none"
        raise RunError(f"There is no run {name}.", f"Runs under {runs}: {known}.")
    return chosen


def list_runs(runs: Path) -> list[RunFolder]:
    """All runs under a folder, the newest first."""
    found = [RunFolder(path) for path in runs.iterdir()] if runs.is_dir() else []
    begun = [run for run in found if run.begun]
    dated = {run: run.config_file if run.config_file.is_file() else run.path for run in begun}
    return sorted(begun, key=lambda run: dated[run].stat().st_mtime_ns, reverse=True)


def classifier_folder(where: Path, labels_fraction: float, *, scratch: bool) -> Path:
    """classifier, classifier-10-percent, classifier-1-percent-scratch ...: what makes the name, unless one is given."""
    share = "" if labels_fraction == 1 else f"-{100 * labels_fraction:g}-percent"
    return where / f"{CLASSIFIER}{share}{SCRATCH if scratch else ''}"


def find_classifier(run: str | None, runs: Path) -> Path:
    """The newest classifier of a run, or of any run; one that started from scratch only if there is no other.

    Raises:
        RunError: there is none.
    """
    within = [find_run(run, runs)] if run is not None else list_runs(runs)
    found = [weights for one in within for weights in one.path.glob(f"{CLASSIFIER}*/model.safetensors")]
    if not found:
        where = f"in {within[0].path}" if run is not None else f"of a run under {runs}"
        raise RunError(f"There is no classifier {where}.", "Make one with: simclr finetune FOLDER")
    return max(found, key=lambda file: (not file.parent.name.endswith(SCRATCH), file.stat().st_mtime_ns)).parent
