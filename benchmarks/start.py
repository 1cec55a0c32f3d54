"""Startup time: `simclr --help`, `--version` and a usage error against `python -c "import torch"`, in turn.

    python benchmarks/start.py [--rounds 7]

Prints one JSON object: medians and spread in seconds, and the ratio to importing torch round by round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

from machine import describe_machine

SIMCLR = [sys.executable, "-m", "simclr_cli"]
COMMANDS = {
    "help": [*SIMCLR, "--help"],
    "version": [*SIMCLR, "--version"],
    "usage error": [*SIMCLR, "pretrain", ".", "--batch-size", "1"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def measure_seconds(command: list[str]) -> float:
    """Return the wall-clock seconds of one process."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - start


def main() -> None:
    """Run the rounds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    for command in COMMANDS.values():
        measure_seconds(command)  # warm: the first start compiles bytecode and fills the page cache
    times = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            times[name].append(measure_seconds(command))
    result = {"n": rounds, **describe_machine()}
    for name, values in times.items():
        ratios = [value / torch for value, torch in zip(values, times["import torch"], strict=True)]
        result[name] = {
            "median_s": round(statistics.median(values), 3),
            "least_s": round(min(values), 3),
            "most_s": round(max(values), 3),
            "of_import_torch": round(statistics.median(ratios), 3),
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
