"""A folder for one process that writes; free once that process has ended, however it ended, and nothing tells of it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from simclr_cli.core.events import Event, Note, silent
from simclr_cli.core.files import NotWritten
from simclr_cli.core.locks import LOCK, Busy, locked

HOLD = """
import os, sys
from pathlib import Path
from simclr_cli.core.events import silent
from simclr_cli.core.locks import locked, remove_lock_files
with locked(Path(sys.argv[1]), silent):
    print("held", flush=True)
    input()
    if sys.argv[2] == "in the middle":
        remove_lock_files()
        os._exit(0)
"""


@contextmanager
def holding(folder: Path, end: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock."""
    arguments = [sys.executable, "-c", HOLD, str(folder), end]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_it_goes_whatever_happens_within(tmp_path: Path, error: type[BaseException] | None) -> None:
    try:
        with locked(tmp_path / "runs" / "a", silent):
            if error is not None:
                raise error
    except BaseException as raised:
        assert type(raised) is error
    assert list((tmp_path / "runs" / "a").iterdir()) == []


def test_a_second_process_is_refused_in_two_short_sentences(tmp_path: Path) -> None:
    with holding(tmp_path):
        with pytest.raises(Busy) as caught, locked(tmp_path, silent):
            pass
        assert caught.value.what == f"Another process writes in {tmp_path}." and caught.value.exit_code == 5
        assert caught.value.remedy == "Wait until it has ended, or stop it."


def test_so_is_a_second_time_in_one_process(tmp_path: Path) -> None:
    with locked(tmp_path, silent), pytest.raises(Busy), locked(tmp_path, silent):
        pass


@pytest.mark.parametrize("end", ["killed", "in the middle"])
def test_a_process_that_has_ended_holds_nothing_and_nothing_is_said_of_it(tmp_path: Path, end: str) -> None:
    said: list[Event] = []
    with holding(tmp_path, end) as other:
        if end == "killed":
            other.send_signal(signal.SIGKILL)
            other.wait()
        else:
            other.communicate("\n")
            assert list(tmp_path.iterdir()) == []
        with locked(tmp_path, said.append):
            pass
    assert said == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"pid": 1}', b"\0" * 5000])
def test_the_file_by_itself_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK).write_bytes(content)
    with locked(tmp_path, silent), pytest.raises(Busy), locked(tmp_path, silent):
        pass


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_is_no_file_is_named_and_stays(tmp_path: Path, kind: str) -> None:
    file, elsewhere = tmp_path / LOCK, tmp_path / "elsewhere"
    {"folder": file.mkdir, "link": lambda: file.symlink_to(elsewhere)}[kind]()
    with pytest.raises(NotWritten, match="Cannot lock") as caught, locked(tmp_path, silent):
        pass
    assert str(file) in caught.value.what and os.path.lexists(file) and not elsewhere.exists()


def test_who_waits_gets_it_when_the_other_has_ended(tmp_path: Path) -> None:
    with holding(tmp_path) as other:
        assert other.stdin is not None
        threading.Timer(0.3, other.stdin.close).start()
        with locked(tmp_path, silent, wait=30):
            pass


def test_who_waits_in_vain_waits_no_longer_than_that(tmp_path: Path) -> None:
    began = time.monotonic()
    with locked(tmp_path, silent), pytest.raises(Busy), locked(tmp_path, silent, wait=0.3):
        pass
    assert time.monotonic() - began >= 0.3


def test_of_many_one_has_it_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads in the place of processes: each opens the file anew, and the system's lock is of what was opened."""
    inside, most, done = [0], [0], [0]
    monkeypatch.setattr("simclr_cli.core.locks.POLL_SECONDS", 0.0001)

    def take() -> None:
        for _ in range(20):
            with locked(tmp_path, silent, wait=60):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.0002)
                inside[0] -= 1
                done[0] += 1

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, done) == ([1], [160]) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_where_the_file_system_has_no_locks_a_warning_must_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    said: list[Event] = []
    with locked(tmp_path, said.append):
        assert [type(event) for event in said] == [Note] and "has no locks" in str(said[0])
    assert list(tmp_path.iterdir()) == []


def test_what_else_the_system_refuses_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(errno.EIO))
    with pytest.raises(NotWritten, match="Input/output error"), locked(tmp_path, silent):
        pass


def refusing(number: int) -> Callable[..., None]:
    """A call of the system that fails so."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse
