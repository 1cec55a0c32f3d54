"""Speed and memory against lightly and lightly-train, on the same photos and cores, in turn.

    python benchmarks/peers.py PHOTOS --scripts FOLDER --python .peers/bin/python [--rounds 5] [--only whole loop loss]

The peers run in another environment (lightly, lightly-train, timm). --scripts is a folder with lightly_simclr.py (a
training loop: loader, step, rate) and lightly_loss.py (NTXentLoss: seconds, peak bytes), which print one JSON object
each. Three comparisons:

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

from machine import describe_machine, summarize

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


def run_process(command: list[str], **environment: str) -> tuple[float, str]:
    """Run a process, and return its seconds and its output."""
    start = time.perf_counter()
    process = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if process.returncode:
        raise SystemExit(f"{command} failed:\n{process.stderr[-2000:]}")
    return time.perf_counter() - start, process.stdout


def parse_last_line(stdout: str) -> dict[str, Any]:
    """Return the JSON object on the last line."""
    found: dict[str, Any] = json.loads(stdout.strip().splitlines()[-1])
    return found


def run_pretrain(photos: Path, work: Path, epochs: int) -> tuple[float, dict[str, Any]]:
    """Run `simclr pretrain` with a cold cache."""
    options = f"--image-size 64 --backbone resnet18 --batch-size 64 --epochs {epochs} --json --runs {work}/runs"
    command = [sys.executable, "-m", "simclr_cli", "pretrain", str(photos), "--weights", "none", *options.split()]
    seconds, stdout = run_process(command, SIMCLR_CACHE=str(work / "cache"))
    return seconds, json.loads(stdout)


def compare_commands(photos: Path, python: Path, rounds: int) -> dict[str, Any]:
    """Compare whole commands."""
    seconds: dict[str, list[float]] = {"simclr": [], "lightly-train": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as work:
            seconds["simclr"].append(run_pretrain(photos, Path(work), 2)[0])
            theirs = [str(python.with_name("lightly-train")), "pretrain", f"out={work}/out", f"data={photos}",
                      "model=timm/resnet18", "method=simclr", "epochs=2", "batch_size=64", "num_workers=2",
                      "accelerator=cpu", 'transform_args={"image_size": [64, 64]}']  # fmt: skip
            seconds["lightly-train"].append(run_process(theirs)[0])
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    return {"seconds": {name: summarize(v, 1) for name, v in seconds.items()}, "ours_over_theirs": summarize(ratios)}


def compare_loops(photos: Path, python: Path, scripts: Path, rounds: int) -> dict[str, Any]:
    """Compare training loops."""
    rates: dict[str, list[float]] = {"simclr": [], "lightly": [], "lightly, synthetic": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as work:
            result = run_pretrain(photos, Path(work), 4)[1]
            metrics = (Path(result["run"]) / "speed.jsonl").read_text().splitlines()
            later = [json.loads(line)["images_per_second"] for line in metrics[1:]]
            rates["simclr"].append(sum(later) / len(later))
        theirs = [str(python), str(scripts / "lightly_simclr.py"), str(photos), "--size", "64", "--batch", "64",
                  "--workers", "2", "--seconds", "20"]  # fmt: skip
        found = parse_last_line(run_process(theirs)[1])
        rates["lightly"].append(found["train_images_per_second"])
        rates["lightly, synthetic"].append(found["synthetic_images_per_second"])
    ratios = [a / b for a, b in zip(rates["simclr"], rates["lightly"], strict=True)]
    return {
        "images_per_second": {name: summarize(v, 1) for name, v in rates.items()},
        "ours_over_theirs": summarize(ratios),
    }


def compare_losses(python: Path, scripts: Path, rounds: int) -> dict[str, Any]:
    """Compare the losses."""
    figures = {}
    for count in (4096, 8192):
        results_of: dict[str, list[dict[str, Any]]] = {"simclr": [], "lightly": []}
        for _ in range(rounds):
            results_of["simclr"].append(parse_last_line(run_process([sys.executable, "-c", OUR_LOSS, str(count)])[1]))
            theirs = [str(python), str(scripts / "lightly_loss.py"), "--n", str(count)]
            results_of["lightly"].append(parse_last_line(run_process(theirs)[1]))
        figures[f"N = {count}"] = {
            key: {
                **{name: summarize([result[key] for result in results]) for name, results in results_of.items()},
                "ours_over_theirs": summarize([a[key] / b[key] for a, b in zip(*results_of.values(), strict=True)], 4),
            }
            for key in ("seconds", "peak_bytes")
        }
    return figures


def main() -> None:
    """Run the selected comparisons and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--scripts", type=Path, required=True)
    parser.add_argument("--python", type=Path, default=Path(".peers/bin/python"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=["whole", "loop", "loss"])
    args = parser.parse_args()
    versions = "import json; from importlib.metadata import version as v; "
    versions += "print(json.dumps({n: v(n) for n in ('lightly', 'lightly-train', 'torch', 'timm')}))"
    figures: dict[str, Any] = {"peers": parse_last_line(run_process([str(args.python), "-c", versions])[1])}
    with tempfile.TemporaryDirectory() as work:
        photos = sorted(args.photos.rglob("*.jpg"))
        small_folder, large_folder = Path(work) / "240", Path(work) / "512"
        for folder, count in ((small_folder, 240), (large_folder, 512)):
            folder.mkdir()
            for i, path in enumerate(photos[:: len(photos) // count][:count]):
                shutil.copy(path, folder / f"{i:04}.jpg")
        if "whole" in args.only:
            figures["whole"] = compare_commands(small_folder, args.python, args.rounds)
        if "loop" in args.only:
            figures["loop"] = compare_loops(large_folder, args.python, args.scripts, args.rounds)
        if "loss" in args.only:
            figures["loss"] = compare_losses(args.python, args.scripts, args.rounds)
    print(json.dumps({**figures, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
