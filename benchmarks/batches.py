"""What a batch larger than the memory costs: gradient caching against one pass, in time and in peak memory.

    python benchmarks/batches.py IMAGES [--rounds 9]

time     a step of ResNet-18 at 64 px, batch 64, in 4 micro-batches of 16 and in 1 of 64, in turn in one process
memory   the peak of a whole `pretrain` of one epoch on 4,096 of IMAGES, ResNet-10-T at 40 px: batch 64, and batch 4,096
         in micro-batches of 64
devices  images/s of `simclr pretrain` with --devices 2 over --devices 1, ResNet-18 at 64 px, batch 64, in turn
plan     what a step takes at its peak over what the plan counts on (bytes kept an image), by batch

Prints one JSON object.
"""

from __future__ import annotations

from machine import describe_machine, spread  # before torch: see there

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
from simclr_cli.train.profiling import bytes_a_view
from simclr_cli.train.step import Step

CPU = torch.device("cpu")
PEAK = """
import json, resource, sys
from pathlib import Path
from simclr_cli import PretrainSettings, pretrain
given = json.loads(sys.argv[1])
pretrain(PretrainSettings(**{**given, "images": Path(given["images"]), "runs": Path(given["runs"])}))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
STEP_PEAK = """
import resource, sys
import torch
sys.path.insert(0, sys.argv[1])
from batches import one_step, prepared
batch = int(sys.argv[2])
step, kept = prepared(batch)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
one_step(step, batch, batch)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / (kept * batch))
"""


def prepared(batch: int, backbone: str = "resnet18", size: int = 64, device: torch.device = CPU) -> tuple[Step, int]:
    """A step, and the bytes that an image keeps."""
    asked = ResolvedSettings(images=Path(), backbone=backbone, image_size=size, batch_size=batch, compile="off")
    chosen = resolve(asked, Circumstances(10_000, size, device))[0]
    model = build_model(chosen).to(device).train()
    kept = 2 * bytes_a_view(model.encoder, chosen.precision)
    return Step(model, create_optimizer(model, chosen.optimizer, weight_decay=0.01), chosen, silent), kept


def one_step(step: Step, batch: int, micro_batch: int, side: int = 96) -> float:
    """Seconds."""
    pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    parts = tuple(slice(a, a + micro_batch) for a in range(0, batch, micro_batch))
    coming = (pixels[part].to(step.device) for part in (*parts, *parts[:-1]))
    began = time.perf_counter()
    float(step(Batch(0, np.arange(batch), torch.full((batch, 2), side), parts, coming)))
    return time.perf_counter() - began


def seconds(rounds: int) -> dict[str, Any]:
    """Both ways in turn."""
    step, _ = prepared(64)
    arms: dict[str, list[float]] = {"one pass": [], "micro-batches of 16": []}
    for n in range(rounds + 1):
        for name, micro_batch in zip(arms, (64, 16), strict=True):
            took = one_step(step, 64, micro_batch)
            if n:  # the first is warm-up
                arms[name].append(took)
    ratios = [many / one for one, many in zip(*arms.values(), strict=True)]
    return {"seconds": {name: spread(values) for name, values in arms.items()}, "ratio": spread(ratios)}


def peaks(images: Path, place: Path) -> dict[str, Any]:
    """Of whole commands."""
    few = place / "images"
    few.mkdir()
    for i, path in enumerate(sorted(images.rglob("*.*g"))[:4096]):
        (few / f"{i:05}{path.suffix}").symlink_to(path.resolve())
    found: dict[str, Any] = {}
    for batch, micro_batch in ((64, 64), (4096, 64), (4096, 256)):
        asked = {"images": str(few), "runs": str(place / "runs"), "run": f"{batch}-{micro_batch}", "epochs": 1,
                 "backbone": "resnet10t", "image_size": 40, "batch_size": batch, "micro_batch": micro_batch,
                 "optimizer": "lars"}  # fmt: skip
        environment = {**os.environ, "SIMCLR_CACHE": str(place / "cache")}
        run = [sys.executable, "-c", PEAK, json.dumps(asked)]
        out = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout
        found[f"batch {batch}, micro-batches of {micro_batch}"] = round(int(out) / 2**20)
    return {"MiB": found}


def devices(place: Path, rounds: int) -> dict[str, Any]:
    """Two processes on this machine over one, from the second epoch on; on the images that `peaks` has linked."""
    rates: dict[str, list[float]] = {"1": [], "2": []}
    few = place / "few"
    few.mkdir()
    for path in sorted((place / "images").iterdir())[:512]:
        path.rename(few / path.name)
    environment = {**os.environ, "SIMCLR_CACHE": str(place / "cache")}
    for number in range(rounds):
        for count, seen in rates.items():
            asked = f"--devices {count} --run {count}-{number} --runs {place}/runs --epochs 3 "
            asked += "--image-size 64 --backbone resnet18 --batch-size 64"
            run = [sys.executable, "-m", "simclr_cli", "pretrain", str(few), *asked.split()]
            subprocess.run(run, env=environment, capture_output=True, check=True)
            rows = (place / "runs" / f"{count}-{number}" / "speed.jsonl").read_text().splitlines()[1:]
            seen.append(statistics.fmean(json.loads(row)["images_per_second"] for row in rows))
    ratios = [two / one for one, two in zip(*rates.values(), strict=True)]
    return {"images_per_second": {name: spread(values, 1) for name, values in rates.items()}, "ratio": spread(ratios)}


def plans() -> dict[str, Any]:
    """A process a batch: its peak counts."""
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
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        figures = {"plan": plans(), "time": seconds(given.rounds), "memory": peaks(given.images, Path(place))}
        figures["devices"] = devices(Path(place), 3)
    print(json.dumps({**figures, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
