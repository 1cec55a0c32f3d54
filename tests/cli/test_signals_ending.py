"""End of a process of the command: its exit code, all of its output, and no delay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import atexit, sys, threading, time
from simclr_cli.cli.signals import quick_end

class Slow:
    def __del__(self):
        print("taken apart", flush=True)

sys.modules["slow"] = Slow()  # as a module of torch: there until the interpreter is taken apart
with quick_end():
    atexit.register(print, "registered later")
    threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
    print("said")
    {ending}
"""


def run(ending: str, **given: Any) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(ending=ending)
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    return subprocess.run(
        [sys.executable, "-c", program], text=True, stderr=subprocess.PIPE, timeout=60, env=buffered, **given
    )


@pytest.mark.parametrize(("ending", "code"), [("sys.exit()", 0), ("sys.exit(0)", 0), ("sys.exit(130)", 130)])
def test_output_and_threads_finish_and_nothing_is_torn_down(ending: str, code: int) -> None:
    done = run(ending, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr) == (code, "said\nthread\nregistered later\n", "")


@pytest.mark.parametrize(
    ("ending", "said"), [("sys.exit('why')", "why\n"), ("1 / 0", "ZeroDivisionError"), ("pass", "")]
)
def test_messages_of_python_are_printed_by_python(ending: str, said: str) -> None:
    done = run(ending, stdout=subprocess.PIPE)
    assert done.returncode == (ending != "pass") and said in done.stderr
    assert done.stdout.splitlines()[:3] == ["said", "thread", "registered later"]


def test_streams_that_are_closed_are_no_error() -> None:
    done = run("sys.stdout = sys.stderr = None; sys.exit(3)", stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it is Linux that has a full disk at hand")
def test_a_full_disk_is_no_success() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        done = run("sys.exit(0)", stdout=full)
    assert done.returncode == 120 and os.strerror(28) in done.stderr  # Python's own, as without
