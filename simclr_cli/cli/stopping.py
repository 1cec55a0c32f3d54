"""What a command does on Ctrl-C and SIGTERM, and on SIGUSR1, whatever its main thread is doing."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from simclr_cli.cli.signals import SAVE, on_signal
from simclr_cli.core.errors import Interrupted, SimclrError, Terminated
from simclr_cli.core.locks import remove_lock_files

if TYPE_CHECKING:
    from simclr_cli.cli.console import Face

PATIENCE = 2.5  # seconds that a command has to stop by itself, before it is ended from another thread
WORD = b"\nStopping (again: at once) ...\n"


def say_stopping() -> None:
    """The word that a stop was heard; it waits for no lock."""
    with contextlib.suppress(OSError):  # no one reads any more
        os.write(2, WORD)


def asked_for(number: int) -> Interrupted:
    """The stop that a signal asks for."""
    kind, name = (Interrupted, "Ctrl-C") if number == signal.SIGINT else (Terminated, "SIGTERM")
    return kind(f"Stopped by {name}.", "Nothing was lost; type the command again.")


@contextlib.contextmanager
def stoppable(face: Face, *, led: bool = False) -> Iterator[None]:
    """First Ctrl-C or SIGTERM: a word, a stop at the next event, and the end when it is too long in coming.

    A training is then saved as its last whole step left it; other commands have nothing to save, since files appear
    whole. The second one ends the command at once. SIGUSR1 saves a training, which goes on.

    Of several processes the first one saves and ends so; the others end by themselves, or by who started them.

    Args:
        led: whether another process has started this one as one of several, and says the word.
    """
    ending = threading.Lock()  # of the one who ends the command: this thread, or the timer's

    def end() -> None:
        ending.acquire()
        code = SimclrError.exit_code
        try:
            error = _last_words(face)
            code = error.exit_code
            face.error(error)
        finally:
            _exit(code)

    timer = threading.Timer(PATIENCE, end)
    timer.daemon = True

    def handle(number: int) -> None:
        if number == SAVE:
            if not face.quiet:
                threading.Thread(target=_save, args=(face,)).start()  # a stop must be heard meanwhile
            return
        if face.stop is not None:
            _exit(asked_for(number).exit_code)
        if not (face.quiet or led):
            say_stopping()
        face.stop = asked_for(number)
        if not face.quiet:
            timer.start()

    with on_signal(handle):
        try:
            yield
        finally:
            timer.cancel()
            ending.acquire()


def _exit(code: int) -> NoReturn:
    """End the process from whichever thread."""
    remove_lock_files()
    os._exit(code)


def _last_words(face: Face) -> SimclrError:
    """Save what there is to save; what a command ends with."""
    assert face.stop is not None
    if face.training is None:
        return face.stop
    try:
        return face.training.stopped(type(face.stop))
    except SimclrError as error:
        return error
    except Exception as error:
        what = f"The last steps could not be saved ({type(error).__name__}: {error})."
        return SimclrError(what, "Go on with --resume from the last checkpoint, and report it.")


def _save(face: Face) -> None:
    if face.training is None:
        face.say("Nothing to save now: no training is under way.")
        return
    try:
        step = face.training.save()
    except SimclrError as error:
        face.say(f"Not saved: {error.what} {error.remedy}", "yellow")
    else:
        face.say(f"Saved at step {step}.")
