"""Three small trainings on a device: IMAGES RUNS DEVICE; or, before these, the program that computes for a GPU."""

import runpy
import sys
from pathlib import Path
from typing import Any

from simclr_cli.api import PretrainSettings
from simclr_cli.cli import app
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.images import loader

CASES: dict[str, dict[str, Any]] = {
    "nt-xent": {"optimizer": "adamw"},
    "dcl": {"loss": "dcl", "optimizer": "lars", "micro_batch": 9},
    "streaming": {"loss": "supcon", "optimizer": "sgd"},
}


def train_all(images: Path, runs: Path, device: str) -> None:
    """Train in float32; only "streaming" keeps no images on the device."""
    share = loader.RESIDENT_SHARE
    for name, options in CASES.items():
        loader.RESIDENT_SHARE = 0 if name == "streaming" else share
        pretrain(
            PretrainSettings(
                images=images, runs=runs, run=f"{name}-{device}", device=device, backbone="test_resnet", weights="none",
                image_size=24, batch_size=16, epochs=2, learning_rate=0.05, workers=1, precision="float32",
                compile="off", **options,
            )
        )  # fmt: skip
    loader.RESIDENT_SHARE = share


if __name__ == "__main__":
    images, runs, device = sys.argv[2:]
    app.main = lambda *_: train_all(Path(images), Path(runs), device)  # the program runs this as the command
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
