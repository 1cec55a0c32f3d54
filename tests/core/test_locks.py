"""Locks of folders: one writing process at a time; free once that process has ended, however it ended."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from simclr_cli.core.events import Event, Note, silent
from simclr_cli.core.files import WriteError
from simclr_cli.core.locks import LOCK_FILE, FolderLockedError, lock_folder, release_locks

posix_only = pytest.mark.skipif(os.name != "posix", reason="on Windows links need a privilege")

HOLD = """
import os, sys
from pathlib import Path
from simclr_cli.core.events import silent
from simclr_cli.core.locks import lock_folder, release_locks
with lock_folder(Path(sys.argv[1]), silent):
    print("held", flush=True)
    input()
    if sys.argv[2] == "in the middle":
        release_locks()
        os._exit(0)
"""


@contextmanager
def holding(folder: Path, end: str = "") -> Iterator[subprocess.Popen[str]]:
    """Start another process that holds the lock."""
    arguments = [sys.executable, "-c", HOLD, str(folder), end]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_the_lock_file_is_removed_after_any_error(tmp_path: Path, error: type[BaseException] | None) -> None:
    try:
        with lock_folder(tmp_path / "runs" / "a", silent):
            if error is not None:
                raise error
    except BaseException as raised:
        assert type(raised) is error
    assert list((tmp_path / "runs" / "a").iterdir()) == []


def test_a_second_process_gets_an_error(tmp_path: Path) -> None:
    with holding(tmp_path):
        with pytest.raises(FolderLockedError) as caught, lock_folder(tmp_path, silent):
            pass
        assert caught.value.problem == f"Another process writes in {tmp_path}." and caught.value.exit_code == 5
        assert caught.value.remedy == "Wait until it ends, or stop it."


def test_a_second_lock_in_one_process_is_an_error(tmp_path: Path) -> None:
    with lock_folder(tmp_path, silent), pytest.raises(FolderLockedError), lock_folder(tmp_path, silent):
        pass


@pytest.mark.parametrize("end", ["killed", "in the middle"])
def test_a_process_that_has_ended_holds_no_lock(tmp_path: Path, end: str) -> None:
    events: list[Event] = []
    with holding(tmp_path, end) as other:
        if end == "killed":
            other.kill()
            other.wait()
        else:
            other.communicate("\n")
            assert list(tmp_path.iterdir()) == []
        with lock_folder(tmp_path, events.append):
            pass
    assert events == [] and list(tmp_path.iterdir()) == []


def test_locks_are_released_from_another_thread_also_where_open_files_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lock_folder(tmp_path, silent):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", failing_call(errno.EACCES))  # as on Windows
            thread = threading.Thread(target=release_locks)
            thread.start()
            thread.join()
        with lock_folder(tmp_path, silent):
            pass


@pytest.mark.parametrize("content", [b"", b"{", b'{"pid": 1}', b"\0" * 5000])
def test_content_of_the_lock_file_does_not_matter(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK_FILE).write_bytes(content)
    with lock_folder(tmp_path, silent), pytest.raises(FolderLockedError), lock_folder(tmp_path, silent):
        pass


@pytest.mark.parametrize("kind", ["folder", pytest.param("link", marks=posix_only)])
def test_a_lock_path_that_is_not_a_file_is_named_and_stays(tmp_path: Path, kind: str) -> None:
    file, elsewhere = tmp_path / LOCK_FILE, tmp_path / "elsewhere"
    {"folder": file.mkdir, "link": lambda: file.symlink_to(elsewhere)}[kind]()
    with pytest.raises(WriteError, match="Cannot lock") as caught, lock_folder(tmp_path, silent):
        pass
    assert str(file) in caught.value.problem and os.path.lexists(file) and not elsewhere.exists()


def test_a_waiting_process_gets_the_lock_when_the_other_ends(tmp_path: Path) -> None:
    with holding(tmp_path) as other:
        assert other.stdin is not None
        threading.Timer(0.3, other.stdin.close).start()
        with lock_folder(tmp_path, silent, wait=30):
            pass


def test_waiting_ends_after_the_given_seconds(tmp_path: Path) -> None:
    start = time.monotonic()
    with lock_folder(tmp_path, silent), pytest.raises(FolderLockedError), lock_folder(tmp_path, silent, wait=0.3):
        pass
    assert time.monotonic() - start >= 0.3


def test_only_one_of_many_holds_the_lock_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads instead of processes: each opens the file anew, and the system locks what was opened."""
    inside, most_inside, done = [0], [0], [0]
    monkeypatch.setattr("simclr_cli.core.locks.POLL_SECONDS", 0.0001)

    def lock_repeatedly() -> None:
        for _ in range(20):
            with lock_folder(tmp_path, silent, wait=60):
                inside[0] += 1
                most_inside[0] = max(most_inside[0], inside[0])
                time.sleep(0.0002)
                inside[0] -= 1
                done[0] += 1

    threads = [threading.Thread(target=lock_repeatedly) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most_inside, done) == ([1], [160]) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_gives_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", failing_call(number))
    events: list[Event] = []
    with lock_folder(tmp_path, events.append):
        assert [type(event) for event in events] == [Note] and "has no locks" in str(events[0])
    assert list(tmp_path.iterdir()) == []


def test_any_other_failure_to_lock_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", failing_call(errno.EIO))
    with pytest.raises(WriteError, match="Input/output error"), lock_folder(tmp_path, silent):
        pass


def failing_call(number: int) -> Callable[..., None]:
    """Return a system call that fails with this errno."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail
