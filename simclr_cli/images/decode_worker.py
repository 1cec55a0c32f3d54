"""Program that decodes untrusted files in a process of its own, so that only this process ends on a harmful file.

Each request is a line of JSON on stdin, `[function, seconds, [[path, ...], ...]]`. The answer is a line of JSON with a
result for every call, then the bytes of all pixels that they announce. It imports no torch, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

import numpy as np

from simclr_cli.core.errors import MachineError
from simclr_cli.images.decode import (
    Header,
    decode_center_square,
    decode_evaluation_crop,
    decode_squashed,
    decode_thumbnail,
    read_header,
)
from simclr_cli.images.fingerprints import COLOR_SIDE, Fingerprint, compute_fingerprint
from simclr_cli.images.formats import BYTES_PER_PIXEL, MAX_PIXELS, TemporarilyUnusable, UnusableImage

FUNCTIONS: dict[Callable[..., Any], Callable[[Any], Any] | None] = {  # with the parser of an answer; None: pixels
    decode_squashed: None,
    decode_evaluation_crop: None,
    decode_thumbnail: None,
    decode_center_square: None,
    read_header: lambda value: Header(str(value[0]), int(value[1]), int(value[2]), int(value[3]), str(value[4])),
    compute_fingerprint: lambda value: Fingerprint(
        int(value[0]), np.array(value[1], np.uint8).reshape(3 * COLOR_SIDE**2), float(value[2])
    ),
}
BY_NAME = {function.__name__: function for function in FUNCTIONS}
COSTLY_SECONDS = 1  # of the processor's time
OVERHEAD_BYTES = 2**29  # of address space, for everything but the image


def main() -> None:
    """Answer requests, and exit when stdin ends."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What a library prints must not reach the answers. On Windows one that is loaded while a thread reads stdin may
    # wait until it gets something, so stdin becomes empty.
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    lines: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_receive, args=(requests, lines), daemon=True).start()
    _limit_memory()
    answers.write(b"ready\n")
    answers.flush()
    while True:
        name, seconds, calls = json.loads(lines.get())
        _limit_processor_time(seconds)
        results = [_run_call(BY_NAME[name], *call) for call in calls]
        answers.write(json.dumps([answer for answer, _ in results]).encode() + b"\n")
        for _, pixels in results:
            answers.write(pixels)
        answers.flush()


def _run_call(function: Callable[..., Any], path: str, *arguments: float | None) -> tuple[dict[str, Any], Any]:
    """Return the answer to a call, for JSON, and the bytes of its pixels."""
    start = time.process_time()
    try:
        result = function(Path(path), *arguments)
    except UnusableImage as unusable:
        is_costly = time.process_time() - start >= COSTLY_SECONDS
        kind = "now" if isinstance(unusable, TemporarilyUnusable) else "costly" if is_costly else "skipped"
        return {kind: unusable.reason}, b""
    except MachineError as error:
        return {"machine": [error.problem, error.remedy]}, b""
    if FUNCTIONS[function] is None:
        return {"shape": result.shape}, np.ascontiguousarray(result).data
    return {"value": [part.tolist() if isinstance(part, np.ndarray) else part for part in result]}, b""


def _limit_memory() -> None:
    """Limit memory to that of the largest image; if the system runs out all the same, it kills this process first."""
    if sys.platform == "win32":  # which has no limits; mypy reads this comparison
        return
    import resource

    with contextlib.suppress(OSError, ValueError, IndexError):  # macOS
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        Path("/proc/self/oom_score_adj").write_text("1000")
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = used + MAX_PIXELS * BYTES_PER_PIXEL + OVERHEAD_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _limit_processor_time(seconds: int) -> None:
    """Have the system end this process once it has used so much more of the processor's time."""
    if sys.platform == "win32":
        return
    import resource

    with contextlib.suppress(OSError, ValueError):
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = math.ceil(used.ru_utime + used.ru_stime) + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _receive(requests: IO[bytes], lines: SimpleQueue[bytes]) -> None:
    """Pass the requests on, and exit when they end, as they do with the command: even in the middle of an image.

    The parent process says nothing: in a virtual environment on Windows it is not the command, but a launcher.
    """
    for line in requests:
        lines.put(line)
    os._exit(0)
