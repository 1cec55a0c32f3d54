"""The quick linear probe against the paper's protocol and lightly's linear evaluation.

    python benchmarks/probing.py TRAIN TEST [--python .peers/bin/python] [--seeds 0 1 2] [--epochs 10]

For each seed: `simclr pretrain` on 5,000 images of TRAIN; then the linear accuracy of its encoder on TEST by the quick
probe (embeddings, chosen l2, logistic regression) and by the paper's protocol (90 epochs of crops and flips), with
their seconds. For the first seed, some epochs of lightly's LinearClassifier, from which its time for 90 epochs is
extrapolated. Prints one JSON object.
"""

from __future__ import annotations

from machine import describe_machine, summarize  # before torch

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
from cifar import ARMS, link_images, run_json

from simclr_cli.api import PretrainSettings, ProbeSettings
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.core.events import silent
from simclr_cli.encode.device import resolve_device
from simclr_cli.encode.load import load_run_encoder
from simclr_cli.engine.metrics import compute_percentage
from simclr_cli.evaluate.comparison import compare_encoders
from simclr_cli.images.labels import read_labeled_images
from simclr_cli.images.threads import count_workers
from simclr_cli.store.run import RunFolder
from simclr_cli.train.supervised import LINEAR

PEER_EPOCHS = 3


def run_seed(seed: int, args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run both protocols on one encoder."""
    settings = PretrainSettings(
        images=work / "train", runs=work / "runs", run=f"seed-{seed}", backbone=args.backbone, weights="none",
        image_size=args.image_size, epochs=args.epochs, seed=seed,
    )  # fmt: skip
    run = RunFolder(Path(pretrain(settings, report=silent).run))
    ready = load_run_encoder(run, resolve_device(None))
    workers = count_workers()
    images = read_labeled_images(work / "train", ProbeSettings(test=work / "test"), workers, silent)
    row: dict[str, Any] = {"seed": seed, "weights": str(run.weights_file)}
    for protocol in ("quick", "paper"):
        start = time.perf_counter()
        probe_settings = ProbeSettings(protocol=protocol, seed=seed)
        found = compare_encoders({"trained": ready}, images, probe_settings, linear=True, report=silent).first
        is_correct = found.linear.argmax(dim=1) == found.test.labels if found.linear is not None else torch.zeros(1)
        row |= {
            protocol: round(compute_percentage(is_correct), 2),
            f"{protocol}_s": round(time.perf_counter() - start, 2),
        }
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
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ["SIMCLR_CACHE"] = str(work / "cache")
        classes = sum(path.is_dir() for path in args.train.iterdir())
        link_images(args.train, args.images // classes, work / "train")
        link_images(args.test, args.tests // classes, work / "test")
        rows = [run_seed(seed, args, work) for seed in args.seeds]
        figures: dict[str, Any] = {
            "quick_minus_paper": summarize([row["quick"] - row["paper"] for row in rows], 2),
            "quick_s": summarize([row["quick_s"] for row in rows], 1),
            "paper_s": summarize([row["paper_s"] for row in rows], 1),
        }
        if args.python:
            shape = ["--backbone", args.backbone, "--image-size", args.image_size, "--epochs", PEER_EPOCHS]
            peer = run_json([args.python, ARMS, "linear", work / "train", "--test", work / "test",
                         "--weights", rows[0]["weights"], *shape])  # fmt: skip
            figures["lightly"] = peer
            figures["lightly_s_for_90"] = round(LINEAR.epochs * peer["seconds_an_epoch"], 1)
            figures["times_faster"] = round(figures["lightly_s_for_90"] / figures["quick_s"]["median"], 1)
    options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    print(json.dumps({**options, **figures, "seeds_found": rows, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
