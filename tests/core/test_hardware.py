"""How much memory is free, by what the system says; how memory and cores are taken."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from simclr_cli.core import hardware as machine
from simclr_cli.core.hardware import keep_freed_memory, share_cores

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("limit", "use", "expected"),
    [
        ("max", "5", 2**40),
        (str(10**9), str(4 * 10**8), 6 * 10**8),
        (str(10**9), str(2 * 10**9), 0),
        (None, None, 2**40),
    ],
)
def test_a_container_may_leave_less_than_the_machine_has(
    limit: str | None, use: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (str(tmp_path / "max"), str(tmp_path / "current"))
    for name, text in zip(names, (limit, use), strict=True):
        if text is not None:
            Path(name).write_text(f"{text}\n")
    monkeypatch.setattr(machine, "CGROUPS", (names, ("/no/such", "/file")))
    monkeypatch.setattr(machine, "_available", lambda: 2**40)
    assert machine.free_memory(CPU) == expected


def test_this_machine_has_some() -> None:
    assert 2**24 < machine.free_memory(CPU) < 2**50


FAULTS = """
import json, resource
from simclr_cli.core.hardware import keep_freed_memory
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


@pytest.mark.parametrize(
    ("files", "cores"),
    [({"max": "200000 100000"}, 2.0), ({"max": "max 100000"}, None), ({"quota": "150000", "period": "100000"}, 1.5),
     ({"quota": "-1", "period": "100000"}, None), ({}, None)],
)  # fmt: skip
def test_how_many_cores_a_container_may_use(
    files: dict[str, str], cores: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(machine, "CPU_QUOTAS", ((tmp_path / "max",), (tmp_path / "quota", tmp_path / "period")))
    assert machine.core_quota() == cores


def test_small_shared_memory_is_noticed_before_it_strikes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_shared_memory", lambda: 67_108_864)  # Docker's
    told = machine.lack_of_shared_memory(8)
    assert told is not None and "67 MB free" in told and "160 MB" in told and "--shm-size" in told
    assert machine.lack_of_shared_memory(2) is machine.lack_of_shared_memory(1) is None
    monkeypatch.setattr(machine, "free_shared_memory", lambda: None)
    assert machine.lack_of_shared_memory(8) is None


def test_shared_memory_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path)
    assert (machine.free_shared_memory() or 0) > 0
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path / "none")
    assert machine.free_shared_memory() is None


def test_a_users_own_spin_count_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    share_cores()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    share_cores()
    assert int(os.environ["GOMP_SPINCOUNT"]) > 0
