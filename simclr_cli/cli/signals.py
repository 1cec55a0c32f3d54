"""Ctrl-C, SIGTERM and SIGUSR1: a command stops, is saved, and its process ends."""

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
from simclr_cli.core.locks import release_locks

if TYPE_CHECKING:
    from simclr_cli.cli.console import Reporter
    from simclr_cli.core.events import StopController

STOP_NAMES = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGBREAK": "Ctrl-Break"}  # the last on Windows only
STOP_SIGNALS = tuple(getattr(signal, name) for name in STOP_NAMES if hasattr(signal, name))
SAVE_SIGNAL = getattr(signal, "SIGUSR1", None)  # Windows has none
SIGNALS = STOP_SIGNALS if SAVE_SIGNAL is None else (*STOP_SIGNALS, SAVE_SIGNAL)


@contextlib.contextmanager
def on_signal(handle: Callable[[int], None]) -> Iterator[None]:
    """Call `handle(number)` within on SIGINT, SIGTERM and SIGUSR1; restore the handlers afterwards.

    Python runs a handler between two bytecodes of the main thread, and a step of a large model is one of them for a
    minute. So the interpreter writes the number into a pipe, from the moment of the signal on, and a thread reads it.
    That thread needs the interpreter's lock, which the loading of a shared library holds for long.
    """
    reading, writing = os.pipe()
    if hasattr(os, "set_blocking"):  # Windows has had it since Python 3.12
        os.set_blocking(writing, False)
    outer = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    listener = threading.Thread(target=_listen, args=(reading, handle), daemon=True)
    listener.start()
    _mask("SIG_UNBLOCK")  # the parent process may have blocked them
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
        if number[0] in SIGNALS:
            handle(number[0])


@contextlib.contextmanager
def block_signals() -> Iterator[None]:
    """Within, signals wait: to this thread, and to a process started here until it handles them."""
    _mask("SIG_BLOCK")
    try:
        yield
    finally:
        _mask("SIG_UNBLOCK")


def _mask(how: str) -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(getattr(signal, how), SIGNALS)


SECONDS_TO_STOP = 2.5  # for a command to stop at an event, before another thread ends it
STOPPING = b"\nStopping (again: at once) ...\n"


def say_stopping() -> None:
    """Print that a stop was requested, without waiting for a lock."""
    with contextlib.suppress(OSError):  # stderr is closed
        os.write(2, STOPPING)


def create_interrupted(number: int) -> Interrupted:
    """Return the error that a signal ends a command with."""
    kind = Terminated if number == signal.SIGTERM else Interrupted
    return kind(f"Stopped by {STOP_NAMES[signal.Signals(number).name]}.", "Nothing was lost; run the command again.")


@contextlib.contextmanager
def stop_on_signal(reporter: Reporter, *, launched: bool = False) -> Iterator[None]:
    """Stop on the first Ctrl-C or SIGTERM at the next event, or from another thread if that takes too long.

    A training is then saved as its last whole step left it; other commands have nothing to save, since files appear
    whole. The second signal ends the command at once. SIGUSR1 saves a training, which continues.

    Of several processes the main one saves and ends so; the others end with it, or are ended by their launcher.

    Args:
        launched: whether another process has started this one as one of several, and says that they are stopping.
    """
    ending = threading.Lock()  # of the thread that ends the command: this one, or the timer's

    def end() -> None:
        ending.acquire()
        code = SimclrError.exit_code
        try:
            error = _save_before_end(reporter.stop)
            code = error.exit_code
            reporter.print_error(error)
        finally:
            _exit(code)

    timer = threading.Timer(SECONDS_TO_STOP, end)
    timer.daemon = True

    def handle(number: int) -> None:
        if number == SAVE_SIGNAL:
            if not reporter.quiet:  # in a thread of its own, since signals must be handled meanwhile
                threading.Thread(target=_save_now, args=(reporter,)).start()
            return
        if reporter.stop.request is not None:
            _exit(create_interrupted(number).exit_code)
        if not (reporter.quiet or launched):
            say_stopping()
        reporter.stop.request = create_interrupted(number)
        if not reporter.quiet:
            timer.start()

    with on_signal(handle):
        try:
            yield
        finally:
            timer.cancel()
            ending.acquire()


def _exit(code: int) -> NoReturn:
    """End the process from any thread."""
    try:
        release_locks()
    finally:
        os._exit(code)


def _save_before_end(stop: StopController) -> SimclrError:
    """Save the running training, if there is one, and return the error that the command ends with."""
    assert stop.request is not None
    if stop.training is None:
        return stop.request
    try:
        return stop.training.save_and_interrupt(type(stop.request))
    except SimclrError as error:
        return error
    except Exception as error:
        what = f"The last steps could not be saved ({type(error).__name__}: {error})."
        return SimclrError(what, "Resume from the last checkpoint with --resume, and report it.")


def _save_now(reporter: Reporter) -> None:
    if (training := reporter.stop.training) is None:
        reporter.print("Nothing to save: no training is running.")
        return
    try:
        step = training.save()
    except SimclrError as error:
        reporter.print(f"Not saved: {error.problem} {error.remedy}", "yellow")
    else:
        reporter.print(f"Saved at step {step}.")


@contextlib.contextmanager
def quick_end() -> Iterator[None]:
    """End the process by the SystemExit that is raised within, without tearing torch down, which takes a second.

    Threads are joined as ever, and functions registered with atexit from here on run before.
    """
    code: object = None

    def end() -> None:
        # Where stdout is closed or the disk is full, Python reports it and has an exit code.
        with contextlib.suppress(OSError):
            for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed before the start
                stream.flush()
            if isinstance(code, int):  # else a traceback, or a message, which Python prints
                os._exit(code)

    atexit.register(end)
    try:
        yield
    except SystemExit as leaving:
        code = leaving.code or 0
        raise
