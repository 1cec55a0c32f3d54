"""What the machine has to give, memory and cores, and how they are taken."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CGROUPS = (  # limit and use of a container's memory: version 2, version 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
CPU_QUOTAS = (["/sys/fs/cgroup/cpu.max"], [f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us" for name in ("quota", "period")])
SHARED_MEMORY = Path("/dev/shm")

UNKNOWN_MEMORY = 2**32  # Windows: every machine that runs torch has 4 GiB


def free_memory(device: torch.device) -> int:
    """Bytes that a process could take there: a GPU's own memory, or else the machine's, or what its container may."""
    if device.type == "cuda":
        import torch

        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return free_ram()


def free_ram() -> int:
    """Bytes that this process could take of the machine's memory, or of what its container may."""
    left = [_available()]
    for limit, use in CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            left.append(max(0, int(Path(limit).read_text()) - int(Path(use).read_text())))
    return min(left)


def count_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def core_quota() -> float | None:
    """How many cores' time the container of this process may use; None where it has no such limit."""
    for files in CPU_QUOTAS:  # version 2: "200000 100000", or "max 100000"; version 1: a file each, -1 for none
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = map(int, " ".join(Path(file).read_text() for file in files).split())
            return quota / period if quota > 0 else None
    return None


def free_shared_memory() -> int | None:
    """Bytes free in /dev/shm; None where there is no such place."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None


def lack_of_shared_memory(gpus: int) -> str | None:
    """A sentence about it, if /dev/shm is too small for as many processes, each on a GPU of its own."""
    free, wanted = free_shared_memory(), shared_memory_wanted(gpus)
    if free is None or free >= wanted:
        return None
    return (
        f"/dev/shm has {free / 1e6:.0f} MB free, and {gpus} GPUs take up to {wanted / 1e6:.0f} MB of it to talk to one "
        "another: if NCCL fails, enlarge it (docker run --shm-size=1g)."
    )


def shared_memory_wanted(gpus: int) -> int:
    """Bytes of /dev/shm that as many processes, each on a GPU of its own, take at most: NCCL's buffers.

    A buffer is about 10 MB (NCCL names its size when it cannot have it), and each process has one for either neighbor.
    """
    return gpus * 20_000_000 if gpus > 1 else 0


def whole_memory() -> int:
    """Bytes that the machine has, or its container may take, whether they are free at the moment or not."""
    limits = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit, _ in CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            limits.append(int(Path(limit).read_text()))
    return min(limits, default=UNKNOWN_MEMORY)


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed for the next tensors, as torch itself does on a GPU; False where it is not glibc.

    Each step takes and frees the same hundreds of MB. By default glibc hands large blocks back at once, and the system
    clears every page anew: a tenth of a step (docs/benchmarks.md).
    """
    import ctypes  # not at the top: --help is quicker without

    asked = {-1: 2**31 - 1, -2: 2**26, -3: 2**30}  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError, OSError):  # macOS, musl; Windows
        return False
    return all(mallopt(parameter, size) for parameter, size in asked.items())


def share_cores() -> None:
    """Let OpenMP's threads sleep after half a millisecond or so of waiting; to be called before torch is imported.

    Spinning as long as is their habit, they starve one another as soon as anything else runs on the machine: 4 to 7
    times slower on 2 cores. Sleeping sooner still costs a tenth of the speed when alone (docs/benchmarks.md).
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _available() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError, AttributeError):  # macOS: half of what there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return UNKNOWN_MEMORY
