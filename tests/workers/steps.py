"""One of several processes: some training steps in double precision, with results in <folder>/<rank>.npz.

python -m torch.distributed.run --nproc-per-node N tests/workers/steps.py FOLDER MICRO_BATCH LOSS
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.distributed import ProcessGroup, join_process_group
from simclr_cli.core.events import Event, StepDone
from simclr_cli.core.world import World
from simclr_cli.engine.augment import TwoViews
from simclr_cli.images.cache import DecodedImages
from simclr_cli.images.census import Census
from simclr_cli.images.loader import BatchLoader
from simclr_cli.store.run import RunFolder
from simclr_cli.train.job import TrainingJob
from simclr_cli.train.loop import Training, build_model
from simclr_cli.train.plan import Circumstances, resolve

IMAGES, SIDE, BATCH = 45, 24, 21  # a batch that neither 2 nor 4 divide
STEPS = 20 if os.environ.get("SIMCLR_TORTURE") == "full" else 8
CPU = torch.device("cpu")


class Double(nn.Module):
    """A backbone in double precision."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x.double())


def images() -> DecodedImages:
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, 4, 4), dtype=np.uint8)
    pixels = pixels.repeat(SIDE // 4, 2).repeat(SIDE // 4, 3)
    sizes = np.full((IMAGES, 2), SIDE, dtype=np.int64)
    return DecodedImages(Census(Path(), (), (), 0), SIDE, sizes, np.arange(IMAGES), (pixels,), workers=1)


def run(folder: Path, micro_batch: int, loss: str, process_group: ProcessGroup) -> dict[str, Any]:
    """Return losses, gradients of the first step, final weights, and checksums of each image and its views."""
    settings: dict[str, Any] = {
        "backbone": "test_convnext", "image_size": 32, "batch_size": BATCH, "epochs": STEPS // 2, "run": "run",
        "compile": "off", "optimizer": "lars", "warmup_epochs": 0,
    }  # fmt: skip
    chosen = ResolvedSettings(images=Path(), micro_batch=micro_batch, loss=loss, **settings)
    chosen = resolve(chosen, Circumstances(IMAGES, SIDE, CPU, process_group.world_size))[0]
    model = build_model(chosen)
    model.encoder.backbone = Double(model.encoder.backbone)
    model.head.double()
    losses: list[float] = []
    gradients: dict[str, Tensor] = {}
    seen: list[tuple[str, str]] = []
    plain = TwoViews.make

    def make_and_record(self: TwoViews, pixels: Tensor, sizes: Tensor, drawn: Any) -> Tensor:
        views = plain(self, pixels, sizes, drawn)
        for image, one, other in zip(pixels, *views.chunk(2), strict=True):
            checksums = [hashlib.sha256(x.numpy().tobytes()).hexdigest() for x in (image, torch.stack([one, other]))]
            seen.append((len(losses), *checksums))
        return views

    def report(event: Event) -> None:
        if isinstance(event, StepDone):
            losses.append(event.loss)
            if len(losses) == 1:
                gradients.update((name, p.grad.clone()) for name, p in model.named_parameters() if p.grad is not None)

    TwoViews.make = make_and_record
    try:
        groups = torch.arange(IMAGES) // 3
        batches = BatchLoader(images(), BATCH, 0, CPU, process_group)
        Training(model, TrainingJob(RunFolder(folder), chosen, batches, groups), report).run()
    finally:
        TwoViews.make = plain
    return {
        "losses": np.array(losses),
        "seen": np.array(seen),
        **{f"gradient {name}": value.numpy() for name, value in gradients.items()},
        **{f"weight {name}": value.numpy() for name, value in model.state_dict().items()},
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    world = World.from_environment()
    with join_process_group(world, CPU) as process_group:
        results = run(target, int(sys.argv[2]), sys.argv[3], process_group)
    np.savez(target / f"{world.rank}.npz", **results)
