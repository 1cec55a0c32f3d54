"""History of a run: metrics and times of every epoch, also as event files of TensorBoard."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simclr_cli.core.errors import RunError
from simclr_cli.core.events import EpochDone, ValidationMetrics
from simclr_cli.core.files import write_bytes
from simclr_cli.core.safe_read import parse_json, read_bytes
from simclr_cli.store.run import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

TIMING_KEYS = ("images_per_second", "seconds")
NUMBERS = {field.name for kind in (EpochDone, ValidationMetrics) for field in fields(kind)} - {"validation"}


def write_epochs(run: RunFolder, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write metrics.jsonl and speed.jsonl completely, one object per epoch."""
    _write_rows(run.speed_file, ({name: row[name] for name in ("epoch", *TIMING_KEYS)} for row in rows))
    _write_rows(run.metrics_file, ({name: row[name] for name in row if name not in TIMING_KEYS} for row in rows))


def read_epochs(run: RunFolder) -> list[dict[str, Any]]:
    """Return metrics and times of each finished epoch; times are absent where speed.jsonl has none.

    Raises:
        RunError: a file is damaged.
    """
    times = {row["epoch"]: row for row in _read_rows(run.speed_file)}
    return [{**times.get(row["epoch"], {}), **row} for row in _read_rows(run.metrics_file)]


def _write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_bytes(file, "".join(json.dumps(row) + "\n" for row in rows).encode("ascii"))


def _read_rows(file: Path) -> list[dict[str, Any]]:
    try:
        lines = read_bytes(file).splitlines() if file.exists() else []
        rows = [parse_json(line) for line in lines]
        if not all(isinstance(row, dict) and isinstance(row.get("epoch"), int) and _has_numbers(row) for row in rows):
            raise ValueError("a line is not an epoch")
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{file} cannot be read ({error}).", "Restore it from a backup.") from None
    return rows


def _has_numbers(row: Mapping[str, Any]) -> bool:
    """Return whether the values of an epoch, and those of its validation, are numbers or missing, as far as known."""
    values = {**row, **(row.get("validation") or {})}
    return all(values.get(name) is None or isinstance(values[name], int | float) for name in NUMBERS)


UNPLOTTED_KEYS = ("epoch", "validation", "images", "held_out")


class TensorBoardWriter:
    """Writer of event files, one per start of the run.

    Each file begins with all epochs so far and purges those of older files. So the curves are correct after any
    interruption, even if epochs were repeated or trained without --tensorboard.
    """

    def __init__(self, folder: Path, warn: Callable[[str], object]) -> None:
        self.folder = folder
        self._warn = warn
        self._has_failed = False
        self._writer: SummaryWriter | None = None

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the last of the rows so far, and on the first call all of them; warn once if writing fails."""
        if self._has_failed:
            return
        new_rows = rows if self._writer is None else rows[-1:]
        end_time = time.time() - sum(row.get("seconds") or 0 for row in new_rows)
        try:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self.folder), purge_step=1)
            for row in new_rows:
                end_time += row.get("seconds") or 0
                for name, value in flatten_metrics(row):
                    self._writer.add_scalar(name, value, row["epoch"], walltime=end_time)
            self._writer.flush()
        except OSError as error:
            self._has_failed = True
            self._warn(f"Event files are no longer written to {self.folder}: {error.strerror or error}.")

    def close(self) -> None:
        """Close the event file, if there is one."""
        if self._writer is not None:
            with contextlib.suppress(OSError):  # the user is warned already, or nothing was left to write
                self._writer.close()


def flatten_metrics(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield tag and value of each measured metric of an epoch; validation metrics have the tag validation/NAME."""
    for prefix, part in (("", row), ("validation/", row.get("validation") or {})):
        for name, value in part.items():
            if name not in UNPLOTTED_KEYS and isinstance(value, int | float):
                yield prefix + name, float(value)
