"""Exceptions with their exit codes, and the translation of operating system and device errors into them."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar


class SimclrError(Exception):
    """An expected failure: one sentence with the problem and its reason, one with the next step.

    Both may contain file names; the command line escapes them for display.
    """

    exit_code: ClassVar[int] = 1
    meaning: ClassVar[str] = "an error inside simclr itself (run again with --debug and report it)"

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.problem = problem
        self.remedy = remedy


class SettingsError(SimclrError):
    """A setting that is invalid, by its own value or together with another."""

    exit_code = 2
    meaning = "wrong usage: an unknown option, or an invalid setting"


class InputError(SimclrError):
    """Unusable images, labels or queries."""

    exit_code = 3
    meaning = "unusable images, labels or queries"


class RunError(SimclrError):
    """A run folder or a vectors file that is missing, unfinished, damaged, or of another model."""

    exit_code = 4
    meaning = "a run, checkpoint or vectors file is missing, unfinished, damaged, or of another model"


class MachineError(SimclrError):
    """A missing resource of the machine: a permission, disk space, a device, the network, an optional library."""

    exit_code = 5
    meaning = "the machine lacks a permission, disk space, memory, a device or weights, or another process has the lock"


class TrainingError(SimclrError):
    """Training that failed: the loss is not finite."""

    exit_code = 6
    meaning = "training failed: the loss is no longer finite"


class CollapseError(SimclrError):
    """Training that ended with nearly the same embedding for all images."""

    exit_code = 7
    meaning = "training ended, but the encoder has collapsed: nearly the same embedding for all images"


class Interrupted(SimclrError):
    """A stop by the user (Ctrl-C); the work so far is saved."""

    exit_code = 130
    meaning = "stopped by Ctrl-C; the work so far is saved"


class Terminated(Interrupted):
    """A stop by the system (SIGTERM); the work so far is saved."""

    exit_code = 143
    meaning = "stopped by SIGTERM; the work so far is saved"


ERROR_TYPES: tuple[type[SimclrError], ...] = (
    SimclrError, SettingsError, InputError, RunError, MachineError, TrainingError, CollapseError,
    Interrupted, Terminated,
)  # fmt: skip


# Of torch (CPU on each system, CUDA, HIP, MPS, XPU), C++, cuBLAS, cuSOLVER, cuDNN 8 and 9, MIOpen, Level Zero, NCCL.
OUT_OF_MEMORY = re.compile(
    r"out.?of.?(device.|host.)?memory|(not enough|insufficient) memory"
    r"|(can't|cannot|could not|failed to) allocate memory"
    r"|bad_alloc|alloc(ation)?_?failed|failed with OOM|OOM trying to allocate|failed to (cuda )?[mc]alloc"
    r"|invalid buffer size",
    re.IGNORECASE,
)
# They say the same where they find no memory for a handle or a workspace, and where something else is wrong: cuDNN
# without an engine for a convolution, cuBLAS without a handle, kernels that cuDNN cannot load (pytorch issues 81620,
# 108645).
MAYBE_OUT_OF_MEMORY = re.compile(
    r"nable to find (an engine|a valid cuDNN algorithm)|CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED"
    r"|(CUBLAS|CUDNN|CUSOLVER)_STATUS_(NOT_INITIALIZED|INTERNAL_ERROR)"
)
GPU_MESSAGES = ("CUDA error", "CUDA driver", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS", "HIP error")
GPU_MEMORY = re.compile("C(UDA|uda|UBLAS|UDNN|USOLVER)|HIP|MIOpen|MPS|XPU|NCCL|buffer size|DEVICE_MEMORY")
GPU_ASSERT_MESSAGE = "device-side assert"  # an index out of range: our bug, not a failure of the GPU
# Failures of the disk or network share that holds a file, not of the file itself.
UNREACHABLE_ERRNOS = frozenset(
    getattr(errno, name)  # not every system has each of them
    for name in "EIO ESTALE ETIMEDOUT ENOTCONN EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH EREMOTEIO ENODEV".split()
    if hasattr(errno, name)
)
KERNEL_FOLDERS = ("/proc/", "/sys/")
TOO_MANY_FILES_ERRNOS = frozenset((errno.EMFILE, errno.ENFILE))
PERMISSION_OR_SPACE_ERRNOS = frozenset((errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def explain_system_error(error: BaseException, settings: Mapping[str, Any]) -> MachineError | None:
    """Return the error of the operating system or a device with its cause and remedy; None for any other error.

    Args:
        settings: of the command, by name.
    """
    message = first_line(error)
    if is_certainly_out_of_memory(error):
        message = message.partition(" Of the allocated memory")[0].rstrip(".")  # of torch's 600 characters
        # RuntimeErrors are torch's; others may name a file.
        owner = "the GPU" if isinstance(error, RuntimeError) and GPU_MEMORY.search(message) else "this machine"
        return MachineError(f"The memory of {owner} is too small ({message}).", _suggest_less_memory(settings))
    if is_out_of_memory(error):
        return MachineError(
            f"The GPU failed, perhaps because its memory is too small ({message}).",
            f"{_suggest_less_memory(settings)} If it fails again, run simclr doctor.",
        )
    if isinstance(error, RuntimeError):
        is_gpu_error = any(name in str(error) for name in GPU_MESSAGES)
        if is_gpu_error and GPU_ASSERT_MESSAGE not in str(error):
            return MachineError(f"The GPU failed ({message}).", "Run simclr doctor, or use the CPU: --device cpu.")
        if "can't start new thread" in message:
            return MachineError(
                "No more threads can be started.", "Use fewer workers (--workers), or raise the limit: ulimit -u."
            )
    if isinstance(error, ImportError) and not (error.name or "").startswith("simclr_cli"):
        return explain_import_error(error)
    if not isinstance(error, OSError):
        return None
    if error.errno in PERMISSION_OR_SPACE_ERRNOS:
        return MachineError(
            f"{_name_file(error)} cannot be used: {error.strerror}.", "Change its permissions, or free disk space."
        )
    if error.errno == errno.ENAMETOOLONG:
        return MachineError(f"{_name_file(error)[:60]} ... cannot be a name ({error.strerror}).", "Use a shorter one.")
    return _explain_unreachable(error)


def explain_import_error(error: ImportError) -> MachineError:
    """Return the error of a missing or broken library."""
    remedy = "Run simclr doctor, which names the command to install it."
    return MachineError(f"A library is missing or broken: {first_line(error)}.", remedy)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the memory of a GPU or of the machine was too small, or may have been: a retry may need less."""
    is_possible = isinstance(error, RuntimeError) and MAYBE_OUT_OF_MEMORY.search(str(error)) is not None
    return is_possible or is_certainly_out_of_memory(error)


def is_certainly_out_of_memory(error: BaseException) -> bool:
    """Return whether the memory of a GPU or of the machine was too small, and nothing else was wrong."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    is_torchs = type(error).__name__ == "OutOfMemoryError"  # importing torch would make every error slow
    return isinstance(error, RuntimeError) and (is_torchs or OUT_OF_MEMORY.search(str(error)) is not None)


def describe_memory_failure(error: BaseException) -> str:
    """Return the start of a sentence about an error of is_out_of_memory, which "too small" continues."""
    if is_certainly_out_of_memory(error):
        return "The memory is"
    return f"The GPU failed ({first_line(error)}), perhaps because its memory is"


def raise_if_unreachable(error: OSError, file: Path | None = None) -> None:
    """Raise MachineError if an error is of the disk, the share or a limit; return if it is of the file itself.

    Args:
        file: the file, where the error does not name it.
    """
    if (machine_error := _explain_unreachable(error, file)) is not None:
        raise machine_error from None


def require_extra(library: str, extra: str, what: str) -> None:
    """Check that an optional library is installed.

    Args:
        extra: of this package, which installs the library.
        what: subject of the message, which needs the library.

    Raises:
        MachineError: the library is not installed.
    """
    if find_spec(library) is None:
        raise MachineError(
            f"{what} needs the library {library}, which is not installed.",
            f'Install it with: pipx inject simclr-cli {library} (or pip install "simclr-cli[{extra}]").',
        )


def _explain_unreachable(error: OSError, file: Path | None = None) -> MachineError | None:
    if os.path.realpath(error.filename or file or "").startswith(KERNEL_FOLDERS):
        return None  # not of a disk: a link to /proc/self/mem is unusable, and no reason to stop
    if error.errno in UNREACHABLE_ERRNOS:
        return MachineError(
            f"{_name_file(error, file)} cannot be reached: {error.strerror}.",
            "Check the disk or the network share that holds it, and run the command again.",
        )
    if error.errno in TOO_MANY_FILES_ERRNOS:
        return MachineError(
            f"Too many files are open ({error.strerror}).", "Raise the limit and run the command again: ulimit -n 4096"
        )
    return None


def _name_file(error: OSError, file: Path | None = None) -> str:
    return str(error.filename or file or "A file")


def _suggest_less_memory(settings: Mapping[str, Any]) -> str:
    if "micro_batch" in settings:
        return "Set a smaller --micro-batch, --image-size or --backbone, or close other programs."
    if settings.get("batch_size"):
        return f"Set a smaller batch: --batch-size {max(1, settings['batch_size'] // 4)}, or close other programs."
    return "Close other programs, or use a machine with more memory."
