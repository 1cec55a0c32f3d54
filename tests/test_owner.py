"""Which process something is of, and whether it is still there."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from simclr_cli.owner import host, is_gone, started, system

ELSEWHERE = "0" * 8


def test_this_process_is_there() -> None:
    assert not is_gone(system(), os.getpid()) and not is_gone(system(), os.getpid(), started(os.getpid()))
    assert host() and re.fullmatch("[0-9a-f]{8}", system())


def test_a_process_that_has_ended_is_gone_even_before_its_parent_asks() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        began = started(child.pid)
        assert not is_gone(system(), child.pid, began)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nothing has asked how
        assert is_gone(system(), child.pid, began) or not os.path.isdir("/proc/self")  # noqa: PTH112
        child.wait()
        assert is_gone(system(), child.pid, began) and is_gone(system(), child.pid)


@pytest.mark.skipif(not started(os.getpid()), reason="the system does not tell when a process began")
def test_another_process_of_the_same_number_is_another() -> None:
    assert is_gone(system(), os.getpid(), str(int(started(os.getpid())) - 1))


@pytest.mark.parametrize("pid", [0, -1, 1])
def test_what_cannot_be_told_is_there(pid: int) -> None:
    assert not is_gone(system(), pid) and not is_gone(ELSEWHERE, 2**22 + 1)


def test_a_number_that_no_process_can_have() -> None:
    assert is_gone(system(), 2**70)
