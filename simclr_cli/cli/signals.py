"""Signals, noticed at once: in a thread of its own, whatever the main one is doing."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

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
