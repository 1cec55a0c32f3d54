"""`simclr check`: verification of the files of a run, with a remedy for each problem."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

from simclr_cli.api import CheckResult, CheckSettings, FileProblem, State
from simclr_cli.core.errors import RunError
from simclr_cli.core.events import Report, progress, silent
from simclr_cli.core.safe_read import has_checksum, parse_json
from simclr_cli.core.text import quote_words
from simclr_cli.store.checkpoint import is_intact_checkpoint
from simclr_cli.store.index_files import compute_crc32, read_index_file
from simclr_cli.store.manifest import MANIFEST, ManifestError, read_manifest
from simclr_cli.store.models import read_model
from simclr_cli.store.run import RunFolder, find_started_run

DESCRIPTIONS: dict[State, str] = {
    "damaged": "It has changed since it was saved.",
    "missing": "It was saved, but it is gone.",
    "foreign": "It belongs to another run, and would be loaded as a part of this one.",
}
RETRAIN = "Restore it from a backup, or train again: simclr pretrain FOLDER"
REBUILD = "Delete {encoder}, then rebuild it from the checkpoint: {resume}"
REMEDIES = {  # by the pattern of a relative path
    MANIFEST: REBUILD,
    "config.json": RETRAIN,
    "images.json": "Restore it from a backup. A finished run works without it.",
    "skipped.json": "Restore it from a backup. A finished run works without it.",
    "checkpoint/*": "Restore it from a backup, or delete {file}. A finished run works without it; an unfinished one "
    "resumes from the other checkpoints: {resume}",
    "encoder-*-epochs*": "Restore it from a backup, or delete {folder}: it is an encoder of fewer epochs.",
    "start/*": "Restore it from a backup. The encoder works without it.",
    "classifier*": "Delete {folder}, then train it again: simclr finetune FOLDER --run {run}",
    "vectors/*": "Delete {folder}. The next search embeds the images again.",
    "*": REBUILD,
}
REMOVE = "Move it out of the run, or delete it: {file}"
OPTIONAL = ("checkpoint/*", "encoder-*-epochs*")  # a finished run works without these


def check(settings: CheckSettings, *, report: Report = silent) -> CheckResult:
    """Verify what the manifest of a run lists, and what has a checksum of its own.

    Raises:
        RunError: the run does not exist, or is of a newer version.
    """
    run = find_started_run(settings.run, settings.runs)
    states: dict[str, State] = {}
    checksums: dict[str, str] = {}
    if finished := run.encoder_folder.is_dir():  # without encoder/ a manifest is of a future or an earlier encoder
        try:
            checksums = read_manifest(run.path)
        except ManifestError:
            states[MANIFEST] = "damaged" if (run.path / MANIFEST).exists() else "missing"
    verifiable = {file.relative_to(run.path).as_posix() for pattern in VERIFIERS for file in run.path.glob(pattern)}
    names = sorted({*checksums, *verifiable})
    report_done, sizes = progress(report, "checking"), []
    for done, name in enumerate(names, start=1):
        file = run.path / name
        if state := _verify(file, name, checksums):
            states[name] = state
        sizes += [file.stat().st_size] if file.exists() else []
        report_done(done, len(names))
    if finished and not run.encoder_folder.is_dir():
        return check(settings, report=report)  # another process has started to train it for more epochs
    checkpoints = [file for file in run.checkpoint_folder.glob("step-*") if f"checkpoint/{file.name}" not in states]
    resumable = bool(checkpoints) and run.config_file.is_file() and "config.json" not in states
    return CheckResult(
        run=str(run.path),
        finished=finished,
        intact=not states,
        files=len(sizes),
        bytes=sum(sizes),
        problems=tuple(
            FileProblem(name, state, DESCRIPTIONS[state], _choose_remedy(run, name, state, resumable=resumable))
            for name, state in sorted(states.items())
        ),
        resume=None if finished else run.resume_command,
    )


def _verify(file: Path, name: str, checksums: dict[str, str]) -> State | None:
    """Return the state of a file; None: it is intact, or optional and missing."""
    if not file.is_file():
        return None if any(fnmatchcase(name, pattern) for pattern in OPTIONAL) else "missing"
    try:
        if name in checksums:
            return None if has_checksum(file, checksums[name]) else "damaged"
        if not all(verify(file) for pattern, verify in VERIFIERS.items() if file.match(pattern)):
            return "damaged"
    except OSError:
        return "damaged"
    return "foreign" if checksums and fnmatchcase(name, "checkpoint/*") else None


def _choose_remedy(run: RunFolder, name: str, state: State, *, resumable: bool) -> str:
    """Return the remedy for a file.

    Args:
        resumable: settings and a checkpoint are intact.
    """
    remedy = next(text for pattern, text in REMEDIES.items() if fnmatchcase(name, pattern))
    if state == "foreign":
        remedy = REMOVE
    elif remedy == REBUILD and not resumable:
        remedy = RETRAIN
    folder = run.path / name.split("/")[0]
    paths = {"run": run.path, "file": run.path / name, "folder": folder, "encoder": run.encoder_folder}
    quoted = {word: quote_words(path) for word, path in paths.items()}
    return remedy.format(**quoted, resume=run.resume_command)


def _is_intact_model(weights: Path) -> bool:
    """Return whether the checksum in a model's config.json is that of its weights."""
    try:
        read_model(weights.parent, RETRAIN)
    except RunError:
        return False
    return True


def _is_intact_vectors(file: Path) -> bool:
    """Return whether a vectors file has the checksum in the index; True if the index cannot be read."""
    try:
        part = parse_json(read_index_file(file.parent))["parts"][file.name.split("-")[0]]
        return bool(part["crc32"] == compute_crc32(file, part["bytes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return True  # the next search embeds all images again


VERIFIERS: dict[str, Callable[[Path], bool]] = {
    "checkpoint/step-*.safetensors": is_intact_checkpoint,
    "encoder/model.safetensors": _is_intact_model,
    "classifier*/model.safetensors": _is_intact_model,
    "vectors/*-*.bin": _is_intact_vectors,
}
