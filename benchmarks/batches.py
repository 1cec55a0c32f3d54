"""Time and peak memory of batches larger than the memory, by gradient caching, against a single pass.

    python benchmarks/batches.py IMAGES [--rounds 9]

time     a step of ResNet-18 at 64 px, batch 64, in 4 micro-batches of 16 and in 1 of 64, in turn in one process
memory   the peak of a whole `pretrain` of one epoch on 4,096 of IMAGES, ResNet-10-T at 40 px: batch 64, and batch 4,096
         in micro-batches of 64
devices  images/s of `simclr pretrain` with --devices 2 over --devices 1, ResNet-18 at 64 px, batch 64, in turn
plan     peak memory of a step over the plan's estimate (bytes kept per image), by batch size

Prints one JSON object.
"""

from __future__ import annotations

from machine import describe_machine, summarize  # before torch

# isort: split
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.events import silent
from simclr_cli.engine.optim import create_optimizer
from simclr_cli.images.loader import Batch
from simclr_cli.train.loop import build_model
from simclr_cli.train.plan import Circumstances, resolve
from simclr_cli.train.profiling import measure_bytes_per_view
from simclr_cli.train.step import Step

CPU = torch.device("cpu")
PEAK = """
import json, resource, sys
from pathlib import Path
from simclr_cli import PretrainSettings, pretrain
given = json.loads(sys.argv[1])
pretrain(PretrainSettings(weights="none", **{**given, "images": Path(given["images"]), "runs": Path(given["runs"])}))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
STEP_PEAK = """
import resource, sys
import torch
sys.path.insert(0, sys.argv[1])
from batches import prepare_step, time_step
batch = int(sys.argv[2])
step, bytes_kept = prepare_step(batch)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
time_step(step, batch, batch)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / (bytes_kept * batch))
"""


def prepare_step(batch: int) -> tuple[Step, int]:
    """Return a training step, and the bytes that it keeps per image."""
    settings = ResolvedSettings(images=Path(), backbone="resnet18", image_size=64, batch_size=batch, compile="off")
    resolved = resolve(settings, Circumstances(10_000, 64, CPU))[0]
    model = build_model(resolved).train()
    bytes_kept = 2 * measure_bytes_per_view(model.encoder, resolved.precision)
    return Step(model, create_optimizer(model, resolved.optimizer, weight_decay=0.01), resolved, silent), bytes_kept


def time_step(step: Step, batch: int, micro_batch: int) -> float:
    """Return the seconds of one step."""
    pixels = torch.randint(0, 256, (batch, 3, 96, 96), dtype=torch.uint8)
    parts = tuple(slice(a, a + micro_batch) for a in range(0, batch, micro_batch))
    micro_batches = (pixels[part] for part in (*parts, *parts[:-1]))
    start = time.perf_counter()
    float(step(Batch(0, np.arange(batch), torch.full((batch, 2), 96), parts, micro_batches)))
    return time.perf_counter() - start


def compare_micro_batches(rounds: int) -> dict[str, Any]:
    """Time a single pass and micro-batches in turn."""
    step, _ = prepare_step(64)
    arms: dict[str, list[float]] = {"one pass": [], "micro-batches of 16": []}
    for n in range(rounds + 1):
        for name, micro_batch in zip(arms, (64, 16), strict=True):
            seconds = time_step(step, 64, micro_batch)
            if n:  # the first is warm-up
                arms[name].append(seconds)
    ratios = [cached / single for single, cached in zip(*arms.values(), strict=True)]
    return {"seconds": {name: summarize(values) for name, values in arms.items()}, "ratio": summarize(ratios)}


def measure_peaks(images: Path, work: Path) -> dict[str, Any]:
    """Measure the peak memory of whole commands."""
    image_folder = work / "images"
    image_folder.mkdir()
    for i, path in enumerate(sorted(images.rglob("*.*g"))[:4096]):
        (image_folder / f"{i:05}{path.suffix}").symlink_to(path.resolve())
    peaks: dict[str, Any] = {}
    for batch, micro_batch in ((64, 64), (4096, 64), (4096, 256)):
        settings = {
            "images": str(image_folder), "runs": str(work / "runs"), "run": f"{batch}-{micro_batch}", "epochs": 1,
            "backbone": "resnet10t", "image_size": 40, "batch_size": batch, "micro_batch": micro_batch,
            "optimizer": "lars",
        }  # fmt: skip
        environment = {**os.environ, "SIMCLR_CACHE": str(work / "cache")}
        run = [sys.executable, "-c", PEAK, json.dumps(settings)]
        out = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout
        peaks[f"batch {batch}, micro-batches of {micro_batch}"] = round(int(out) / 2**20)
    return {"MiB": peaks}


def compare_devices(work: Path, rounds: int) -> dict[str, Any]:
    """Compare two processes with one, from the second epoch on, on the images that `measure_peaks` linked."""
    rates: dict[str, list[float]] = {"1": [], "2": []}
    image_folder = work / "few"
    image_folder.mkdir()
    for path in sorted((work / "images").iterdir())[:512]:
        path.rename(image_folder / path.name)
    environment = {**os.environ, "SIMCLR_CACHE": str(work / "cache")}
    for number in range(rounds):
        for count, rate in rates.items():
            settings = f"--devices {count} --run {count}-{number} --runs {work}/runs --epochs 3 "
            settings += "--image-size 64 --backbone resnet18 --batch-size 64"
            run = [
                sys.executable,
                "-m",
                "simclr_cli",
                "pretrain",
                str(image_folder),
                "--weights",
                "none",
                *settings.split(),
            ]
            subprocess.run(run, env=environment, capture_output=True, check=True)
            rows = (work / "runs" / f"{count}-{number}" / "speed.jsonl").read_text().splitlines()[1:]
            rate.append(statistics.fmean(json.loads(row)["images_per_second"] for row in rows))
    ratios = [two / single for single, two in zip(*rates.values(), strict=True)]
    return {
        "images_per_second": {name: summarize(values, 1) for name, values in rates.items()},
        "ratio": summarize(ratios),
    }


def compare_plans() -> dict[str, Any]:
    """Measure each batch size in its own process, since the peak is that of a process."""
    run = [sys.executable, "-c", STEP_PEAK, str(Path(__file__).parent)]
    return {
        str(batch): round(
            float(subprocess.run([*run, str(batch)], capture_output=True, text=True, check=True).stdout), 2
        )
        for batch in (16, 64, 192)
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        figures = {
            "plan": compare_plans(),
            "time": compare_micro_batches(args.rounds),
            "memory": measure_peaks(args.images, Path(work)),
        }
        figures["devices"] = compare_devices(Path(work), 3)
    print(json.dumps({**figures, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
