"""Three choices of how torch computes on a CPU, each against its default, in turn: how long OpenMP's threads spin while
they wait, alone and beside a second busy torch process; the memory layout of the convolutions; and whether the C
library keeps freed memory for the next tensors.

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
BESIDE = ("default", "spin 1,000", "spin 10,000")


def start(spin: str | None, layout: str, memory: str, seconds: float) -> subprocess.Popen[str]:
    """One process at work."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    if spin is not None:
        surroundings["GOMP_SPINCOUNT"] = spin
    command = [sys.executable, "-c", WORK, layout, str(seconds), memory]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=surroundings)


def images_per_second(spin: str | None, layout: str, memory: str, *, beside: bool) -> float:
    """One arm, alone or beside a process with libgomp's default that is at work all the while."""
    other = start(*ARMS["default"], 60) if beside else None
    if other is not None and other.stdout is not None:
        other.stdout.readline()  # it is warm
    shown = start(spin, layout, memory, 3).communicate()[0]
    if other is not None:
        other.kill()
        other.wait()
    return float(shown.split()[-1])


def main() -> None:
    """Run the rounds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    rounds = parser.parse_args().rounds
    seen: dict[str, list[float]] = {}
    for _ in range(rounds):
        for beside in (False, True):
            for name in BESIDE if beside else ARMS:
                place = "beside another" if beside else "alone"
                seen.setdefault(f"{name}, {place}", []).append(images_per_second(*ARMS[name], beside=beside))
    figures = {
        name: {"median": round(statistics.median(v), 1), "least": round(min(v), 1), "most": round(max(v), 1)}
        for name, v in seen.items()
    }
    print(json.dumps({"n": rounds, **describe_machine(), "images_per_second": figures}, indent=1))


if __name__ == "__main__":
    main()
