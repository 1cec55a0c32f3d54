"""Class agreement of nearest neighbors, by a run's encoder, its untrained twin, and colors.

    python benchmarks/agreement.py TRAIN --test TEST --run RUN_FOLDER

Finds the nearest image of TRAIN for each image of TEST by cosine, as `simclr similar` does. Reports the percentage of
the same class (kNN@1) with 95 % bootstrap intervals, and the gain of the run's encoder over the others, paired by
image. The folders are the classes. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine

from simclr_cli.core.events import silent
from simclr_cli.encode.device import resolve_device
from simclr_cli.encode.embed import embed_with_encoders
from simclr_cli.encode.load import create_untrained_encoder, load_run_encoder
from simclr_cli.engine.metrics import bootstrap_interval, compute_gain, compute_percentage
from simclr_cli.engine.nearest import find_nearest
from simclr_cli.evaluate.baselines import create_pixel_baselines
from simclr_cli.images.labels import label_images
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import count_workers
from simclr_cli.store.run import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    args = parser.parse_args()
    run = RunFolder(args.run)
    ready = load_run_encoder(run, resolve_device(None))
    arms = {
        "trained": ready,
        "untrained": create_untrained_encoder(ready, 0),
        **create_pixel_baselines(ready),
    }
    rows, labels = [], []
    for folder in (args.train, args.test):
        census, label_of = label_images(take_census(folder))
        paths = [census.path(image) for image in census.images]
        h, unusable = embed_with_encoders(
            list(arms.values()), paths, None, batch_size=128, workers=count_workers(), report=silent, stage="embedding"
        )
        rows.append([part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in h])
        labels.append(np.array([label_of[image.name] for i, image in enumerate(census.images) if i not in unusable]))
    is_correct = {}
    for name, train, test in zip(arms, *rows, strict=True):
        _, places = find_nearest(train, test, 1)
        is_correct[name] = torch.from_numpy(labels[0][places[:, 0]] == labels[1])
    agreement = {
        name: {
            "knn_1": round(compute_percentage(correct), 1),
            "interval": [round(x, 1) for x in bootstrap_interval(correct.long(), 0)],
            "trained_above": [round(x, 1) for x in compute_gain(is_correct["trained"], correct)],
        }
        for name, correct in is_correct.items()
    }
    shape = {"train": len(labels[0]), "test": len(labels[1]), "classes": len(set(labels[0]))}
    print(
        json.dumps(
            {**shape, "run": ready.info.settings.backbone, "agreement": agreement, **describe_machine()}, indent=1
        )
    )


if __name__ == "__main__":
    main()
