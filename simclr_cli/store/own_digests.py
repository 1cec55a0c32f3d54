"""Files of a run that can be checked without digests.json: by a digest that they or others carry, or by checksums."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from simclr_cli.digests import digest_file
from simclr_cli.reading import MOST_OF_LIST, read_json
from simclr_cli.store.checkpoint import is_whole_checkpoint
from simclr_cli.store.events import are_whole_records
from simclr_cli.store.index import INDEX, ROWS
from simclr_cli.store.vectors import rows_file


def contradicted(file: Path) -> bool:
    """Whether a file is not what it, or one beside it, says that it is.

    Raises:
        RunError: of a newer version.
    """
    where = f"{file.parent.name}/{file.name}"
    try:
        return any(fnmatchcase(where, pattern) and not fits(file) for pattern, fits in CHECKS.items())
    except OSError:
        return True


def _is_model(weights: Path) -> bool:
    told = _told(weights.with_name("config.json"), "simclr", "model_digest")
    return told is None or told == digest_file(weights)


def _is_segment(rows: Path) -> bool:
    told = [_told(rows.with_name(INDEX), key) for key in ("segments", "aside")]
    named = [entry for part in told if isinstance(part, list) for entry in part if isinstance(entry, dict)]
    return all(entry.get("digest") == digest_file(rows) for entry in named if entry.get("file") == rows.name)


def _are_vectors(out: Path) -> bool:
    told = _told(rows_file(out), "vectors_digest")
    return told is None or told == digest_file(out)


def _told(file: Path, *keys: str) -> Any:
    """What a description says under a key; None: nothing that could be read."""
    try:
        found = read_json(file, MOST_OF_LIST)
        for key in keys:
            found = found[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


CHECKS: dict[str, Callable[[Path], bool]] = {
    "checkpoint/step-*.safetensors": is_whole_checkpoint,
    "*/model.safetensors": _is_model,
    f"vectors/{ROWS}": _is_segment,
    "*.npy": _are_vectors,
    "tensorboard/*.tfevents.*": are_whole_records,
}
