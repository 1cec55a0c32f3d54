"""Errors of the operating system and of devices become MachineErrors with a cause and a remedy."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from simclr_cli.core.errors import MachineError, explain_system_error, is_out_of_memory, require_extra

CPU = "[enforce fail at alloc_cpu.cpp:128] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"


def system_error(number: int, file: str | None = "/data/a.png") -> OSError:
    return OSError(number, os.strerror(number), file)


CASES = {
    "torch, CPU": (RuntimeError(CPU), "The memory of this machine is too small", "--batch-size 32"),
    "Python": (MemoryError(), "The memory of this machine is too small (MemoryError)", "--batch-size 32"),
    "C++": (RuntimeError("std::bad_alloc"), "The memory of this machine is too small", "--batch-size 32"),
    "the system": (system_error(errno.ENOMEM, None), "The memory of this machine is too small", "--batch-size 32"),
    "the system, of a file": (
        system_error(errno.ENOMEM, "/data/CHIPS/a.png"), "The memory of this machine is too small", "--batch-size 32",
    ),
    "torch, GPU": (
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.40 GiB of which 30.51 MiB "
            "is free. Of the allocated memory 1.34 GiB is allocated by PyTorch, and 29.88 MiB is reserved by PyTorch"
        ),
        "The memory of the GPU is too small (CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total "
        "capacity of 1.40 GiB of which 30.51 MiB is free).", "--batch-size 32",
    ),
    "cuBLAS": (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        "The memory of the GPU is too small", "--batch-size 32",
    ),
    "torch, Windows": (
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you tried to"),
        "The memory of this machine is too small", "--batch-size 32",
    ),
    "torch's type": (torch.OutOfMemoryError("Allocation on device"), "The memory of this machine", "--batch-size 32"),
    "MPS": (
        RuntimeError("MPS backend out of memory (MPS allocated: 17.00 GB, other allocations: 1.00 GB)"),
        "The memory of the GPU is too small", "--batch-size 32",
    ),
    "MPS, one tensor": (RuntimeError("Invalid buffer size: 19.45 GB"), "The memory of the GPU", "--batch-size 32"),
    "Level Zero": (
        RuntimeError("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
        "The memory of the GPU is too small", "--batch-size 32",
    ),
    "cuDNN 8": (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "The memory of the GPU", "--batch-size 32"),
    "cuDNN 9": (
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        "The memory of the GPU is too small (cuDNN error: ", "--batch-size 32",
    ),
    "NCCL": (
        RuntimeError("NCCL error in: NCCLUtils.cpp:94, unhandled cuda error\nCuda failure 2 'out of memory'"),
        "The memory of the GPU is too small", "--batch-size 32",
    ),
    "expandable segments": (
        RuntimeError("CUDA expandable_segments: memory mapping failed with OOM on device 0"),
        "The memory of the GPU is too small", "--batch-size 32",
    ),
    "no engine": (
        RuntimeError("GET was unable to find an engine to execute this computation"),
        "The GPU failed, perhaps because its memory is too small (GET was unable", "--batch-size 32, or",
    ),
    "no handle": (
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        "The GPU failed, perhaps because its memory is too small", "run simclr doctor.",
    ),
    "no algorithm": (
        RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
        "The GPU failed, perhaps because its memory is too small", "--batch-size 32, or",
    ),
    "no kernels": (
        RuntimeError("CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might"),
        "The GPU failed (CUDA error: no kernel image is available for execution on the device)", "simclr doctor",
    ),
    "lost": (RuntimeError("CUDA error: unspecified launch failure"), "The GPU failed", "--device cpu"),
    "threads": (RuntimeError("can't start new thread"), "No more threads", "--workers"),
    "share gone": (system_error(errno.ESTALE), "/data/a.png cannot be reached: Stale file handle", "network share"),
    "not connected": (system_error(errno.ENOTCONN), "/data/a.png cannot be reached", "network share"),
    "disk": (system_error(errno.EIO), "/data/a.png cannot be reached: Input/output error", "disk"),
    "open files": (system_error(errno.EMFILE), "Too many files are open", "ulimit -n"),
    "library": (
        ModuleNotFoundError("No module named 'timm'", name="timm"),
        "A library is missing or broken: No module named 'timm'.", "simclr doctor",
    ),
    "right": (system_error(errno.EACCES), "/data/a.png cannot be used: Permission denied", "Change its permissions"),
    "full": (system_error(errno.ENOSPC, None), "A file cannot be used: No space left on device", "free disk space"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_system_errors_have_a_cause_and_a_remedy(case: str) -> None:
    error, problem, remedy = CASES[case]
    explained = explain_system_error(error, {"batch_size": 128})
    assert isinstance(explained, MachineError) and explained.exit_code == 5
    assert problem in explained.problem and remedy in explained.remedy
    assert explained.problem.endswith(".") and "\n" not in explained.problem


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory of the past"),
        RuntimeError("CUDA error: device-side assert triggered"), FileNotFoundError(errno.ENOENT, "gone", "a"),
        OSError("x"), ImportError("cannot import name 'gone'", name="simclr_cli.core.text"),
    ],
)  # fmt: skip
def test_other_errors_are_not_explained(error: Exception) -> None:
    assert explain_system_error(error, {}) is None and not is_out_of_memory(error)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"batch_size": 1}, "--batch-size 1,"), ({"micro_batch": None, "batch_size": None}, "a smaller --micro-batch"),
     ({"run": "a"}, "Close other programs")],
)  # fmt: skip
def test_suggested_options_are_those_of_the_command(settings: dict[str, object], words: str) -> None:
    explained = explain_system_error(MemoryError(), settings)
    assert explained is not None and words in explained.remedy


def test_error_names_the_missing_library_and_its_extra() -> None:
    require_extra("torch", "x", "--x")
    with pytest.raises(MachineError) as caught:
        require_extra("no_such_library", "map", "--layout tsne")
    assert caught.value.problem == "--layout tsne needs the library no_such_library, which is not installed."
    assert caught.value.remedy.startswith("Install it with: pipx inject simclr-cli no_such_library")
    assert '"simclr-cli[map]"' in caught.value.remedy
