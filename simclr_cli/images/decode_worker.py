"""The program that opens strangers' files, in a process of its own: whatever a file does to a decoder, it ends there.

It is asked by lines of JSON on stdin, `[function, [[path, ...], ...]]`, and answers each with a line of JSON, an
outcome for every call, and the bytes of all pixels that they name. It needs no torch, so that it is there at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from simclr_cli.core.errors import MachineError
from simclr_cli.images.decode import (
    BYTES_A_PIXEL,
    MAX_PIXELS,
    Header,
    UnavailableNow,
    UnusableImage,
    evaluation_crop,
    middle,
    read_header,
    small,
    squashed,
)
from simclr_cli.images.fingerprints import SMALL, Look, look

# What may be asked for, and what is made of an answer that is not pixels, as JSON has it.
FUNCTIONS: dict[Callable[..., Any], Callable[[Any], Any] | None] = {
    squashed: None,
    evaluation_crop: None,
    small: None,
    middle: None,
    read_header: lambda told: Header(str(told[0]), int(told[1]), int(told[2])),
    look: lambda told: Look(int(told[0]), np.array(told[1], np.uint8).reshape(3 * SMALL**2), float(told[2])),
}
BY_NAME = {function.__name__: function for function in FUNCTIONS}
OVERHEAD = 2**29  # bytes of addresses that a decoder has for other things than the image


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints is an answer
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True).start()
    _limit_memory()
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin.buffer:
        name, calls = json.loads(line)
        outcomes = [_outcome(BY_NAME[name], *call) for call in calls]
        answers.write(json.dumps([told for told, _ in outcomes]).encode() + b"\n")
        for _, pixels in outcomes:
            answers.write(pixels)
        answers.flush()


def _outcome(function: Callable[..., Any], path: str, *arguments: float) -> tuple[dict[str, Any], Any]:
    """What came of a call, for JSON; and the bytes that follow."""
    try:
        found = function(Path(path), *arguments)
    except UnusableImage as unusable:
        return {"skipped": unusable.reason} | ({"now": True} if isinstance(unusable, UnavailableNow) else {}), b""
    except MachineError as error:
        return {"machine": [error.what, error.remedy]}, b""
    if FUNCTIONS[function] is None:
        return {"shape": found.shape}, np.ascontiguousarray(found).data
    return {"value": [part.tolist() if isinstance(part, np.ndarray) else part for part in found]}, b""


def _limit_memory() -> None:
    """No more than the largest image needs; if the system runs out of it all the same, this process goes first."""
    with contextlib.suppress(ImportError, OSError, ValueError, IndexError):  # Windows, macOS
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        Path("/proc/self/oom_score_adj").write_text("1000")
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = used + MAX_PIXELS * BYTES_A_PIXEL + OVERHEAD
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _end_with(parent: int) -> None:
    """Where the parent was killed in the middle of an image, stdin is not looked at: end all the same."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)
