"""Is the nearest image of the same class? By a run's encoder, beside the untrained one and colors.

    python benchmarks/agreement.py TRAIN --test TEST --run RUN_FOLDER

For each image of TEST the nearest of TRAIN, by cosine, as `simclr similar` finds it: percent whose class is the same
(kNN@1), with 95 % bootstrap intervals, and by how much the run's encoder is above each other one, paired by image.
Labels are the folders. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine

from simclr_cli.core.events import silent
from simclr_cli.encode.embed import embed_together
from simclr_cli.encode.load import pick_device, run_encoder, untrained_twin
from simclr_cli.engine.metrics import gain_of, interval, percent
from simclr_cli.engine.nearest import nearest
from simclr_cli.evaluate.baselines import without_weights
from simclr_cli.images.labels import labeled
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import count_workers
from simclr_cli.store.run import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    given = parser.parse_args()
    run = RunFolder(given.run)
    ready = run_encoder(run, pick_device(None))
    arms = {
        "trained": ready,
        "untrained": untrained_twin(ready, 0),
        **without_weights(ready),
    }
    rows, labels = [], []
    for folder in (given.train, given.test):
        census, of = labeled(take_census(folder))
        paths = [census.path(image) for image in census.images]
        h, unusable = embed_together(
            list(arms.values()), paths, batch_size=128, workers=count_workers(), report=silent, stage="embedding"
        )
        rows.append([part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in h])
        labels.append(np.array([of[image.name] for i, image in enumerate(census.images) if i not in unusable]))
    right = {}
    for name, train, test in zip(arms, *rows, strict=True):
        _, places = nearest(train, test, 1)
        right[name] = torch.from_numpy(labels[0][places[:, 0]] == labels[1])
    told = {
        name: {
            "knn_1": round(percent(one), 1),
            "interval": [round(x, 1) for x in interval(one.long(), 0)],
            "trained_above": [round(x, 1) for x in gain_of(right["trained"], one)],
        }
        for name, one in right.items()
    }
    shape = {"train": len(labels[0]), "test": len(labels[1]), "classes": len(set(labels[0]))}
    print(json.dumps({**shape, "run": ready.info.settings.backbone, "agreement": told, **describe_machine()}, indent=1))


if __name__ == "__main__":
    main()
