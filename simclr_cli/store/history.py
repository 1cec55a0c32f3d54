"""The epochs of a run: what was measured, in metrics.jsonl, and what the clock said of each, in speed.jsonl.

Apart, so that a run that was stopped and went on has the same metrics.jsonl as one that was not, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from simclr_cli.core.errors import RunError
from simclr_cli.core.files import write_bytes
from simclr_cli.core.safe_read import parse_json, read_bytes
from simclr_cli.store.run import RunFolder

TIMES = ("images_per_second", "seconds")


def write_epochs(run: RunFolder, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write both files whole, one object an epoch each, from rows that hold all of it."""
    _write(run.speed_file, ({name: row[name] for name in ("epoch", *TIMES)} for row in rows))
    _write(run.metrics_file, ({name: row[name] for name in row if name not in TIMES} for row in rows))


def read_epochs(run: RunFolder) -> list[dict[str, Any]]:
    """All that is known of each epoch done, none if there is none; without times where speed.jsonl has none.

    Raises:
        RunError: a file is damaged.
    """
    times = {row["epoch"]: row for row in _read(run.speed_file)}
    return [{**times.get(row["epoch"], {}), **row} for row in _read(run.metrics_file)]


def _write(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_bytes(file, "".join(json.dumps(row) + "\n" for row in rows).encode("ascii"))


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        lines = read_bytes(file).splitlines() if file.exists() else []
        rows = [parse_json(line) for line in lines]
        if not all(isinstance(row, dict) and isinstance(row.get("epoch"), int) for row in rows):
            raise ValueError("a line is not of an epoch")
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({error}).", "Restore it from a copy.") from None
    return rows
