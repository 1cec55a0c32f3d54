"""Which runs there are, and which one is meant."""

from __future__ import annotations

from pathlib import Path

from simclr_cli.errors import RunError
from simclr_cli.store.manifest import MANIFEST
from simclr_cli.store.run import RunFolder


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
