"""The history of a run: metrics and times of every epoch, also as event files of TensorBoard."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simclr_cli.core.errors import RunError
from simclr_cli.core.files import write_bytes
from simclr_cli.core.safe_read import parse_json, read_bytes
from simclr_cli.store.run import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

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


NOT_DRAWN = ("epoch", "validation", "images", "held_out")


class EventFiles:
    """Writes a run's epochs to a folder of event files.

    Each start writes one file, which begins with all epochs so far and tells TensorBoard to forget those of older
    files: so the whole is right after any stop, even where epochs were done again, or once without --tensorboard.
    """

    def __init__(self, folder: Path, complain: Callable[[str], object]) -> None:
        self.folder = folder
        self._complain = complain
        self._skipped = False
        self._writer: SummaryWriter | None = None

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The last of all rows so far, and at first those before it too; complains once if that is skipped."""
        if self._skipped:
            return
        new = rows if self._writer is None else rows[-1:]
        ended = time.time() - sum(row.get("seconds") or 0 for row in new)
        try:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self.folder), purge_step=1)
            for row in new:
                ended += row.get("seconds") or 0
                for name, value in scalars(row):
                    self._writer.add_scalar(name, value, row["epoch"], walltime=ended)
            self._writer.flush()
        except OSError as error:
            self._skipped = True
            self._complain(f"Event files are no longer written to {self.folder}: {error.strerror or error}.")

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._writer is not None:
            with contextlib.suppress(OSError):  # complained of already, or nothing was left to write
                self._writer.close()


def scalars(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the tags and values of an epoch that were measured; its validation metrics as validation/NAME."""
    for prefix, part in (("", row), ("validation/", row.get("validation") or {})):
        for name, value in part.items():
            if name not in NOT_DRAWN and isinstance(value, int | float):
                yield prefix + name, float(value)
