"""The quick linear probe beside the paper's protocol, and beside lightly's linear evaluation.

    python benchmarks/probing.py TRAIN TEST [--python .peers/bin/python] [--seeds 0 1 2] [--epochs 10]

For each seed one `simclr pretrain` on 5,000 images of TRAIN; then in turn the linear accuracy of its encoder on TEST
by the quick probe (images embedded, l2 chosen, logistic regression) and by the paper's protocol (90 epochs of crops
and flips), with their seconds; and, for the first seed, some epochs of lightly's LinearClassifier, from which its time
for 90 is counted. Prints one JSON object.
"""

from __future__ import annotations

from machine import describe_machine, spread  # before torch: see there

# isort: split
import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from cifar import ARMS, links, told

from simclr_cli.api import PretrainSettings, ProbeSettings
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.core.events import silent
from simclr_cli.encode.load import pick_device, run_encoder
from simclr_cli.engine.metrics import percent
from simclr_cli.evaluate.comparison import compare
from simclr_cli.images.labels import read_labelled
from simclr_cli.images.threads import count_workers
from simclr_cli.store.run import RunFolder
from simclr_cli.train.supervised import LINEAR

PEER_EPOCHS = 3


def one_seed(seed: int, given: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Both protocols on one encoder."""
    settings = PretrainSettings(
        images=place / "train", runs=place / "runs", run=f"seed-{seed}", backbone=given.backbone,
        image_size=given.image_size, epochs=given.epochs, seed=seed,
    )  # fmt: skip
    run = RunFolder(Path(pretrain(settings, report=silent).run))
    ready = run_encoder(run, pick_device(None))
    workers = count_workers()
    images = read_labelled(place / "train", ProbeSettings(test=place / "test"), workers, silent)
    row: dict[str, Any] = {"seed": seed, "weights": str(run.weights_file)}
    for protocol in ("quick", "paper"):
        began = time.perf_counter()
        asked = ProbeSettings(protocol=protocol, seed=seed)
        found = compare({"trained": ready}, images, asked, linear=True, report=silent).first
        right = found.linear.argmax(dim=1) == found.test.labels if found.linear is not None else torch.zeros(1)
        row |= {protocol: round(percent(right), 2), f"{protocol}_s": round(time.perf_counter() - began, 2)}
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
    for name, default in (("images", 5000), ("tests", 2000), ("image-size", 40), ("epochs", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["SIMCLR_CACHE"] = str(place / "cache")
        classes = sum(path.is_dir() for path in given.train.iterdir())
        links(given.train, given.images // classes, place / "train")
        links(given.test, given.tests // classes, place / "test")
        rows = [one_seed(seed, given, place) for seed in given.seeds]
        figures: dict[str, Any] = {
            "quick_minus_paper": spread([row["quick"] - row["paper"] for row in rows], 2),
            "quick_s": spread([row["quick_s"] for row in rows], 1),
            "paper_s": spread([row["paper_s"] for row in rows], 1),
        }
        if given.python:
            shape = ["--backbone", given.backbone, "--image-size", given.image_size, "--epochs", PEER_EPOCHS]
            peer = told([given.python, ARMS, "linear", place / "train", "--test", place / "test",
                         "--weights", rows[0]["weights"], *shape])  # fmt: skip
            figures["lightly"] = peer
            figures["lightly_s_for_90"] = round(LINEAR.epochs * peer["seconds_an_epoch"], 1)
            figures["times_faster"] = round(figures["lightly_s_for_90"] / figures["quick_s"]["median"], 1)
    said = {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()}
    print(json.dumps({**said, **figures, "seeds_found": rows, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
