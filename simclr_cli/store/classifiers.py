"""Classifiers on disk: which there are, and the newest."""

from __future__ import annotations

from pathlib import Path

from simclr_cli.errors import RunError
from simclr_cli.store.run import RunFolder
from simclr_cli.store.runs import find_run, list_runs

NAME = "classifier"  # with what sets one apart behind it
SCRATCH = "-scratch"


def classifier_folder(where: Path, labels_fraction: float, *, scratch: bool) -> Path:
    """classifier, classifier-10-percent, classifier-1-percent-scratch ...: what makes the name, unless one is given."""
    share = "" if labels_fraction == 1 else f"-{100 * labels_fraction:g}-percent"
    return where / f"{NAME}{share}{SCRATCH if scratch else ''}"


def find_classifier(run: str | None, runs: Path) -> Path:
    """The newest classifier of a run, or of any run; one that started from scratch only if there is no other.

    Raises:
        RunError: there is none.
    """
    within = [find_run(run, runs)] if run is not None else list_runs(runs)
    found = [folder for one in within for folder in _classifiers_of(one)]
    if not found:
        where = f"in {within[0].path}" if run is not None else f"of a run under {runs}"
        raise RunError(f"There is no classifier {where}.", "Make one with: simclr finetune FOLDER")
    return max(found, key=lambda folder: (not folder.name.endswith(SCRATCH), _weights(folder).stat().st_mtime_ns))


def _classifiers_of(run: RunFolder) -> list[Path]:
    return [folder for folder in run.path.glob(f"{NAME}*") if _weights(folder).is_file()]


def _weights(folder: Path) -> Path:
    return folder / "model.safetensors"
