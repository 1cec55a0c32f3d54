"""How a process of the command ends: at once, and not when the interpreter has been taken apart."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quick_end() -> Iterator[None]:
    """Let the process end with the exit code of the SystemExit that is raised within, as soon as it is on its way out.

    Otherwise Python takes apart the modules of torch and timm, for a second. Threads are waited for as ever, and what
    is registered with atexit from here on is called before.
    """
    codes: list[object] = []

    def end() -> None:
        code = codes[0] if codes else None
        if not isinstance(code, int):  # a traceback, or a message, which Python prints
            return
        with contextlib.suppress(OSError):  # nobody reads, or a full disk: Python has words and a code for it
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    atexit.register(end)
    try:
        yield
    except SystemExit as leaving:
        codes.append(leaving.code or 0)
        raise
