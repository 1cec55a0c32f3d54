"""Free memory and cores, as the system reports them; settings of glibc and OpenMP."""

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

from simclr_cli.core import hardware
from simclr_cli.core.hardware import keep_freed_memory, limit_openmp_spinning

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
def test_the_limit_of_a_container_counts(
    limit: str | None, use: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (str(tmp_path / "max"), str(tmp_path / "current"))
    for name, text in zip(names, (limit, use), strict=True):
        if text is not None:
            Path(name).write_text(f"{text}\n")
    monkeypatch.setattr(hardware, "CGROUP_MEMORY_FILES", (names, ("/no/such", "/file")))
    monkeypatch.setattr(hardware, "_get_available_ram", lambda: 2**40)
    assert hardware.get_free_memory(CPU) == expected


def test_this_machine_has_free_memory() -> None:
    assert 2**24 < hardware.get_free_memory(CPU) < 2**50


@pytest.mark.parametrize("is_known", [True, False])
def test_memory_on_windows(monkeypatch: pytest.MonkeyPatch, is_known: bool) -> None:
    class MemoryStatus(ctypes.Structure):  # as Microsoft documents it
        _fields_ = (
            ("dwLength", ctypes.c_uint32), ("dwMemoryLoad", ctypes.c_uint32), ("ullTotalPhys", ctypes.c_uint64),
            ("ullAvailPhys", ctypes.c_uint64), ("ullTotalPageFile", ctypes.c_uint64),
            ("ullAvailPageFile", ctypes.c_uint64), ("ullTotalVirtual", ctypes.c_uint64),
            ("ullAvailVirtual", ctypes.c_uint64), ("ullAvailExtendedVirtual", ctypes.c_uint64),
        )  # fmt: skip

    def fill(buffer: ctypes.Array[ctypes.c_ulonglong]) -> int:
        status = MemoryStatus.from_buffer(buffer)
        assert status.dwLength == ctypes.sizeof(status) == ctypes.sizeof(buffer)
        status.ullTotalPhys, status.ullAvailPhys = 32 * 2**30, 20 * 2**30
        return int(is_known)

    monkeypatch.delattr(hardware.os, "sysconf", raising=False)
    monkeypatch.setattr(hardware, "Path", lambda _: Path("/no/such/file"))
    kernel32 = SimpleNamespace(GlobalMemoryStatusEx=fill)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel32), raising=False)
    memory = (hardware.get_total_memory(), hardware.get_free_memory(CPU))
    assert memory == ((32 * 2**30, 20 * 2**30) if is_known else (2**32, 2**32))


def test_bfloat16_is_asked_of_the_device_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities = {torch.device("cuda", 0): (9, 0), torch.device("cuda", 1): (7, 5), torch.device("cuda", 2): (8, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
    assert [hardware.has_fast_bfloat16(device) for device in capabilities] == [True, False, True]
    assert not hardware.has_fast_bfloat16(CPU) and not hardware.has_fast_bfloat16(torch.device("mps"))
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert hardware.has_fast_bfloat16(torch.device("cuda", 1))


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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is of glibc")
def test_a_freed_block_is_reused_without_page_faults() -> None:
    shown = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    could, returned, kept = json.loads(shown.stdout)
    assert could
    assert kept[1] * 10 < returned[1]


@pytest.mark.parametrize("library", [SimpleNamespace(), SimpleNamespace(mallopt=lambda *_: 0)])
def test_a_c_library_without_mallopt_is_not_changed(library: object, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_cpu_quota_of_a_container(
    files: dict[str, str], cores: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(hardware, "CGROUP_CPU_FILES", ((tmp_path / "max",), (tmp_path / "quota", tmp_path / "period")))
    assert hardware.get_core_quota() == cores


def test_too_small_shared_memory_gives_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "get_free_shared_memory", lambda: 67_108_864)  # Docker's
    warning = hardware.describe_shared_memory_shortage(8)
    assert warning is not None and "67 MB free" in warning and "160 MB" in warning and "--shm-size" in warning
    assert hardware.describe_shared_memory_shortage(2) is hardware.describe_shared_memory_shortage(1) is None
    monkeypatch.setattr(hardware, "get_free_shared_memory", lambda: None)
    assert hardware.describe_shared_memory_shortage(8) is None


def test_free_shared_memory_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "SHARED_MEMORY", tmp_path)
    assert (hardware.get_free_shared_memory() or 0) > 0
    monkeypatch.setattr(hardware, "SHARED_MEMORY", tmp_path / "none")
    assert hardware.get_free_shared_memory() is None


@pytest.mark.parametrize(
    ("files", "driver"),
    [((), ""), (("nvcuda.dll",), "?"), (("libcuda.so.1",), "?"), (("version", "nvidia0"), "570.86.15"),
     (("odd", "nvidia0"), "?")],
)  # fmt: skip
def test_nvidia_driver(files: tuple[str, ...], driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Linux a version; of Windows and WSL, whose /proc does not name it, a file."""
    for name in files:
        text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build"
        (tmp_path / ("version" if name == "odd" else name)).write_text("other words" if name == "odd" else text)
    monkeypatch.setattr(hardware, "NVIDIA_VERSION", tmp_path / "version")
    names = ("nvidia0", "libcuda.so.1", "nvcuda.dll")
    monkeypatch.setattr(hardware, "NVIDIA_FILES", tuple(tmp_path / name for name in names))
    assert hardware.find_nvidia_driver() == driver


def test_the_users_spin_count_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    limit_openmp_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    limit_openmp_spinning()
    assert int(os.environ["GOMP_SPINCOUNT"]) > 0


def test_a_mac_gives_its_gpu_a_part_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 12 * 2**30)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 2**30)
    for free, expected in ((16, 11), (8, 8)):
        monkeypatch.setattr(hardware, "get_free_ram", lambda free=free: free * 2**30)
        assert hardware.get_free_memory(torch.device("mps")) == expected * 2**30


def test_the_driver_of_nvidia_is_read_from_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23"
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    assert hardware.find_nvidia_driver() == "570.86.15"
