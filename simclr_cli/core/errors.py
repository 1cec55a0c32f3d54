"""Kinds of error and their exit codes, and what the system refuses as one of them."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar


class SimclrError(Exception):
    """An expected failure: one sentence of what and why, one of what to do next.

    Any text may hold names of files; the face makes them safe to show.
    """

    exit_code: ClassVar[int] = 1
    meaning: ClassVar[str] = "an error inside simclr itself (run again with --debug and report it)"

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what} {remedy}")
        self.what = what
        self.remedy = remedy


class SettingsError(SimclrError):
    """A setting that cannot work, alone or with another."""

    exit_code = 2
    meaning = "wrong usage: an unknown option, or a setting that cannot work"


class InputError(SimclrError):
    """The images, labels or queries given cannot be used."""

    exit_code = 3
    meaning = "the images, labels or queries given cannot be used"


class RunError(SimclrError):
    """A run folder or a file of vectors is missing, unfinished, damaged, or belongs to another model."""

    exit_code = 4
    meaning = "a run, checkpoint or vectors file is missing, unfinished, damaged, or of another model"


class MachineError(SimclrError):
    """The machine does not give what is needed: a right to write, disk, a device, the network, an extra."""

    exit_code = 5
    meaning = "the machine does not allow it: no right to write, no space, another process at it, no device, no weights"


class TrainingError(SimclrError):
    """Training went wrong by itself: the loss is not finite."""

    exit_code = 6
    meaning = "training failed: the loss is no longer finite"


class CollapseError(SimclrError):
    """Training ended with an encoder that gives all images about the same vector."""

    exit_code = 7
    meaning = "training ended, and the encoder has collapsed: it gives all images about the same vector"


class Interrupted(SimclrError):
    """A person (Ctrl-C) asked for a stop; what was made so far is saved."""

    exit_code = 130
    meaning = "stopped by Ctrl-C; what was made is saved"


class Terminated(Interrupted):
    """The system (SIGTERM) asked for a stop; what was made so far is saved."""

    exit_code = 143
    meaning = "stopped by SIGTERM; what was made is saved"


KINDS: tuple[type[SimclrError], ...] = (
    SimclrError, SettingsError, InputError, RunError, MachineError, TrainingError, CollapseError,
    Interrupted, Terminated,
)  # fmt: skip


OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "bad_alloc", "ALLOC_FAILED")  # torch's words, and C++'s
GPU = ("CUDA error", "CUDA driver", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS", "HIP error")
OURS = "device-side assert"  # is an index of ours, not the GPU's fault
# A disk that fails, or a network share that has gone: of the place where a file lies, not of the file.
UNREACHABLE = frozenset(
    getattr(errno, name)  # not every system has each of them
    for name in "EIO ESTALE ETIMEDOUT ENOTCONN EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH EREMOTEIO ENODEV".split()
    if hasattr(errno, name)
)
TOO_MANY_FILES = frozenset((errno.EMFILE, errno.ENFILE))
NO_RIGHT = frozenset((errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is for want of memory, of a GPU or of the machine."""
    no_memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    return no_memory or (isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY))


def trouble(error: BaseException, given: Mapping[str, Any]) -> MachineError | None:
    """The error with its cause and a way out; None for one that the machine has no part in.

    Args:
        given: the settings of the command, by name.
    """
    words = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if is_out_of_memory(error):
        whose = "the GPU" if "CUDA" in words or "CUBLAS" in words else "this machine"
        return MachineError(f"The memory of {whose} is too small ({words}).", _less_memory(given))
    if isinstance(error, RuntimeError) and any(name in str(error) for name in GPU) and OURS not in str(error):
        return MachineError(
            f"The GPU failed ({words}).", "See what simclr doctor says of it, or compute elsewhere: --device cpu."
        )
    if isinstance(error, RuntimeError) and "can't start new thread" in words:
        return MachineError("No more threads can be started.", "Give fewer --workers, or raise the limit: ulimit -u.")
    if not isinstance(error, OSError):
        return None
    if error.errno in NO_RIGHT:
        return MachineError(f"{_file(error)} cannot be used: {error.strerror}.", "Change its rights, or make room.")
    return _unreachable(error)


def check_reachable(error: OSError, file: Path | None = None) -> None:
    """Pass over what the system says of a file itself.

    Args:
        file: which one it is, where the error does not know.

    Raises:
        MachineError: it says something of the disk, the share, or a limit.
    """
    if (machine := _unreachable(error, file)) is not None:
        raise machine from None


def require_extra(library: str, extra: str, what: str) -> None:
    """Make sure that there is a library that is no dependency of ours.

    Args:
        extra: of this package, which brings it.
        what: needs it, as the subject of a sentence.

    Raises:
        MachineError: it is not installed.
    """
    if find_spec(library) is None:
        raise MachineError(
            f"{what} needs the library {library}, which is not installed.",
            f'Install it with: pipx inject simclr-cli {library} (or pip install "simclr-cli[{extra}]").',
        )


def _unreachable(error: OSError, file: Path | None = None) -> MachineError | None:
    if error.errno in UNREACHABLE:
        return MachineError(
            f"{_file(error, file)} cannot be reached: {error.strerror}.",
            "See to the disk or the network share that holds it, and type the command again.",
        )
    if error.errno in TOO_MANY_FILES:
        return MachineError(
            f"Too many files are open ({error.strerror}).", "Raise the limit and type the command again: ulimit -n 4096"
        )
    return None


def _file(error: OSError, file: Path | None = None) -> str:
    return str(error.filename or file or "A file")


def _less_memory(given: Mapping[str, Any]) -> str:
    if "micro_batch" in given:
        return "Give a smaller --micro-batch, --image-size or --backbone, or close what else is running."
    if given.get("batch_size"):
        return f"Give a smaller batch: --batch-size {max(1, given['batch_size'] // 4)}, or close what else is running."
    return "Close what else is running, or take a machine with more."
