"""Accuracy on CIFAR-10 against lightly's SimCLR with the same encoder, images and epochs, and against baselines.

    python benchmarks/cifar.py TRAIN TEST [--images 5000 --epochs 10 --seeds 0 1 2] [--python .peers/bin/python]

For each seed: `simclr pretrain` on images of TRAIN (class folders, the same number of each), lightly's SimCLR on the
same images (benchmarks/lightly_arms.py, with a Python that has lightly), then one `simclr probe` of both encoders, the
untrained encoder and raw pixels on TEST. Prints one JSON object: kNN (k = 20, 200) and linear accuracy in percent.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe_machine

ARMS = Path(__file__).with_name("lightly_arms.py")


def link_images(folder: Path, each: int, target: Path) -> Path:
    """Link the first images of every class."""
    for group in sorted(path for path in folder.iterdir() if path.is_dir()):
        (target / group.name).mkdir(parents=True)
        for path in sorted(group.iterdir())[:each]:
            (target / group.name / path.name).symlink_to(path.resolve())
    return target


def run_json(command: list[Any]) -> dict[str, Any]:
    """Return the JSON that a process prints, with its seconds."""
    start = time.perf_counter()
    process = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
    return {**result, "process_s": round(time.perf_counter() - start, 1)}


def run_seed(seed: int, args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Train both encoders, and score them with the same code."""
    simclr: list[Any] = [sys.executable, "-m", "simclr_cli"]
    shape = ["--backbone", args.backbone, "--image-size", args.image_size, "--epochs", args.epochs, "--seed", seed]
    train, test, runs = work / "train", work / "test", work / "runs"
    # The paper's CIFAR views, as in lightly's arm; above 32 px the automatic ones differ.
    small = ["--preset", "small", "--batch-size", args.batch]
    ours = run_json(
        [
            *simclr,
            "pretrain",
            train,
            "--weights",
            "none",
            "--runs",
            runs,
            "--run",
            f"seed-{seed}",
            *shape,
            *small,
            "--json",
        ]
    )
    row: dict[str, Any] = {"seed": seed, "pretrain_s": ours["process_s"], "outcome": ours["outcome"]}
    baseline: list[Any] = []
    if args.python:
        weights = work / f"lightly-{seed}" / "model.safetensors"
        weights.parent.mkdir()
        shutil.copy(Path(ours["run"]) / "encoder" / "config.json", weights.parent)  # the same stem and preprocessing
        peer = run_json([args.python, ARMS, "pretrain", train, "--weights", weights, "--batch", args.batch, *shape])
        row |= {"lightly_s": peer["process_s"], "lightly": peer["lightly"]}
        baseline = ["--baseline", weights]
    scores = run_json(
        [*simclr, "probe", train, "--test", test, "--runs", runs, "--run", f"seed-{seed}", *baseline, "--json"]
    )
    row["verdict"] = scores["verdict"]
    for score in scores["scores"]:
        name = "lightly" if score["representation"].endswith(".safetensors") else score["representation"]
        row[f"{name}: kNN 20, kNN 200, linear"] = [
            round(score[kind]["top_1"], 2) for kind in ("knn_20", "knn_200", "linear")
        ]
    print(json.dumps(row), file=sys.stderr)
    return row


def main() -> None:
    """Run the seeds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--python", type=Path, help="a Python that has lightly")
    parser.add_argument("--backbone", default="resnet10t")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    for name, default in (("images", 5000), ("tests", 2000), ("image-size", 40), ("batch", 64), ("epochs", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        classes = sum(path.is_dir() for path in args.train.iterdir())
        link_images(args.train, args.images // classes, work / "train")
        link_images(args.test, args.tests // classes, work / "test")
        rows = [run_seed(seed, args, work) for seed in args.seeds]
    means = {
        name: [round(statistics.fmean(values), 2) for values in zip(*(row[name] for row in rows), strict=True)]
        for name in rows[0]
        if isinstance(rows[0][name], list)
    }
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    print(json.dumps({**settings, "means": means, "seeds": rows, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
