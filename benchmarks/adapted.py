"""Figures of `pretrain` from trained weights, all automatic, against the frozen start.

    python benchmarks/adapted.py TRAIN --test TEST [--start NAME=FILE] [--size 64 ...] [--seed 0 ...] [-- OPTION ...]

TRAIN and TEST are folders of class folders. For each seed, runs `simclr pretrain TRAIN` as a process and measures the
run's encoder; then its start/ at the same sizes, at its own, and at each --size: kNN with 20 neighbors, the nearest
neighbor, precision at 10, and a linear probe with l2 chosen on a fifth of TRAIN. Prints a JSON object per line.
"""

from __future__ import annotations

from machine import describe_machine  # before torch

# isort: split
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr_cli.api import EmbedSettings
from simclr_cli.core.events import silent
from simclr_cli.encode.embed import embed_census
from simclr_cli.encode.load import load_named_encoder
from simclr_cli.engine.probes import fit_probe, knn_votes
from simclr_cli.images.census import Census
from simclr_cli.images.labels import split_stratified
from simclr_cli.images.scan import take_census

NEIGHBORS = 10  # of precision


def pretrain(args: argparse.Namespace, work: str, seed: int) -> Path:
    """Train as a user does, print plan, outcome and seconds, and return the run."""
    options = ["--runs", f"{work}/runs", "--seed", str(seed), *args.further]
    if args.start:
        name, _, file = args.start.partition("=")
        options += ["--backbone", name, "--weights", file]
    command = [sys.executable, "-m", "simclr_cli", "pretrain", str(args.train), *options, "--json"]
    start, cpu = time.perf_counter(), os.times()
    result = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    used = os.times()
    cpu_s = used.children_user + used.children_system - cpu.children_user - cpu.children_system
    plan = {choice["name"]: choice["value"] for choice in result["plan"]["choices"]}
    kept = {name: plan[name] for name in ("weights", "backbone", "image size", "train size", "loss", "epochs")}
    seconds = {"wall_s": round(time.perf_counter() - start), "cpu_s": round(cpu_s), "seed": seed}
    print(json.dumps({**describe_machine(), **seconds, "plan": kept, "outcome": result["outcome"]}), flush=True)
    return Path(result["run"])


def embed(encoder: str, size: int | None, census: Census, classes: list[str]) -> tuple[Tensor, Tensor, int]:
    """Return embeddings, class numbers, and the image size."""
    loaded = load_named_encoder(encoder, EmbedSettings(image_size=size), torch.device("cpu"), silent)
    h, census = embed_census(loaded, census, batch_size=64, workers=2, report=silent)
    labels = torch.tensor([classes.index(image.name.split("/")[0]) for image in census.images])
    return torch.from_numpy(h), labels, loaded.encoder.spec.image_size


def measure(encoder: str, size: int | None, train: Census, test: Census) -> dict[str, float]:
    """Measure an encoder at an image size, or at its own, in percent."""
    classes = sorted({image.name.split("/")[0] for image in train.images})
    (h, labels, size), (queries, truth, _) = (embed(encoder, size, census, classes) for census in (train, test))
    (votes,) = knn_votes(h, labels, queries, neighbors=(20,), temperature=0.07, classes=len(classes))
    nearest = (F.normalize(queries, dim=1) @ F.normalize(h, dim=1).T).topk(NEIGHBORS, dim=1).indices
    validation = torch.from_numpy(split_stratified(labels.numpy(), 0.2, 0))
    probe = fit_probe(h, labels, validation=validation, classes=len(classes))
    shares = {
        "knn_20": votes.argmax(dim=1) == truth,
        "nearest": labels[nearest[:, 0]] == truth,
        "precision_at_10": labels[nearest] == truth[:, None],
        "linear": probe.compute_logits(queries).argmax(dim=1) == truth,
    }
    return {"size": size, **{name: round(100 * float(share.float().mean()), 1) for name, share in shares.items()}}


def main() -> None:
    """Train, and measure the encoders of the runs and their start."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--start")
    parser.add_argument("--size", type=int, nargs="*", default=[])
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("further", nargs="*")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        os.environ["SIMCLR_CACHE"] = f"{work}/cache"
        train, test = (take_census(folder, workers=2) for folder in (args.train, args.test))
        sizes: list[int | None] = []
        for seed in args.seed:
            run = pretrain(args, work, seed)
            adapted = measure(str(run / "encoder"), None, train, test)
            print(json.dumps({"encoder": "encoder", "seed": seed, **adapted}), flush=True)
            if json.loads((run / "outcome.json").read_text())["kept"] != "start":
                sizes.append(int(adapted["size"]))
        for size in dict.fromkeys([*sizes, None, *args.size]):
            print(json.dumps({"encoder": "start", **measure(str(run / "start"), size, train, test)}), flush=True)


if __name__ == "__main__":
    main()
