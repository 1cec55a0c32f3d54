"""Pool of decoder processes, so that a file that crashes a decoder, or never ends, costs only that image."""

from __future__ import annotations

import atexit
import contextlib
import json
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
from simclr_cli.images.decode import decode_thumbnail
from simclr_cli.images.decode_worker import FUNCTIONS
from simclr_cli.images.formats import MAX_FILE_BYTES, CostlyUnusable, TemporarilyUnusable, UnusableImage
from simclr_cli.images.threads import catch_unusable

PROCESSOR_SECONDS = 30  # for the images of a request; then each is tried alone
WALL_SECONDS = 2 * PROCESSOR_SECONDS  # on a busy machine, or where the system does not limit the processor's time
UNUSABLE = {"skipped": UnusableImage, "costly": CostlyUnusable, "now": TemporarilyUnusable}  # by the kind of answer
START_SECONDS = 60  # for a decoder to start, on a busy machine
MAX_STARTS = 3  # tries, where the system kills a starting decoder
GRACE_SECONDS = 1  # from the end of a decoder's answers to its exit, so that its own exit code is seen
MAX_ANSWER_BYTES = 2**20  # of one line: 32 headers or 8 fingerprints
OUT_OF_TIME = getattr(signal, "SIGXCPU", None) or 0  # Windows has none
WINDOWS_ENDS = {0xC0000005: "access violation", 0xC00000FD: "stack overflow", 0xC0000374: "heap corruption"}
IDLE_SECONDS = 30  # until an unused decoder ends
# The paths of this process only, so that no module of the working directory is loaded.
PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from simclr_cli.images.decode_worker import main; main()"

R = TypeVar("R")
P = ParamSpec("P")


def isolate(function: Callable[P, R], workers: int) -> Callable[P, R]:
    """Return one of `decode_worker.FUNCTIONS`, run in a decoder process; with 0 workers in this one.

    The decoder is an idle one or a new one. The returned function takes positional arguments, a path first.

    Raises:
        UnusableImage: as the function; or the decoder ended on the file twice in a row, or took too long.
        MachineError: no decoder can be started.
    """
    call_many = isolate_batch(function, workers)

    def call(*arguments: P.args, **_: P.kwargs) -> R:
        (result,) = call_many([arguments])
        if isinstance(result, UnusableImage):
            raise result
        return result

    return call


def isolate_batch(
    function: Callable[..., R], workers: int
) -> Callable[[Sequence[tuple[Any, ...]]], Sequence[R | UnusableImage]]:
    """Return the same for many calls at once, where each call is cheaper than the request for it."""
    if not workers:
        return lambda calls: [catch_unusable(function, *arguments) for arguments in calls]
    assert function in FUNCTIONS
    return partial(_ask_decoder, function)


class _DecoderEnded(Exception):
    """The end of a decoder; the message is the reason, in a few words."""


class _TooSlow(_DecoderEnded):
    """The end of a decoder that took too much of the processor's time, as it would again."""


class _Decoder:
    """A process that runs images/decode_worker.py, busy with a request or idle.

    `seconds` is the time that it has left. A thread counts it down, because a clock would also count the time during
    which the machine or this process is suspended.
    """

    def __init__(self) -> None:
        self.is_busy, self.seconds = True, START_SECONDS
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", PROGRAM, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            # Ctrl-C in the terminal reaches the command only, which ends its decoders.
            process_group=0,  # Windows ignores it
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.requests, self.answers = self.process.stdin, self.process.stdout
        with _lock:
            _decoders.append(self)
            _start_timer()

    def ask(self, function: Callable[..., R], calls: Sequence[tuple[Any, ...]]) -> list[R | UnusableImage]:
        """Return the results of the calls.

        Raises:
            _DecoderEnded: this process ended, took too long, or sent an invalid answer.
            MachineError: the disk or the network share fails.
        """
        paths = [str(path.absolute()) for path, *_ in calls]  # the decoder may have another working directory
        self.seconds = WALL_SECONDS
        request = [[path, *arguments] for path, (_, *arguments) in zip(paths, calls, strict=True)]
        try:
            self.requests.write(json.dumps([function.__name__, PROCESSOR_SECONDS, request]).encode() + b"\n")
            self.requests.flush()
            answers = json.loads(self.answers.readline(MAX_ANSWER_BYTES))
            results = [self._result(function, call, answer) for call, answer in zip(calls, answers, strict=True)]
        except MachineError:
            self.end()  # the answers to the other calls would follow
            raise
        except Exception:  # it ended; or, compromised by what it decoded, it may answer anything
            code = self.end(GRACE_SECONDS)
            if OUT_OF_TIME and code == -OUT_OF_TIME:
                raise _TooSlow(f"decoding it took over {PROCESSOR_SECONDS} s of the processor's time") from None
            raise _DecoderEnded(
                f"decoding it took over {WALL_SECONDS} s" if self.seconds < 0 else _cause(code)
            ) from None
        self.seconds = IDLE_SECONDS
        self.is_busy = False
        return results

    def _result(self, function: Callable[..., R], call: Sequence[Any], answer: dict[str, Any]) -> R | UnusableImage:
        if "machine" in answer:
            raise MachineError(*answer["machine"])
        if kind := next((kind for kind in UNUSABLE if kind in answer), None):
            return UNUSABLE[kind](str(answer[kind]))
        if parse := FUNCTIONS[function]:
            return parse(answer["value"])  # type: ignore[no-any-return]
        height, width, channels = answer["shape"]
        side = call[1]
        is_too_small = function is not decode_thumbnail and min(height, width) < side
        if channels != 3 or max(height, width) > side or is_too_small:
            raise ValueError
        pixels = np.empty((height, width, 3), np.uint8)
        if self.answers.readinto(pixels.reshape(-1).data) < pixels.nbytes:  # type: ignore[attr-defined]
            raise EOFError
        return pixels  # type: ignore[return-value]

    def end(self, grace: float = 0) -> int | None:
        """End this process; return its exit code, or None if it was still running after `grace` seconds."""
        with _lock:
            if self in _decoders:
                _decoders.remove(self)
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
    """Return why a decoder did not answer, by its exit code."""
    if code is None:
        return "its decoder sent an invalid answer"
    end = signal.Signals(-code).name if code < 0 else WINDOWS_ENDS.get(code, f"exit code {code}")
    if end == "SIGKILL":
        return "its decoder was killed (SIGKILL), most likely for lack of memory"
    return f"the decoder crashed on it ({end})"


_lock = threading.RLock()
_decoders: list[_Decoder] = []


def _ask_decoder(function: Callable[..., R], calls: Sequence[tuple[Any, ...]]) -> Sequence[R | UnusableImage]:
    """Return the results of the calls by a decoder; once more, one by one, by a new one if that ends."""
    try:
        return _acquire_decoder().ask(function, calls)
    except _DecoderEnded as ended:
        if len(calls) > 1:
            return [result for call in calls for result in _ask_decoder(function, [call])]
        if isinstance(ended, _TooSlow):
            return [CostlyUnusable(str(ended))]
    _wait_for_file(calls[0][0])
    try:
        return _start_decoder().ask(function, calls)
    except _TooSlow as ended:
        return [CostlyUnusable(str(ended))]
    except _DecoderEnded as ended:
        return [TemporarilyUnusable(str(ended))]


def _wait_for_file(path: Path) -> None:
    """Read a file, however long a stalled disk or share takes, so that the next time limit counts decoding only."""
    with contextlib.suppress(OSError):  # the next decoder reports it
        if stat.S_ISREG(path.stat().st_mode):
            with path.open("rb") as stream:  # a sparse one may have no end
                while stream.tell() < MAX_FILE_BYTES and stream.read(2**20):
                    pass


def _acquire_decoder() -> _Decoder:
    """Return an idle decoder, or a new one."""
    with _lock:
        for decoder in _decoders:
            if not decoder.is_busy:
                decoder.is_busy, decoder.seconds = True, WALL_SECONDS
                return decoder
    return _start_decoder()


def _start_decoder() -> _Decoder:
    """Return a new decoder that is ready."""
    remedy = "Use --workers 0 to decode in this process."
    for _ in range(MAX_STARTS):
        try:
            decoder = _Decoder()
        except OSError as error:
            raise MachineError(f"A decoder process cannot be started ({error.strerror}).", remedy) from None
        if decoder.answers.readline() == b"ready\n":
            return decoder
        code = decoder.end(GRACE_SECONDS)
        if code is None or code > 0:  # not killed by the system: another try would end the same way
            break
    raise MachineError(f"A decoder process ended as it started (exit code {code}).", remedy)


@cache
def _start_timer() -> None:
    """Start the thread that counts time, and end all decoders when this process ends."""
    threading.Thread(target=_count_seconds, name="decoder timer", daemon=True).start()
    atexit.register(_end_all)


def _count_seconds() -> None:
    """Count down the seconds of all decoders, and end those that have none left."""
    while True:
        time.sleep(1)
        with _lock:
            for decoder in _decoders:
                decoder.seconds -= 1
                if decoder.seconds < 0 and decoder.is_busy:
                    decoder.process.kill()  # the thread that waits for its answer ends it
                elif decoder.seconds < 0:
                    decoder.end()


def _end_all() -> None:
    while _decoders:
        _decoders[-1].end()
