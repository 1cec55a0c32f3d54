"""Each unusable of the system or a device, by its own words: a MachineError with a cause and a way out."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from simclr_cli.core.errors import MachineError, is_out_of_memory, require_extra, trouble

CPU = "[enforce fail at alloc_cpu.cpp:128] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"


def system(number: int, file: str | None = "/data/a.png") -> OSError:
    return OSError(number, os.strerror(number), file)


TROUBLES = {
    "torch, CPU": (RuntimeError(CPU), "The memory of this machine is too small", "--batch-size 32"),
    "Python": (MemoryError(), "The memory of this machine is too small (MemoryError)", "--batch-size 32"),
    "C++": (RuntimeError("std::bad_alloc"), "The memory of this machine is too small", "--batch-size 32"),
    "the system": (system(errno.ENOMEM, None), "The memory of this machine is too small", "--batch-size 32"),
    "torch, GPU": (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."),
        "The memory of the GPU is too small (CUDA out of memory.", "--batch-size 32",
    ),
    "cuBLAS": (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        "The memory of the GPU is too small", "--batch-size 32",
    ),
    "no kernels": (
        RuntimeError("CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might"),
        "The GPU failed (CUDA error: no kernel image is available for execution on the device)", "simclr doctor",
    ),
    "lost": (RuntimeError("CUDA error: unspecified launch failure"), "The GPU failed", "--device cpu"),
    "threads": (RuntimeError("can't start new thread"), "No more threads", "--workers"),
    "share gone": (system(errno.ESTALE), "/data/a.png cannot be reached: Stale file handle", "network share"),
    "not connected": (system(errno.ENOTCONN), "/data/a.png cannot be reached", "network share"),
    "disk": (system(errno.EIO), "/data/a.png cannot be reached: Input/output error", "disk"),
    "open files": (system(errno.EMFILE), "Too many files are open", "ulimit -n"),
    "right": (system(errno.EACCES), "/data/a.png cannot be used: Permission denied", "Change its rights"),
    "full": (system(errno.ENOSPC, None), "A file cannot be used: No space left on device", "make room"),
}  # fmt: skip


@pytest.mark.parametrize("case", TROUBLES)
def test_cause_and_way_out(case: str) -> None:
    error, what, remedy = TROUBLES[case]
    told = trouble(error, {"batch_size": 128})
    assert isinstance(told, MachineError) and told.exit_code == 5
    assert what in told.what and remedy in told.remedy
    assert told.what.endswith(".") and "\n" not in told.what


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory of the past"),
        RuntimeError("CUDA error: device-side assert triggered"), FileNotFoundError(errno.ENOENT, "gone", "a"),
        OSError("x"),
    ],
)  # fmt: skip
def test_what_is_ours_stays_ours(error: Exception) -> None:
    assert trouble(error, {}) is None and not is_out_of_memory(error)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"batch_size": 1}, "--batch-size 1,"), ({"micro_batch": None, "batch_size": None}, "a smaller --micro-batch"),
     ({"run": "a"}, "Close what else is running")],
)  # fmt: skip
def test_what_takes_less_memory_is_an_option_that_the_command_has(given: dict[str, object], words: str) -> None:
    told = trouble(MemoryError(), given)
    assert told is not None and words in told.remedy


def test_a_library_of_an_extra_is_named_with_the_extra_where_it_is_not_there() -> None:
    require_extra("torch", "x", "--x")
    with pytest.raises(MachineError) as caught:
        require_extra("no_such_library", "map", "--layout tsne")
    assert caught.value.what == "--layout tsne needs the library no_such_library, which is not installed."
    assert caught.value.remedy.startswith("Install it with: pipx inject simclr-cli no_such_library")
    assert '"simclr-cli[map]"' in caught.value.remedy
