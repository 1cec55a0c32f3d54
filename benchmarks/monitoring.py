"""The cost of monitoring: the share of the training time that validation metrics and kNN take.

    python benchmarks/monitoring.py IMAGES [--backbone resnet18] [--image-size 64] [--epochs 12]

Runs one `pretrain`, and divides the time in `Monitor.measure` by the time of all epochs. Prints one JSON object.
"""

from __future__ import annotations

from machine import describe_machine  # before torch

# isort: split
import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from simclr_cli.api import PretrainSettings
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.core.events import EpochDone, Event
from simclr_cli.train.monitor import Monitor


def main() -> None:
    """Train, and add up the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--backbone", default="resnet18")
    for name, default in (("image-size", 64), ("epochs", 12)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    measurements: list[dict[str, Any]] = []
    measure = Monitor.measure

    def time_measure(self: Monitor, *arguments: Any) -> Any:
        start = time.perf_counter()
        metrics = measure(self, *arguments)
        kinds = {"validation": metrics[0] is not None, "knn_accuracy": metrics[1] is not None}
        measurements.append({**kinds, "seconds": round(time.perf_counter() - start, 3)})
        return metrics

    epoch_seconds: list[float] = []

    def record_epoch(event: Event) -> None:
        if isinstance(event, EpochDone):
            epoch_seconds.append(event.seconds)

    Monitor.measure = time_measure  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as work:
        os.environ["SIMCLR_CACHE"] = f"{work}/cache"
        settings = PretrainSettings(images=args.images, runs=Path(work) / "runs", backbone=args.backbone,
                                    weights="none", image_size=args.image_size, epochs=args.epochs)  # fmt: skip
        result = pretrain(settings, report=record_epoch)
    seconds = sum(measurement["seconds"] for measurement in measurements)
    print(json.dumps({
        **{name: str(value) for name, value in vars(args).items()}, "images": result.images,
        "training_s": round(sum(epoch_seconds), 1), "monitor_s": round(seconds, 2),
        "share_percent": round(100 * seconds / sum(epoch_seconds), 2), "measurements": measurements,
        **describe_machine(),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
