"""What the machine has to give, and what can be wrong with it: each fault a function of facts."""

from __future__ import annotations

import locale
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from simclr_cli.events import gigabytes
from simclr_cli.machine import core_quota, count_cores, free_ram, free_shared_memory, shared_memory_wanted
from simclr_cli.results.diagnosing import Diagnosis
from simclr_cli.verbs.torch_facts import TorchFacts

# Measured: importing torch, torchvision and timm takes 0.84 GB; training by default on a CPU (resnet18, 64 px) 1.7 GB.
LEAST_MEMORY, DEFAULT_MEMORY = 1_000_000_000, 2_000_000_000
LEAST_GPU_MEMORY = 2_000_000_000
FILES, FILES_A_CORE = 64, 8  # open at once, at most


@dataclass(frozen=True)
class Resources:
    """What this process may use."""

    cores: int  # by its affinity
    quota: float | None  # cores whose time its container may use; None: no limit
    threads: int  # that torch computes with; 0: not known
    openmp: str | None  # OMP_NUM_THREADS
    memory: int  # bytes free
    shared_memory: int | None  # bytes free in /dev/shm; None where there is none
    open_files: int | None  # that it may have; None: no limit known
    encoding: str  # of what is printed
    gpus: tuple[str, ...] = ()
    gpu_memory: tuple[int, ...] = ()  # bytes free of each


def resources(torch: TorchFacts) -> Resources:
    """What there is here."""
    return Resources(
        count_cores(), core_quota(), torch.threads, os.environ.get("OMP_NUM_THREADS"), free_ram(), free_shared_memory(),
        _open_files(), locale.getencoding(), torch.gpus, torch.free,
    )  # fmt: skip


def _open_files() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if most == resource.RLIM_INFINITY else most


def little_memory(here: Resources) -> Iterator[Diagnosis]:
    """For training as it is by default."""
    if here.memory >= DEFAULT_MEMORY:
        return
    yield Diagnosis(
        "little memory", "fault" if here.memory < LEAST_MEMORY else "advice",
        f"{gigabytes(here.memory)} of memory is free; training by default takes about {gigabytes(1_700_000_000)}, "
        f"and loading torch alone {gigabytes(840_000_000)}.",
        "Short of it, a batch is computed in smaller parts and takes longer; without any, the system ends the command.",
        "ps -eo rss,pid,comm --sort=-rss | head  # end what takes most; a container: raise its limit",
    )  # fmt: skip


def busy_gpu(here: Resources) -> Iterator[Diagnosis]:
    """Others have taken its memory."""
    for number, (name, free) in enumerate(zip(here.gpus, here.gpu_memory, strict=True)):
        if free < LEAST_GPU_MEMORY:
            others = [i for i, left in enumerate(here.gpu_memory) if left >= LEAST_GPU_MEMORY]
            yield Diagnosis(
                "busy GPU", "advice", f"Of the memory of GPU {number} ({name}), {gigabytes(free)} is free.",
                "The batch is computed in smaller parts there, or not at all.",
                f"export CUDA_VISIBLE_DEVICES={others[0]}" if others else "nvidia-smi  # shows what has taken it",
            )  # fmt: skip


def small_shared_memory(here: Resources) -> Iterator[Diagnosis]:
    """For as many processes as there are GPUs."""
    wanted = shared_memory_wanted(len(here.gpus))
    if here.shared_memory is not None and here.shared_memory < wanted:
        yield Diagnosis(
            "small /dev/shm", "fault",
            f"{gigabytes(here.shared_memory)} is free in /dev/shm, and --devices {len(here.gpus)} takes up to "
            f"{gigabytes(wanted)} of it.",
            "NCCL, by which the GPUs talk to one another, fails without it.",
            "sudo mount -o remount,size=1G /dev/shm  # in Docker: docker run --shm-size=1g ...",
        )  # fmt: skip


def few_open_files(here: Resources) -> Iterator[Diagnosis]:
    """May be open at once."""
    wanted = FILES + FILES_A_CORE * here.cores
    if here.open_files is not None and here.open_files < wanted:
        yield Diagnosis(
            "few open files", "fault",
            f"A process may have {here.open_files} files open, and on {here.cores} cores simclr has up to {wanted}.",
            "Pictures can then not be opened (too many open files).", f"ulimit -n {max(1024, wanted)}",
        )  # fmt: skip


def idle_cores(here: Resources) -> Iterator[Diagnosis]:
    """OMP_NUM_THREADS says fewer than there are."""
    allowed = min(here.cores, here.quota or here.cores)
    if here.openmp is not None and here.threads and here.threads < int(allowed):
        yield Diagnosis(
            "idle cores", "advice",
            f"OMP_NUM_THREADS is {here.openmp}, so that torch computes with {here.threads} of {int(allowed)} cores.",
            "Training on a CPU gets that much slower.", "unset OMP_NUM_THREADS",
        )  # fmt: skip


def crowded_cores(here: Resources) -> Iterator[Diagnosis]:
    """More threads than there are."""
    allowed = max(1, int(min(here.cores, here.quota or here.cores)))
    if here.threads <= allowed or (here.quota is None and here.openmp is None):
        return
    limit = f"its container may use {here.quota:g} of {here.cores} cores" if here.quota else f"there are {here.cores}"
    set_by = f"by OMP_NUM_THREADS={here.openmp}" if here.openmp else "one a core"
    yield Diagnosis(
        "crowded cores", "advice", f"torch computes with {here.threads} threads ({set_by}), and {limit}.",
        "Threads that wait for one another are several times slower than as many as there are cores.",
        f"export OMP_NUM_THREADS={allowed}  # and give --workers {allowed}",
    )  # fmt: skip


def narrow_encoding(here: Resources) -> Iterator[Diagnosis]:
    """Not UTF-8."""
    if here.encoding.lower().replace("-", "") != "utf8":
        yield Diagnosis(
            "narrow encoding", "advice", f"The encoding of this terminal is {here.encoding}, not UTF-8.",
            "Names of files are shown with escapes, and other programs read them otherwise.", "export LC_ALL=C.UTF-8",
        )  # fmt: skip


CHECKS: tuple[Callable[[Resources], Iterator[Diagnosis]], ...] = (
    little_memory, busy_gpu, small_shared_memory, few_open_files, idle_cores, crowded_cores, narrow_encoding,
)  # fmt: skip
