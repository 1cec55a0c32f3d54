"""A word when no picture has come for a while: the disk or the network share that holds them may be slow, or gone."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from simclr_cli.wording import duration

if TYPE_CHECKING:
    from simclr_cli.cli.console import Face

PATIENCE = 30.0  # seconds
LOOK_EVERY = 1.0  # second
STALLED = (
    "No picture has been read for {}: is the disk or the network share that holds them slow, or gone? "
    "It goes on by itself when they come; Ctrl-C stops, and what was made is kept."
)


@contextlib.contextmanager
def stalls_told(face: Face) -> Iterator[None]:
    """Meanwhile, say so once when this thread has waited for pictures as long as that without an event.

    Looks are counted instead of a clock being read, so that no time passes while the machine sleeps.
    """
    over, watched = threading.Event(), threading.get_ident()

    def watch() -> None:
        waited, heard = 0.0, face.heard
        while not over.wait(LOOK_EVERY):
            if face.heard != heard or not waits_for_pictures(sys._current_frames().get(watched)):
                if waited >= PATIENCE:
                    face.say(f"It goes on, after {duration(waited)}.")
                waited, heard = 0.0, face.heard
                continue
            waited += LOOK_EVERY
            if PATIENCE <= waited < PATIENCE + LOOK_EVERY:
                face.say(STALLED.format(duration(waited)), "yellow")

    thread = threading.Thread(target=watch, name="stalls", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def waits_for_pictures(frame: FrameType | None) -> bool:
    """Whether a thread is, by its innermost frame, in a function that reads pictures."""
    while frame is not None and not frame.f_globals.get("__name__", "").startswith("simclr_cli.images."):
        frame = frame.f_back
    return frame is not None
