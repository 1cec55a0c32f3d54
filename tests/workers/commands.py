"""Server that runs the command in forks of a process with all imports: commands.py SOCKET, until stdin is closed.

A client connects to SOCKET, sends its stdin, stdout and stderr (SCM_RIGHTS), and a line of JSON: arguments, cwd, env,
and optionally
    script       a file of Python to run instead of the command
    kill_after   seconds, after which it gets a SIGKILL
    fault        [n, name of an error, roots]: the n-th operation, from 0, that changes a file below the roots fails;
                 EIO once, ENOSPC and EACCES also for all later operations that they concern
It gets two lines back: pid; and after the end of that process, code (-N: killed by signal N) and met (the operations
that could have failed, up to the one that did). If a client disconnects, its command is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import io
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = {  # operations that can fail with an error, and whether later ones fail too
    "EIO": ({"create", "open folder", "mkdir", "write", "fsync", "replace", "rename", "link", "unlink"}, False),
    "ENOSPC": ({"create", "mkdir", "write", "fsync", "link"}, True),
    "EACCES": ({"create", "open folder", "mkdir", "replace", "rename", "link", "unlink"}, True),
}


class Faults:
    """Failure of the n-th operation."""

    def __init__(self, n: int, error: str, roots: list[str]) -> None:
        self.n, self.error, self.roots = n, getattr(errno, error), roots
        self.kinds, self.is_permanent = KINDS[error]
        self.met: list[str] = []

    def check(self, kind: str, path: Any) -> None:
        """Raise the error if this is the n-th operation."""
        if not isinstance(path, str | bytes | os.PathLike) or kind not in self.kinds:
            return
        absolute = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        if not any(absolute == root or absolute.startswith(f"{root}/") for root in self.roots):
            return
        if len(self.met) > self.n and not self.is_permanent:
            return
        if len(self.met) <= self.n:
            self.met.append(f"{kind} {absolute}")
        if len(self.met) > self.n:
            raise OSError(self.error, os.strerror(self.error), absolute)

    def install(self) -> None:
        """Replace the system's operations by checked ones."""
        os_open, fsync, io_open = os.open, os.fsync, io.open

        def check_first(kind: str, plain: Callable[..., Any], path_index: int) -> Callable[..., Any]:
            def operation(*arguments: Any, **more: Any) -> Any:
                self.check(kind, arguments[path_index])
                return plain(*arguments, **more)

            return operation

        def faulty_open(path: Any, flags: int, *given: Any, **more: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR):
                self.check("create", path)
            elif os.path.isdir(path):  # noqa: PTH112
                self.check("open folder", path)
            return os_open(path, flags, *given, **more)

        def faulty_fsync(handle: int) -> None:
            self.check("fsync", Path(f"/proc/self/fd/{handle}").readlink())
            fsync(handle)

        def faulty_io_open(file: Any, mode: str = "r", *given: Any, **more: Any) -> Any:
            if not set(mode) & set("wax+") or more.get("opener"):
                return io_open(file, mode, *given, **more)
            self.check("create", file)
            return Stream(io_open(file, mode, *given, **more), file, self)

        os.open, os.fsync, io.open = faulty_open, faulty_fsync, faulty_io_open
        for name, path_index in {"mkdir": 0, "replace": 1, "rename": 1, "link": 1, "unlink": 0}.items():
            setattr(os, name, check_first(name, getattr(os, name), path_index))


class Stream:
    """A file whose writes may fail halfway."""

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


def run_command(job: dict[str, Any], streams: list[int], result: int) -> None:
    """Become the command, with these streams; write the operations to the descriptor `result`."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 (these are open until the process ends)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(job["cwd"])
    sys.argv = ["simclr", *job["arguments"]]
    faults = Faults(*job["fault"]) if "fault" in job else None
    if faults:
        faults.install()
    from simclr_cli.cli import app

    code: Any = 0
    try:
        if script := job.get("script"):
            runpy.run_path(script, run_name="__main__")
        else:
            app.main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    os.write(result, json.dumps(faults.met if faults else []).encode())
    # As an interpreter exits, but without the teardown of torch's modules.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


def handle(connection: socket.socket) -> None:
    """Run the command of a client in a fork, and send the result."""
    streams = socket.recv_fds(connection, 1, 3)[1]
    lines = connection.makefile("rw")
    job = json.loads(lines.readline())
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        connection.close()
        lines.close()
        run_command(job, streams, writing)
    for number in (writing, *streams):
        os.close(number)
    lines.write(json.dumps({"pid": pid}) + "\n")
    lines.flush()
    end = os.pidfd_open(pid)
    if end not in select.select([end, connection], [], [], job.get("kill_after"))[0]:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with os.fdopen(reading, "rb") as result:
        met = result.read()
    with contextlib.suppress(OSError):  # the client has disconnected
        lines.write(json.dumps({"code": code, "met": json.loads(met or b"[]")}) + "\n")
        lines.flush()


def prepare() -> None:
    """Import everything that a command may need."""
    import torch

    import simclr_cli
    from simclr_cli.cli import app, console, show_results  # noqa: F401 (imported before there are forks)

    torch.set_num_threads(1)
    for name in simclr_cli.__all__:
        getattr(simclr_cli, name)  # imports its command
    gc.collect()
    gc.freeze()


def main() -> None:
    """Serve each client in its own fork; import everything when the first client connects."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for these forks
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen(100)
        while 0 not in select.select([0, listener], [], [])[0]:
            connection, _ = listener.accept()
            if "torch" not in sys.modules:
                prepare()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listener.close()
                handle(connection)
                os._exit(0)
            connection.close()
    os._exit(0)


if __name__ == "__main__":
    main()
