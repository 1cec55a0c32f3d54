"""Whether the files of a run are as they were written; for each that is not, what to do."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

from simclr_cli.api import CheckResult, CheckSettings, FileProblem, State
from simclr_cli.core.errors import RunError
from simclr_cli.core.events import Report, progress, silent
from simclr_cli.core.safe_read import MOST_OF_LIST, checksum_file, read_json
from simclr_cli.store.checkpoint import is_whole_checkpoint
from simclr_cli.store.index import INDEX, checksum
from simclr_cli.store.manifest import MANIFEST, Damaged, read_manifest
from simclr_cli.store.models import read_model
from simclr_cli.store.run import RunFolder, find_begun_run

WHAT: dict[State, str] = {
    "damaged": "It is not as it was written.",
    "missing": "It was written, and is gone.",
    "foreign": "It is of another run, and would be taken for a part of this one.",
}
RETRAIN = "Restore it from a copy, or train again: simclr pretrain FOLDER"
EXPORT = "Delete {encoder}, and make it again from the checkpoint: {resume}"
REMEDIES = {  # by the pattern of a relative path
    MANIFEST: EXPORT,
    "config.json": RETRAIN,
    "images.json": "Restore it from a copy. A finished run works without it.",
    "skipped.json": "Restore it from a copy. A finished run works without it.",
    "checkpoint/*": "Restore it from a copy, or delete {file}. A finished run works without it; another goes on from "
    "what is left: {resume}",
    "encoder-*-epochs*": "Restore it from a copy, or delete {folder}: it is of fewer epochs.",
    "classifier*": "Delete {folder}, and make it again: simclr finetune FOLDER --run {run}",
    "vectors/*": "Delete {folder}, and the next search makes it again.",
    "*": EXPORT,
}
REMOVE = "Move it out of the run, or delete it: {file}"
NOT_MISSED = ("checkpoint/*", "encoder-*-epochs*")  # a finished run works without these


def check(settings: CheckSettings, *, report: Report = silent) -> CheckResult:
    """Verify what the manifest of a run lists, and what has a checksum of its own.

    Raises:
        RunError: no such run, or of a newer version.
    """
    run = find_begun_run(settings.run, settings.runs)
    wrong: dict[str, State] = {}
    listed: dict[str, str] = {}
    if finished := run.encoder.is_dir():  # while encoder/ is not there, a manifest is of what comes or what was
        try:
            listed = read_manifest(run.path)
        except Damaged:
            wrong[MANIFEST] = "damaged" if (run.path / MANIFEST).exists() else "missing"
    proving = {file.relative_to(run.path).as_posix() for pattern in PROOFS for file in run.path.glob(pattern)}
    names = sorted({*listed, *proving})
    tell, sizes = progress(report, "checking"), []
    for done, name in enumerate(names, start=1):
        file = run.path / name
        if state := _state(file, name, listed):
            wrong[name] = state
        sizes += [file.stat().st_size] if file.exists() else []
        tell(done, len(names))
    if finished and not run.encoder.is_dir():
        return check(settings, report=report)  # another process has begun to train it for more epochs
    checkpoints = [file for file in run.checkpoints.glob("step-*") if f"checkpoint/{file.name}" not in wrong]
    resumable = bool(checkpoints) and run.config_file.is_file() and "config.json" not in wrong
    return CheckResult(
        run=str(run.path),
        finished=finished,
        intact=not wrong,
        files=len(sizes),
        bytes=sum(sizes),
        problems=tuple(
            FileProblem(name, state, WHAT[state], _remedy(run, name, state, resumable=resumable))
            for name, state in sorted(wrong.items())
        ),
        resume=None if finished else run.resume_command,
    )


def _state(file: Path, name: str, listed: dict[str, str]) -> State | None:
    """Return what is wrong with one file; None: nothing."""
    if not file.is_file():
        return None if any(fnmatchcase(name, pattern) for pattern in NOT_MISSED) else "missing"
    try:
        if name in listed:
            return None if checksum_file(file) == listed[name] else "damaged"
        if not all(proof(file) for pattern, proof in PROOFS.items() if file.match(pattern)):
            return "damaged"
    except OSError:
        return "damaged"
    return "foreign" if listed and fnmatchcase(name, "checkpoint/*") else None


def _remedy(run: RunFolder, name: str, state: State, *, resumable: bool) -> str:
    """Return what to do about a file.

    Args:
        resumable: the checkpoint is there and whole, and so are the settings.
    """
    remedy = next(words for pattern, words in REMEDIES.items() if fnmatchcase(name, pattern))
    if state == "foreign":
        remedy = REMOVE
    elif remedy == EXPORT and not resumable:
        remedy = RETRAIN
    folder = run.path / name.split("/")[0]
    places = {"run": run.path, "file": run.path / name, "folder": folder, "encoder": run.encoder}
    quoted = {word: shlex.quote(str(place)) for word, place in places.items()}
    return remedy.format(**quoted, resume=run.resume_command)


def _is_model(weights: Path) -> bool:
    """Return whether a model's weights are those that its config.json was written for."""
    try:
        read_model(weights.parent, RETRAIN)
    except RunError:
        return False
    return True


def _is_part(file: Path) -> bool:
    """Return whether a file of vectors is as the index says, as far as that can be read."""
    try:
        part = read_json(file.with_name(INDEX), MOST_OF_LIST)["parts"][file.name.split("-")[0]]
        return bool(part["crc32"] == checksum(file, part["bytes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return True  # the next search makes all of them again


PROOFS: dict[str, Callable[[Path], bool]] = {
    "checkpoint/step-*.safetensors": is_whole_checkpoint,
    "encoder/model.safetensors": _is_model,
    "classifier*/model.safetensors": _is_model,
    "vectors/*-*.bin": _is_part,
}
