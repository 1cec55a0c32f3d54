"""What the command sets up before a verb runs."""

from __future__ import annotations

import ctypes
import json
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from simclr_cli.cli.app import keep_freed_memory

FAULTS = """
import json, resource
from simclr_cli.cli.app import keep_freed_memory
def faults_of_a_block():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
returned = [faults_of_a_block() for _ in range(2)]
could = keep_freed_memory()
kept = [faults_of_a_block() for _ in range(2)]
print(json.dumps([could, returned, kept]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told")
def test_a_freed_block_serves_again_without_a_page_being_cleared_anew() -> None:
    shown = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    could, returned, kept = json.loads(shown.stdout)
    assert could
    assert kept[1] * 10 < returned[1]


@pytest.mark.parametrize("library", [SimpleNamespace(), SimpleNamespace(mallopt=lambda *_: 0)])
def test_a_c_library_that_cannot_is_left_as_it_is(library: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    assert not keep_freed_memory()


def test_windows_has_no_such_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise TypeError("expected str, not NoneType")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert not keep_freed_memory()
