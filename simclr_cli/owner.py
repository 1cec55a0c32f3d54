"""Which process something is of, so that any other can tell whether that one is still there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from functools import cache
from pathlib import Path


def host() -> str:
    """The name of this machine, or of its container."""
    return platform.node()


@cache
def system() -> str:
    """Eight hexadecimal digits, of this start of this machine or container: elsewhere its process ids say nothing."""
    parts = [host()]
    with contextlib.suppress(OSError):  # not Linux
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), str(Path("/proc/self/ns/pid").readlink())]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:8]


def started(pid: int) -> str:
    """When a process of this system began, in its own measure; "" where that is not known."""
    return _status(pid)[1]


def is_gone(of: str, pid: int, began: str = "") -> bool:
    """Whether a process certainly is no more; False where that cannot be told.

    Args:
        of: the `system` that it is of.
        began: when, by `started`.
    """
    if of != system() or pid <= 0 or sys.platform == "win32":  # there, os.kill would do something to it
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        pass  # another user's
    state, now = _status(pid)
    return state in ("Z", "X") or bool(began and now and began != now)


def _status(pid: int) -> tuple[str, str]:
    """The letter of its state, and its start in ticks since the machine's; nothing where there is no such file."""
    with contextlib.suppress(OSError, IndexError):
        words = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return words[0], words[19]
    return "", ""
