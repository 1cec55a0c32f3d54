"""Does training pay, and is it as good as lightly's SimCLR of the same encoder, images and epochs?

    python benchmarks/cifar.py TRAIN TEST [--count 5000 --epochs 10 --seeds 0 1 2] [--python .peers/bin/python]

For each seed: `simclr pretrain` on so many images of TRAIN (class folders, as many of each), lightly's SimCLR on the
same ones (benchmarks/lightly_arms.py, by a Python that has lightly), then one `simclr probe` of both, of the untrained
encoder and of raw pixels, on TEST. Prints one JSON object: kNN (k = 20, 200) and linear accuracy in percent.
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


def links(folder: Path, each: int, target: Path) -> Path:
    """Links to the first images of every class."""
    for group in sorted(path for path in folder.iterdir() if path.is_dir()):
        (target / group.name).mkdir(parents=True)
        for path in sorted(group.iterdir())[:each]:
            (target / group.name / path.name).symlink_to(path.resolve())
    return target


def told(command: list[Any]) -> dict[str, Any]:
    """The JSON that a process prints, and its seconds."""
    began = time.perf_counter()
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, check=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {**answer, "process_s": round(time.perf_counter() - began, 1)}


def one_seed(seed: int, given: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Train both, and score all of them by the same code."""
    simclr: list[Any] = [sys.executable, "-m", "simclr_cli"]
    shape = ["--backbone", given.backbone, "--image-size", given.image_size, "--epochs", given.epochs, "--seed", seed]
    train, test, runs = place / "train", place / "test", place / "runs"
    # The paper's CIFAR views, which lightly's arm has too; above 32 px others would be automatic.
    small = ["--preset", "small", "--batch-size", given.batch]
    ours = told([*simclr, "pretrain", train, "--runs", runs, "--run", f"seed-{seed}", *shape, *small, "--json"])
    row: dict[str, Any] = {"seed": seed, "pretrain_s": ours["process_s"], "outcome": ours["outcome"]}
    theirs: list[Any] = []
    if given.python:
        weights = place / f"lightly-{seed}" / "model.safetensors"
        weights.parent.mkdir()
        shutil.copy(Path(ours["run"]) / "encoder" / "config.json", weights.parent)  # the same stem and preprocessing
        found = told([given.python, ARMS, "pretrain", train, "--weights", weights, "--batch", given.batch, *shape])
        row |= {"lightly_s": found["process_s"], "lightly": found["lightly"]}
        theirs = ["--baseline", weights]
    scores = told([*simclr, "probe", train, "--test", test, "--runs", runs, "--run", f"seed-{seed}", *theirs, "--json"])
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
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        classes = sum(path.is_dir() for path in given.train.iterdir())
        links(given.train, given.images // classes, place / "train")
        links(given.test, given.tests // classes, place / "test")
        rows = [one_seed(seed, given, place) for seed in given.seeds]
    means = {
        name: [round(statistics.fmean(values), 2) for values in zip(*(row[name] for row in rows), strict=True)]
        for name in rows[0]
        if isinstance(rows[0][name], list)
    }
    said = {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()}
    print(json.dumps({**said, "means": means, "seeds": rows, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
