"""Ctrl-C and SIGTERM, handled for a while."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def on_stop(handle: Callable[[int], None]) -> Iterator[None]:
    """Within, `handle(number)` is called on SIGINT and SIGTERM; afterwards they do what they did before."""
    before = {
        number: signal.signal(number, lambda number, _: handle(number)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
