"""A run folder for this process alone while it trains, and the way on when the disk refuses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from simclr_cli.atomic import remove_strays
from simclr_cli.errors import RunError
from simclr_cli.events import Report
from simclr_cli.files import NotWritten
from simclr_cli.locks import locked
from simclr_cli.store.run import RunFolder


@contextlib.contextmanager
def alone(run: RunFolder, report: Report, *, resumed: bool) -> Iterator[None]:
    """Within, no other process trains in this folder.

    Raises:
        Busy: another one does.
        RunError: another one has begun the run since this one found its name free.
        NotWritten: from within, with the command that goes on with the run.
    """
    with locked(run.path, report):
        if run.begun and not resumed:
            raise RunError(f"The run {run.path} was begun by another process.", "Type the command again.")
        remove_strays(run.checkpoints, 0)
        try:
            yield
        except NotWritten as error:
            if not run.begun or run.finished:
                raise
            remedy = f"Make room or give back the right to write, then go on with: {run.resume_command}"
            raise NotWritten(error.what, remedy, forbidden=error.forbidden) from error
