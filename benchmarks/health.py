"""What looking on costs: the share of a training's time that health and kNN take.

    python benchmarks/health.py IMAGES [--backbone resnet18] [--image-size 64] [--epochs 12]

One real `pretrain`; the time in `Monitor.look` over that of the epochs, all together. Prints one JSON object.
"""

from __future__ import annotations

from machine import describe_machine  # before torch: see there

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
    """Train, and add up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--backbone", default="resnet18")
    for name, default in (("image-size", 64), ("epochs", 12)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    looks: list[dict[str, Any]] = []
    plain = Monitor.look

    def timed(self: Monitor, *asked: Any) -> Any:
        began = time.perf_counter()
        seen = plain(self, *asked)
        told = {"validation": seen[0] is not None, "knn_accuracy": seen[1] is not None}
        looks.append({**told, "seconds": round(time.perf_counter() - began, 3)})
        return seen

    epochs: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, EpochDone):
            epochs.append(event.seconds)

    Monitor.look = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as place:
        os.environ["SIMCLR_CACHE"] = f"{place}/cache"
        settings = PretrainSettings(images=given.images, runs=Path(place) / "runs", backbone=given.backbone,
                                    image_size=given.image_size, epochs=given.epochs)  # fmt: skip
        result = pretrain(settings, report=listen)
    taken = sum(look["seconds"] for look in looks)
    print(json.dumps({
        **{name: str(value) for name, value in vars(given).items()}, "images": result.images,
        "training_s": round(sum(epochs), 1), "looking_s": round(taken, 2),
        "share_percent": round(100 * taken / sum(epochs), 2), "looks": looks, **describe_machine(),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
