"""A part of benchmarks/gpu.py, in a process of its own, which gpu.py starts. It holds the first part: the facts.

Nothing is imported before a part needs it: what a machine lacks must not keep the facts from being told.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tomllib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu import ROOT, save_json

GIB = 2**30
MODULES = {"facts": "gpu_part", "agreement": "gpu_checks", "command": "gpu_checks", "memory": "gpu_checks",
           "steps": "gpu_speed", "cifar": "gpu_speed", "speed": "gpu_speed"}  # fmt: skip


class Figures:
    """The figures of a part, saved whenever one is added."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.file, self.device, self.small = args.file, args.device, args.small
        self.cifar, self.photos, self.work = args.cifar, args.photos, args.work
        self.end = time.monotonic() + args.seconds - 2
        self.values: dict[str, Any] = {}
        self.has_failed = False

    def add(self, **values: Any) -> None:
        """Add figures."""
        self.values |= values
        save_json(self.file, self.values)

    def measure(self, name: str, function: Callable[..., Any], *arguments: Any) -> None:
        """Add what a function returns, with its seconds, or why it failed; the part goes on."""
        start = time.monotonic()
        try:
            result = function(*arguments)
        except Exception as error:
            traceback.print_exc()
            self.has_failed = True
            result = {**self.values.get(name, {}), "failed": f"{type(error).__name__}: {error}"[:600]}
        if isinstance(result, dict):
            result["took_seconds"] = round(time.monotonic() - start, 1)
        self.add(**{name: result})

    def seconds_left(self) -> float:
        """Return the seconds until this part should end by itself."""
        return self.end - time.monotonic()


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    import torch

    if device != "cpu":
        torch.cuda.synchronize(device)


def reset_peak(device: str) -> None:
    """Free what is unused, and count the peak from here on."""
    import torch

    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def read_peak(device: str) -> float | None:
    """Return the peak of PyTorch's memory in GiB; None for a CPU."""
    import torch

    return None if device == "cpu" else round(torch.cuda.max_memory_allocated(device) / GIB, 3)


def facts(figures: Figures) -> None:
    """Name versions and what the machine lacks, then the GPU, and what the doctor says."""
    command = [sys.executable, "-m", "simclr_cli", "doctor", "--runs", str(figures.work)]
    doctor = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # it takes as long as the rest
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    versions = {}
    for package in [*(re.split(r"[<>=~! ]", text)[0] for text in required), "triton"]:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "missing"
    compilers = {name: shutil.which(name) for name in ("cc", "gcc", "nvcc")}
    source = run_briefly("git", "-C", str(ROOT), "log", "-1", "--format=%h %cs %s")
    figures.add(python=platform.python_version(), platform=platform.platform(), packages=versions, required=required,
                compilers=compilers, source=source, cores=len(os.sched_getaffinity(0)))  # fmt: skip
    figures.add(memory=run_briefly("grep", "-m", "2", "Mem", "/proc/meminfo"), shm=run_briefly("df", "-h", "/dev/shm"))
    query = "--query-gpu=name,driver_version,memory.total,memory.used,compute_mode,clocks.max.sm,power.limit"
    figures.add(nvidia_smi=run_briefly("nvidia-smi", query, "--format=csv,noheader"))
    describe_torch(figures)
    said, _ = doctor.communicate()
    figures.add(doctor=said.decode(errors="replace"), doctor_exit_code=doctor.returncode)


def describe_torch(figures: Figures) -> None:
    """Add what torch was built for, and the properties of the GPU, each as far as torch tells it."""
    import torch

    gpu = figures.device
    figures.add(torch=torch.__version__, torch_cuda=torch.version.cuda, arch_list=torch.cuda.get_arch_list())
    if gpu == "cpu":
        return
    figures.measure("gpu", lambda: torch.cuda.get_device_properties(gpu).name)
    figures.measure("gpus", torch.cuda.device_count)
    figures.measure("capability", lambda: torch.cuda.get_device_capability(gpu))
    figures.measure("free_and_total_gib", lambda: [round(n / GIB, 2) for n in torch.cuda.mem_get_info(gpu)])
    figures.measure("computes", lambda: float(torch.ones(1, device=gpu).add_(1)) == 2)
    figures.measure("bfloat16", lambda: torch.cuda.is_bf16_supported(including_emulation=False))
    figures.measure("cudnn", torch.backends.cudnn.version)


def run_briefly(*command: str) -> str:
    """Return what a command prints, or why it cannot."""
    try:
        process = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{type(error).__name__}: {error}"[:300]
    return (process.stdout + process.stderr).strip()[-4000:]


def main() -> int:
    """Run one part; 1 if something of it failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=MODULES)
    for name in ("file", "cifar", "photos", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    figures = Figures(args)
    figures.add(device=args.device)
    getattr(importlib.import_module(MODULES[args.part]), args.part)(figures)
    return 1 if figures.has_failed else 0


if __name__ == "__main__":
    sys.exit(main())
