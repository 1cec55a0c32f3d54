"""Runs the command in forks of a process that has imported it, to be killed or to meet faults: JSON in, JSON out.

In, a line each: arguments, cwd, out (a file for what it prints), and optionally
    kill_after   seconds, after which it gets a SIGKILL
    fault        [n, name of an error, roots]: the n-th operation, from 0, that changes something below the roots fails;
                 EIO once, ENOSPC and EACCES from then on, where a full disk or a right taken away would
Out: code (null: killed), met (the operations that could have failed, up to the one that did).
"""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import simclr_cli
from simclr_cli.cli import app, console, results  # noqa: F401 (imported before there are forks)

KINDS = {  # which operations an error is of, and whether it stays
    "EIO": ({"create", "open folder", "mkdir", "write", "fsync", "replace", "rename", "link", "unlink"}, False),
    "ENOSPC": ({"create", "mkdir", "write", "fsync", "link"}, True),
    "EACCES": ({"create", "open folder", "mkdir", "replace", "rename", "link", "unlink"}, True),
}


class Faults:
    """The n-th operation fails."""

    def __init__(self, n: int, error: str, roots: list[str]) -> None:
        self.n, self.error, self.roots = n, getattr(errno, error), roots
        self.kinds, self.stays = KINDS[error]
        self.met: list[str] = []

    def check(self, kind: str, path: Any) -> None:
        """Raise the error if it is this operation's turn."""
        if not isinstance(path, str | bytes | os.PathLike) or kind not in self.kinds:
            return
        whole = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        if not any(whole == root or whole.startswith(f"{root}/") for root in self.roots):
            return
        if len(self.met) > self.n and not self.stays:
            return
        if len(self.met) <= self.n:
            self.met.append(f"{kind} {whole}")
        if len(self.met) > self.n:
            raise OSError(self.error, os.strerror(self.error), whole)

    def install(self) -> None:
        """Put itself before the system's operations."""
        opened, fsync, io_open = os.open, os.fsync, io.open

        def before(kind: str, plain: Callable[..., Any], where: int) -> Callable[..., Any]:
            def operation(*given: Any, **more: Any) -> Any:
                self.check(kind, given[where])
                return plain(*given, **more)

            return operation

        def faulty_open(path: Any, flags: int, *given: Any, **more: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR):
                self.check("create", path)
            elif os.path.isdir(path):  # noqa: PTH112
                self.check("open folder", path)
            return opened(path, flags, *given, **more)

        def faulty_fsync(handle: int) -> None:
            self.check("fsync", Path(f"/proc/self/fd/{handle}").readlink())
            fsync(handle)

        def faulty_io_open(file: Any, mode: str = "r", *given: Any, **more: Any) -> Any:
            if not set(mode) & set("wax+") or more.get("opener"):
                return io_open(file, mode, *given, **more)
            self.check("create", file)
            return Stream(io_open(file, mode, *given, **more), file, self)

        os.open, os.fsync, io.open = faulty_open, faulty_fsync, faulty_io_open
        for name, where in {"mkdir": 0, "replace": 1, "rename": 1, "link": 1, "unlink": 0}.items():
            setattr(os, name, before(name, getattr(os, name), where))


class Stream:
    """A file that is written to, whose writes may fail halfway."""

    def __init__(self, plain: Any, path: Any, faults: Faults) -> None:
        self.plain, self.path, self.faults = plain, path, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.plain.close()

    def write(self, data: Any) -> int:
        try:
            self.faults.check("write", self.path)
        except OSError:
            self.plain.write(data[: len(data) // 2])
            raise
        return int(self.plain.write(data))

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)


def child(job: dict[str, Any], answer: int) -> None:
    """In the fork: run the command, and tell what was met."""
    printed = os.open(job["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    os.chdir(job["cwd"])
    sys.argv = ["simclr", *job["arguments"]]
    faults = Faults(*job["fault"]) if "fault" in job else None
    if faults:
        faults.install()
    try:
        app.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(answer, json.dumps({"code": code, "met": faults.met if faults else []}).encode())


def perform(job: dict[str, Any]) -> dict[str, Any]:
    """Fork, wait or kill, and gather what it told."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            child(job, writing)
        finally:
            os._exit(0)
    os.close(writing)
    if "kill_after" in job:
        until = time.monotonic() + job["kill_after"]
        while time.monotonic() < until and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
    with os.fdopen(reading, "rb") as told:
        answer = told.read()
    os.waitpid(pid, 0)
    return json.loads(answer) if answer else {"code": None, "met": []}


def main() -> None:
    """Answer line by line."""
    torch.set_num_threads(1)
    for name in simclr_cli.__all__:
        getattr(simclr_cli, name)  # imports its verb
    for line in sys.stdin:
        sys.stdout.write(json.dumps(perform(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
