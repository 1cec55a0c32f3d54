"""The end of a process of the command: at once."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator


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
