"""Three CPU settings of torch, each against its default, in turn.

The spin time of waiting OpenMP threads, with and without a second busy torch process; the memory layout of the
convolutions; and whether the C library keeps freed memory for the next tensors.

    python benchmarks/threads.py [--rounds 4]

Prints one JSON object: images/s of ResNet-18, forward and backward, at 64 px and batch 64; medians and spread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

from machine import describe_machine

WORK = """
import sys, time, timm, torch
from simclr_cli.core.hardware import keep_freed_memory
channels_last, seconds = sys.argv[1] == "channels_last", float(sys.argv[2])
if sys.argv[3] == "kept":
    keep_freed_memory()
layout = torch.channels_last if channels_last else torch.contiguous_format
model = timm.create_model("resnet18", num_classes=0).to(memory_format=layout)
x = torch.randn(64, 3, 64, 64).contiguous(memory_format=layout)
for _ in range(2):
    model(x).sum().backward()
print("warm", flush=True)
began, images = time.perf_counter(), 0
while time.perf_counter() - began < seconds:
    model(x).sum().backward()
    images += 64
print(images / (time.perf_counter() - began))
"""
ARMS = {  # spin count (None: libgomp's default), layout, freed memory
    "default": (None, "channels_last", "returned"),
    "spin 1,000": ("1000", "channels_last", "returned"),
    "spin 10,000": ("10000", "channels_last", "returned"),
    "spin 10,000, memory kept": ("10000", "channels_last", "kept"),
    "spin 10,000, contiguous": ("10000", "contiguous", "returned"),
}
ARMS_NEXT_TO_LOAD = ("default", "spin 1,000", "spin 10,000")


def start_process(spin: str | None, layout: str, memory: str, seconds: float) -> subprocess.Popen[str]:
    """Start one working process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    if spin is not None:
        environment["GOMP_SPINCOUNT"] = spin
    command = [sys.executable, "-c", WORK, layout, str(seconds), memory]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def measure_rate(spin: str | None, layout: str, memory: str, *, with_load: bool) -> float:
    """Measure one arm, with or without a second working process that has libgomp's default."""
    load = start_process(*ARMS["default"], 60) if with_load else None
    if load is not None and load.stdout is not None:
        load.stdout.readline()  # until it is warm
    stdout = start_process(spin, layout, memory, 3).communicate()[0]
    if load is not None:
        load.kill()
        load.wait()
    return float(stdout.split()[-1])


def main() -> None:
    """Run the rounds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    rounds = parser.parse_args().rounds
    rates: dict[str, list[float]] = {}
    for _ in range(rounds):
        for with_load in (False, True):
            for name in ARMS_NEXT_TO_LOAD if with_load else ARMS:
                condition = "with a second process" if with_load else "single process"
                rates.setdefault(f"{name}, {condition}", []).append(measure_rate(*ARMS[name], with_load=with_load))
    figures = {
        name: {
            "median": round(statistics.median(values), 1),
            "least": round(min(values), 1),
            "most": round(max(values), 1),
        }
        for name, values in rates.items()
    }
    print(json.dumps({"n": rounds, **describe_machine(), "images_per_second": figures}, indent=1))


if __name__ == "__main__":
    main()
