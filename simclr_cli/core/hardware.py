"""Memory and CPU cores that this process may use."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CGROUP_MEMORY_FILES = (  # limit and usage of a container's memory: version 2, version 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
CGROUP_CPU_FILES = (
    ["/sys/fs/cgroup/cpu.max"],
    [f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us" for name in ("quota", "period")],
)
ON_WINDOWS = os.name == "nt"
SHARED_MEMORY = Path("/dev/shm")

NVIDIA_VERSION = Path("/proc/driver/nvidia/version")
NVIDIA_FILES = (  # of a driver: Linux, WSL, Windows
    Path("/dev/nvidia0"), Path("/usr/lib/wsl/lib/libcuda.so.1"),
    Path(os.environ.get("SYSTEMROOT", "/"), "System32", "nvcuda.dll"),
)  # fmt: skip
UNKNOWN_MEMORY_BYTES = 2**32  # where the system does not say; every machine that runs torch has 4 GiB


def get_free_memory(device: torch.device) -> int:
    """Return the free bytes of a device: memory of the GPU, or else of the machine or its container."""
    import torch

    if device.type == "mps":  # it is the machine's memory, of which Metal gives a part
        return min(get_free_ram(), torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    if device.type != "cpu":
        unused = torch.accelerator.memory_reserved(device) - torch.accelerator.memory_allocated(device)
        return torch.accelerator.get_memory_info(device)[0] + unused
    return get_free_ram()


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes bfloat16 in hardware: NVIDIA's from Ampere on, and AMD's.

    torch.cuda.is_bf16_supported asks the current device, and says yes where bfloat16 is emulated, which is slow.
    """
    if device.type != "cuda":
        return False
    import torch

    return bool(torch.version.hip) or torch.cuda.get_device_capability(device)[0] >= 8


def get_free_ram() -> int:
    """Return the free bytes of the machine's memory, or of its container if less."""
    free = [_get_available_ram()]
    for limit, usage in CGROUP_MEMORY_FILES:
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            free.append(max(0, int(Path(limit).read_text()) - int(Path(usage).read_text())))
    return min(free)


def count_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def get_core_quota() -> float | None:
    """Return the CPU quota of the container, in cores; None without a limit."""
    for files in CGROUP_CPU_FILES:  # version 2: "200000 100000", or "max 100000"; version 1: a file each, -1 for none
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = map(int, " ".join(Path(file).read_text() for file in files).split())
            return quota / period if quota > 0 else None
    return None


def find_nvidia_driver() -> str:
    """Return the version of NVIDIA's driver; "?" if it is unknown; "" without a driver."""
    try:
        return (re.search(r"\d{3}(\.\d+)+", NVIDIA_VERSION.read_text()) or ["?"])[0]
    except OSError:
        return "?" if any(map(os.path.exists, NVIDIA_FILES)) else ""


def get_free_shared_memory() -> int | None:
    """Return the free bytes of /dev/shm; None where it does not exist."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None


def describe_shared_memory_shortage(gpus: int) -> str | None:
    """Return a warning if /dev/shm is too small for as many processes, one per GPU; else None."""
    free, needed = get_free_shared_memory(), estimate_shared_memory(gpus)
    if free is None or free >= needed:
        return None
    return (
        f"/dev/shm has {free / 1e6:.0f} MB free, and the communication of {gpus} GPUs needs up to "
        f"{needed / 1e6:.0f} MB. If NCCL fails, enlarge it (docker run --shm-size=1g)."
    )


def estimate_shared_memory(gpus: int) -> int:
    """Return the most bytes of /dev/shm that NCCL's buffers use for as many processes, one per GPU.

    A buffer has about 10 MB (NCCL names its size when it cannot allocate it); each process has one per neighbor.
    """
    return gpus * 20_000_000 if gpus > 1 else 0


def get_total_memory() -> int:
    """Return the bytes of the machine's memory, free or not, or of its container if less."""
    limits = [memory[0]] if (memory := _read_memory()) else []
    for limit, _ in CGROUP_MEMORY_FILES:
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            limits.append(int(Path(limit).read_text()))
    return min(limits, default=UNKNOWN_MEMORY_BYTES)


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next tensors, as torch does on a GPU; return False without glibc.

    Each step allocates and frees the same hundreds of MB. By default glibc returns large blocks at once, and the system
    clears every page anew: a tenth of a step (docs/benchmarks.md).
    """
    import ctypes  # not at the top: --help is faster without it

    parameters = {-1: 2**31 - 1, -2: 2**26, -3: 2**30}  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError, OSError):  # macOS, musl; Windows
        return False
    return all(mallopt(parameter, size) for parameter, size in parameters.items())


def limit_openmp_spinning() -> None:
    """Let waiting OpenMP threads sleep after about half a millisecond; call before torch is imported.

    By default they spin longer and starve one another as soon as anything else runs: 4 to 7 times slower on 2 cores.
    Sleeping even sooner costs a tenth of the speed on an idle machine (docs/benchmarks.md).
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _get_available_ram() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return memory[1] if (memory := _read_memory()) else UNKNOWN_MEMORY_BYTES


def _read_memory() -> tuple[int, int] | None:
    """Return the bytes of the machine's memory, and the free ones: half of them on macOS, which does not say."""
    if hasattr(os, "sysconf"):
        with contextlib.suppress(OSError, ValueError):
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            return total, total // 2
    import ctypes

    if not (windll := getattr(ctypes, "windll", None)):
        return None
    # MEMORYSTATUSEX: its size and the load (a word of 32 bits each), total and free physical memory, five more
    status = (ctypes.c_ulonglong * 8)(64)
    return (status[1], status[2]) if windll.kernel32.GlobalMemoryStatusEx(status) else None
