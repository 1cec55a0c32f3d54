"""Beside lightly and lightly-train, on the same photos and cores, in turn.

    python benchmarks/peers.py PHOTOS --scripts FOLDER --python .peers/bin/python [--rounds 5] [--only whole loop loss]

Peers run in an environment of their own (lightly, lightly-train, timm); --scripts is a folder that holds
lightly_simclr.py (a training loop: loader, step, rate) and lightly_loss.py (NTXentLoss: seconds, peak bytes), each of
which prints one JSON object. Three claims:

whole   the whole command, 240 photos, 2 epochs, 64 px, ResNet-18, batch 64, cold cache, against lightly-train's
loop    images/s of training at 64 px, ResNet-18, batch 64 (ours in the second to fourth epoch), against lightly's loop
loss    seconds and peak bytes of NT-Xent, forward and backward, D = 128, against lightly's NTXentLoss

Prints one JSON object: every arm, and the ratio of every round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe_machine, spread

OUR_LOSS = """
import json, sys, time, torch
from torch.profiler import ProfilerActivity, profile
from simclr_cli.engine.loss import contrastive_loss
count = int(sys.argv[1])
z_a, z_b = (torch.randn(count, 128, requires_grad=True) for _ in range(2))
once = lambda: contrastive_loss(torch.cat([z_a, z_b]), 0.1).backward()
once()
began = time.perf_counter(); once(); seconds = time.perf_counter() - began
with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
    once()
live = peak = 0
for event in seen.profiler.kineto_results.events():
    if event.name() == "[memory]":
        live += event.nbytes()
        peak = max(peak, live)
print(json.dumps({"seconds": seconds, "peak_bytes": peak}))
"""


def run(command: list[str], **surroundings: str) -> tuple[float, str]:
    """Seconds of a whole process, and what it printed."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **surroundings})
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - began, done.stdout


def last_json(shown: str) -> dict[str, Any]:
    """The JSON object on the last line."""
    found: dict[str, Any] = json.loads(shown.strip().splitlines()[-1])
    return found


def ours(photos: Path, place: Path, epochs: int) -> tuple[float, dict[str, Any]]:
    """One `simclr pretrain` with a cold cache."""
    asked = f"--image-size 64 --backbone resnet18 --batch-size 64 --epochs {epochs} --json --runs {place}/runs"
    command = [sys.executable, "-m", "simclr_cli", "pretrain", str(photos), *asked.split()]
    seconds, shown = run(command, SIMCLR_CACHE=str(place / "cache"))
    return seconds, json.loads(shown)


def whole(photos: Path, python: Path, rounds: int) -> dict[str, Any]:
    """The whole command."""
    seconds: dict[str, list[float]] = {"simclr": [], "lightly-train": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as place:
            seconds["simclr"].append(ours(photos, Path(place), 2)[0])
            theirs = [str(python.with_name("lightly-train")), "pretrain", f"out={place}/out", f"data={photos}",
                      "model=timm/resnet18", "method=simclr", "epochs=2", "batch_size=64", "num_workers=2",
                      "accelerator=cpu", 'transform_args={"image_size": [64, 64]}']  # fmt: skip
            seconds["lightly-train"].append(run(theirs)[0])
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    return {"seconds": {name: spread(v, 1) for name, v in seconds.items()}, "ours_over_theirs": spread(ratios)}


def loop(photos: Path, python: Path, scripts: Path, rounds: int) -> dict[str, Any]:
    """The training loop."""
    rates: dict[str, list[float]] = {"simclr": [], "lightly": [], "lightly, synthetic": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as place:
            result = ours(photos, Path(place), 4)[1]
            metrics = (Path(result["run"]) / "speed.jsonl").read_text().splitlines()
            later = [json.loads(line)["images_per_second"] for line in metrics[1:]]
            rates["simclr"].append(sum(later) / len(later))
        theirs = [str(python), str(scripts / "lightly_simclr.py"), str(photos), "--size", "64", "--batch", "64",
                  "--workers", "2", "--seconds", "20"]  # fmt: skip
        found = last_json(run(theirs)[1])
        rates["lightly"].append(found["train_images_per_second"])
        rates["lightly, synthetic"].append(found["synthetic_images_per_second"])
    ratios = [a / b for a, b in zip(rates["simclr"], rates["lightly"], strict=True)]
    return {"images_per_second": {name: spread(v, 1) for name, v in rates.items()}, "ours_over_theirs": spread(ratios)}


def loss(python: Path, scripts: Path, rounds: int) -> dict[str, Any]:
    """The loss by itself."""
    figures = {}
    for count in (4096, 8192):
        seen: dict[str, list[dict[str, Any]]] = {"simclr": [], "lightly": []}
        for _ in range(rounds):
            seen["simclr"].append(last_json(run([sys.executable, "-c", OUR_LOSS, str(count)])[1]))
            theirs = [str(python), str(scripts / "lightly_loss.py"), "--n", str(count)]
            seen["lightly"].append(last_json(run(theirs)[1]))
        figures[f"N = {count}"] = {
            key: {
                **{name: spread([one[key] for one in each]) for name, each in seen.items()},
                "ours_over_theirs": spread([a[key] / b[key] for a, b in zip(*seen.values(), strict=True)], 4),
            }
            for key in ("seconds", "peak_bytes")
        }
    return figures


def main() -> None:
    """Run what is asked for and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--scripts", type=Path, required=True)
    parser.add_argument("--python", type=Path, default=Path(".peers/bin/python"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=["whole", "loop", "loss"])
    given = parser.parse_args()
    versions = "import json; from importlib.metadata import version as v; "
    versions += "print(json.dumps({n: v(n) for n in ('lightly', 'lightly-train', 'torch', 'timm')}))"
    figures: dict[str, Any] = {"peers": last_json(run([str(given.python), "-c", versions])[1])}
    with tempfile.TemporaryDirectory() as place:
        photos = sorted(given.photos.rglob("*.jpg"))
        few, more = Path(place) / "240", Path(place) / "512"
        for folder, count in ((few, 240), (more, 512)):
            folder.mkdir()
            for i, path in enumerate(photos[:: len(photos) // count][:count]):
                shutil.copy(path, folder / f"{i:04}.jpg")
        if "whole" in given.only:
            figures["whole"] = whole(few, given.python, given.rounds)
        if "loop" in given.only:
            figures["loop"] = loop(more, given.python, given.scripts, given.rounds)
        if "loss" in given.only:
            figures["loss"] = loss(given.python, given.scripts, given.rounds)
    print(json.dumps({**figures, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
