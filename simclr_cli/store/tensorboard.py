"""Event files for TensorBoard: the epochs of a run once more, for those who look at runs there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

NOT_DRAWN = ("epoch", "health", "pictures", "held_out")


class EventFiles:
    """Writes a run's epochs to a folder of event files.

    Each start writes one file, which begins with all epochs so far and tells TensorBoard to forget those of older
    files: so the whole is right after any stop, even where epochs were done again, or once without --tensorboard.
    """

    def __init__(self, folder: Path, complain: Callable[[str], object]) -> None:
        self.folder = folder
        self._complain = complain
        self._refused = False
        self._writer: SummaryWriter | None = None

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The last of all rows so far, and at first those before it too; complains once if that is refused."""
        if self._refused:
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
            self._refused = True
            self._complain(f"Event files are no longer written to {self.folder}: {error.strerror or error}.")

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._writer is not None:
            with contextlib.suppress(OSError):  # complained of already, or nothing was left to write
                self._writer.close()


def scalars(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Tags and values of an epoch: those of its health as health/NAME; what was not measured is left out."""
    for prefix, part in (("", row), ("health/", row.get("health") or {})):
        for name, value in part.items():
            if name not in NOT_DRAWN and isinstance(value, int | float):
                yield prefix + name, float(value)
