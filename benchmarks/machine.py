"""What a figure was measured on, and how it spread: stands beside every one of them."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from simclr_cli.core.hardware import share_cores

share_cores()  # as the command does; where this is imported before torch


def describe_machine() -> dict[str, Any]:
    """Processor, cores, Python and versions."""
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


def spread(values: Sequence[float], digits: int = 3) -> dict[str, Any]:
    """Median, least and most, and how many."""
    return {
        "median": round(statistics.median(values), digits),
        "least": round(min(values), digits),
        "most": round(max(values), digits),
        "n": len(values),
    }
