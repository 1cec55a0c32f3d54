"""How a command is asked to stop, by Ctrl-C, SIGTERM and SIGUSR1, and how its process ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

from simclr_cli.core.errors import Interrupted, SimclrError, Terminated
from simclr_cli.core.locks import remove_lock_files

if TYPE_CHECKING:
    from simclr_cli.cli.console import Face

STOPS = (signal.SIGINT, signal.SIGTERM)
SAVE = getattr(signal, "SIGUSR1", None)  # Windows has none
HEARD = STOPS if SAVE is None else (*STOPS, SAVE)


@contextlib.contextmanager
def on_signal(handle: Callable[[int], None]) -> Iterator[None]:
    """Within, `handle(number)` is called on SIGINT, SIGTERM and SIGUSR1; afterwards they do what they did before.

    Python runs a handler between two bytecodes of the main thread, and a step of a large model is one of them for a
    minute. So the interpreter writes the number into a pipe, from the moment of the signal on, and a thread reads it.
    It needs the interpreter's lock for that: what holds it long (the loading of a shared library) is what it waits for.
    """
    reading, writing = os.pipe()
    if hasattr(os, "set_blocking"):  # Windows has had it since Python 3.12
        os.set_blocking(writing, False)
    outer = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in HEARD}
    listener = threading.Thread(target=_listen, args=(reading, handle), daemon=True)
    listener.start()
    _mask("SIG_UNBLOCK")  # if whoever started this process has held them back
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(outer)
        os.close(writing)
        listener.join()
        os.close(reading)


def _listen(reading: int, handle: Callable[[int], None]) -> None:
    while number := os.read(reading, 1):
        if number[0] in HEARD:
            handle(number[0])


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Within, signals wait: those to this thread, and those to a process that is started here until it listens."""
    _mask("SIG_BLOCK")
    try:
        yield
    finally:
        _mask("SIG_UNBLOCK")


def _mask(how: str) -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(getattr(signal, how), HEARD)


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


@contextlib.contextmanager
def quick_end() -> Iterator[None]:
    """Let the process end by the SystemExit that is raised within, without taking torch apart, which takes a second.

    Threads are waited for as ever, and what is registered with atexit from here on is called before.
    """
    code: object = None

    def end() -> None:
        with contextlib.suppress(OSError):  # nobody reads, or a full disk: Python has words and a code for it
            for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed before it began
                stream.flush()
            if isinstance(code, int):  # else a traceback, or a message, which Python prints
                os._exit(code)

    atexit.register(end)
    try:
        yield
    except SystemExit as leaving:
        code = leaving.code or 0
        raise
