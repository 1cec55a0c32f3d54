"""Decoding in other processes, so that a file that crashes a decoder, or never ends, costs one image and no more."""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from simclr_cli.core.errors import MachineError
from simclr_cli.images.decode import UnavailableNow, UnusableImage, small
from simclr_cli.images.decode_worker import FUNCTIONS
from simclr_cli.images.threads import attempt

SECONDS = 25  # that an image may take, and a second more for every MiB of its file: less than 30 until all goes on
START_SECONDS = 60  # that a decoder may take to start, on a machine that is busy
STARTS = 3  # tries, where the system kills one that starts
GRACE = 1  # seconds from the end of its answers to its own: what it ended by is told, and not that it was killed here
MOST_BYTES = 2**20  # of a line that a decoder answers: of 32 headers, or 8 looks
IDLE_SECONDS = 30  # that a decoder is kept for the next image
# With the paths of this process and nothing else: a module of the folder that the command is run in is not loaded.
PROGRAM = "import sys; sys.path[:] = sys.argv[2:]; from simclr_cli.images.decode_worker import main; main()"

R = TypeVar("R")
P = ParamSpec("P")


def apart(function: Callable[P, R], workers: int) -> Callable[P, R]:
    """One of `decoder.FUNCTIONS`, done by a decoder process; with 0 workers by this one.

    The process is taken from those that wait, or started. What it is asked by positional arguments, a path first.

    Raises:
        UnusableImage: as the function; and twice in a row the decoder ended on the file, or took too long.
        MachineError: no such process can be started.
    """
    many = apart_many(function, workers)

    def one(*arguments: P.args, **_: P.kwargs) -> R:
        (found,) = many([arguments])
        if isinstance(found, UnusableImage):
            raise found
        return found

    return one


def apart_many(
    function: Callable[..., R], workers: int
) -> Callable[[Sequence[tuple[Any, ...]]], Sequence[R | UnusableImage]]:
    """The same for many calls at once, where each takes less time than to ask for it."""
    if not workers:
        return lambda calls: [attempt(function, *arguments) for arguments in calls]
    assert function in FUNCTIONS
    return partial(_ask, function)


class _Ended(Exception):
    """A decoder is no more; the message says why, in a few words."""


class _Decoder:
    """A process that runs images/decode_worker.py, and is busy with what it was asked, or waits to be asked.

    `seconds` are what it has left for that. They are counted and not read from a clock, so that no time passes while
    the machine or this process sleeps.
    """

    def __init__(self) -> None:
        self.busy, self.seconds = True, START_SECONDS
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", PROGRAM, str(os.getpid()), *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            process_group=0,  # Ctrl-C in the terminal is for the command, which says what is to end
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.requests, self.answers = self.process.stdin, self.process.stdout
        with _lock:
            _all.append(self)
            _watch()

    def ask(self, function: Callable[..., R], calls: Sequence[tuple[Any, ...]]) -> list[R | UnusableImage]:
        """What came of the calls; _Ended is raised where the process has."""
        paths = [str(path.absolute()) for path, *_ in calls]  # wherever it was started
        self.seconds = allowed = SECONDS + math.ceil(sum(map(_bytes, paths)) / 2**20)
        asked = [[path, *arguments] for path, (_, *arguments) in zip(paths, calls, strict=True)]
        try:
            self.requests.write(json.dumps([function.__name__, asked]).encode() + b"\n")
            self.requests.flush()
            told = json.loads(self.answers.readline(MOST_BYTES))
            found = [self._result(function, call, one) for call, one in zip(calls, told, strict=True)]
        except MachineError:
            self.end()  # it would go on with the answers to the other calls
            raise
        except Exception:  # it has ended; or, taken over by what it decoded, it may answer anything
            code = self.end(GRACE)
            cause = f"decoding it took over {allowed} s" if self.seconds < 0 else _cause(code)
            raise _Ended(cause) from None
        self.seconds = IDLE_SECONDS
        self.busy = False
        return found

    def _result(self, function: Callable[..., R], call: Sequence[Any], told: dict[str, Any]) -> R | UnusableImage:
        if "machine" in told:
            raise MachineError(*told["machine"])
        if "skipped" in told:
            return (UnavailableNow if told.get("now") else UnusableImage)(str(told["skipped"]))
        if restored := FUNCTIONS[function]:
            return restored(told["value"])  # type: ignore[no-any-return]
        height, width, channels = told["shape"]
        side = call[1]
        if channels != 3 or max(height, width) > side or (function is not small and min(height, width) < side):
            raise ValueError
        pixels = np.empty((height, width, 3), np.uint8)
        if self.answers.readinto(pixels.reshape(-1).data) < pixels.nbytes:  # type: ignore[attr-defined]
            raise EOFError
        return pixels  # type: ignore[return-value]

    def end(self, grace: float = 0) -> int | None:
        """Forget it; its exit code, or None if it did not end by itself in so many seconds, and was killed."""
        with _lock:
            if self in _all:
                _all.remove(self)
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self.process.wait(grace)
        self.process.kill()
        self.process.wait()
        for stream in (self.requests, self.answers):
            with contextlib.suppress(OSError):
                stream.close()
        return code


def _cause(code: int | None) -> str:
    """Why a decoder gave no answer, by its exit code."""
    if code is None:
        return "its decoder answered nonsense"
    if code == -signal.SIGKILL:
        return "its decoder was killed (SIGKILL), most likely for lack of memory"
    return f"the decoder crashed on it ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"


_lock = threading.RLock()
_all: list[_Decoder] = []


def _ask(function: Callable[..., R], calls: Sequence[tuple[Any, ...]]) -> Sequence[R | UnusableImage]:
    """By a decoder; once more by a fresh one if that ends."""
    try:
        return _taken().ask(function, calls)
    except _Ended:
        if len(calls) > 1:
            return [found for call in calls for found in _ask(function, [call])]
    _await(calls[0][0])
    try:
        return _started().ask(function, calls)
    except _Ended as ended:
        return [UnavailableNow(str(ended))]


def _await(path: Path) -> None:
    """Wait for a disk or a network share that stalls: only what can be read may take too long to decode."""
    with contextlib.suppress(OSError):  # the next decoder says what is wrong with it
        if stat.S_ISREG(path.stat().st_mode):
            with path.open("rb") as stream:
                while stream.read(2**20):
                    pass


def _taken() -> _Decoder:
    """One that waits, or a fresh one."""
    with _lock:
        for decoder in _all:
            if not decoder.busy:
                decoder.busy, decoder.seconds = True, SECONDS
                return decoder
    return _started()


def _started() -> _Decoder:
    """A fresh one, that is ready."""
    remedy = "Decode in this process: --workers 0."
    for _ in range(STARTS):
        try:
            decoder = _Decoder()
        except OSError as error:
            raise MachineError(f"No process that decodes images can be started ({error.strerror}).", remedy) from None
        if decoder.answers.readline() == b"ready\n":
            return decoder
        code = decoder.end(GRACE)
        if code is None or code > 0:  # by itself: it would again
            break
    raise MachineError(f"A process that decodes images ended as it started (exit code {code}).", remedy)


@cache
def _watch() -> None:
    """See to it that time is counted, and that no decoder outlives this process."""
    threading.Thread(target=_keep, name="keeper of decoders", daemon=True).start()
    atexit.register(_end_all)


def _keep() -> None:
    """Count the seconds of all decoders, and kill those that have none left."""
    while True:
        time.sleep(1)
        with _lock:
            for decoder in _all:
                decoder.seconds -= 1
                if decoder.seconds < 0 and decoder.busy:
                    decoder.process.kill()  # who waits for its answer ends it
                elif decoder.seconds < 0:
                    decoder.end()


def _end_all() -> None:
    while _all:
        _all[-1].end()


def _bytes(path: str) -> int:
    with contextlib.suppress(OSError):
        return Path(path).stat().st_size
    return 0
