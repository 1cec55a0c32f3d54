"""A folder for one process that writes; the lock of a dead one is freed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from simclr_cli.events import Event, silent
from simclr_cli.locks import LOCK, Busy, locked
from simclr_cli.owner import host, started, system

HOLD = """
import sys
from pathlib import Path
from simclr_cli.events import silent
from simclr_cli.locks import locked
with locked(Path(sys.argv[1]), "training", silent):
    print("held", flush=True)
    input()
"""


@contextmanager
def holding(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock."""
    arguments = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def write_lock(folder: Path, **changes: object) -> Path:
    """A lock as a process leaves it, but for these changes."""
    own = {"host": host(), "system": system(), "pid": os.getpid(), "started": started(os.getpid()), "work": "training",
           "since": "2026-11-25 12:00:00+00:00"}  # fmt: skip
    (folder / LOCK).write_text(json.dumps({**own, **changes}))
    return folder / LOCK


def test_it_is_there_while_it_is_held_and_names_the_process(tmp_path: Path) -> None:
    with locked(tmp_path / "runs/a", "training", silent):
        kept = json.loads((tmp_path / "runs/a" / LOCK).read_bytes())
        assert (kept["pid"], kept["host"], kept["work"]) == (os.getpid(), host(), "training")
    assert list((tmp_path / "runs/a").iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_it_goes_whatever_happens_within(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), locked(tmp_path, "training", silent):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    with holding(tmp_path) as other:
        with pytest.raises(Busy) as caught, locked(tmp_path, "training", silent):
            pass
        assert f"process {other.pid} on {host()}, training since 20" in caught.value.what
        assert str(tmp_path) in caught.value.what and caught.value.exit_code == 5
        assert (tmp_path / LOCK).exists()


def test_so_is_a_second_time_in_one_process(tmp_path: Path) -> None:
    with locked(tmp_path, "training", silent), pytest.raises(Busy), locked(tmp_path, "training", silent):
        pass


def test_the_lock_of_a_killed_process_is_freed_with_a_note(tmp_path: Path) -> None:
    said: list[Event] = []
    with holding(tmp_path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert (tmp_path / LOCK).exists()
        with locked(tmp_path, "training", said.append):
            assert json.loads((tmp_path / LOCK).read_bytes())["pid"] == os.getpid()
    assert len(said) == 1 and f"process {other.pid} on {host()}" in str(said[0]) and "freed" in str(said[0])


@pytest.mark.skipif(not started(os.getpid()), reason="the system does not tell when a process began")
def test_a_process_that_has_the_dead_ones_number_does_not_have_its_lock(tmp_path: Path) -> None:
    write_lock(tmp_path, started="1")
    with locked(tmp_path, "training", silent):
        pass


def test_of_another_machine_it_cannot_be_told_so_the_file_is_named(tmp_path: Path) -> None:
    file = write_lock(tmp_path, host="node7", system="0" * 8, pid=2**22 + 1)
    with pytest.raises(Busy, match="on node7") as caught, locked(tmp_path, "training", silent):
        pass
    assert str(file) in caught.value.remedy and file.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"pid": 1}', "null", "[" * 5000, '{"pid": "x"}'])
def test_what_is_no_lock_of_ours_is_left_and_named(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK).write_text(content)
    with pytest.raises(Busy, match="cannot be read") as caught, locked(tmp_path, "training", silent):
        pass
    assert str(tmp_path / LOCK) in caught.value.remedy and (tmp_path / LOCK).read_text() == content


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_is_no_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    file = tmp_path / LOCK
    {"folder": file.mkdir, "pipe": lambda: os.mkfifo(file), "link": lambda: file.symlink_to("/dev/zero")}[kind]()
    with pytest.raises(Busy, match="not a file"), locked(tmp_path, "training", silent):
        pass


def test_who_waits_gets_it_when_the_other_has_ended(tmp_path: Path) -> None:
    with holding(tmp_path) as other:
        assert other.stdin is not None
        threading.Timer(0.3, other.stdin.close).start()
        with locked(tmp_path, "training", silent, wait=30):
            assert json.loads((tmp_path / LOCK).read_bytes())["pid"] == os.getpid()


def test_who_waits_in_vain_waits_no_longer_than_that(tmp_path: Path) -> None:
    began = time.monotonic()
    with locked(tmp_path, "training", silent), pytest.raises(Busy), locked(tmp_path, "training", silent, wait=0.3):
        pass
    assert time.monotonic() - began >= 0.3


def test_a_lock_that_a_person_removed_and_another_took_is_not_removed(tmp_path: Path) -> None:
    with locked(tmp_path, "training", silent):
        (tmp_path / LOCK).unlink()
        taken = write_lock(tmp_path, host="node7")
    assert taken.exists()


def test_of_many_that_find_a_dead_ones_lock_one_has_it_at_a_time(tmp_path: Path) -> None:
    """Threads in the place of processes: each creates, reads and frees as a process does."""
    inside, most = [0], [0]

    def take() -> None:
        with locked(tmp_path, "training", silent, wait=60):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.01)
            inside[0] -= 1

    write_lock(tmp_path, started="1", pid=2**70)
    threads = [threading.Thread(target=take) for _ in range(8)]
    with ExitStack() as stack:
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
    assert most == [1] and list(tmp_path.iterdir()) == []
