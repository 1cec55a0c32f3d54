"""The machine of a measurement, and the summary of its values. Every benchmark prints both."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from simclr_cli.core.hardware import limit_openmp_spinning

limit_openmp_spinning()  # as the command does; import this module before torch


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, Python and versions."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "timm", "pillow", "numpy")},
    }


def summarize(values: Sequence[float], digits: int = 3) -> dict[str, Any]:
    """Return the median, the least, the most and the number of values."""
    return {
        "median": round(statistics.median(values), digits),
        "least": round(min(values), digits),
        "most": round(max(values), digits),
        "n": len(values),
    }
