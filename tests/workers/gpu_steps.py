"""Training steps on a GPU in which any wait of the CPU for it is an error, and the memory of the loss: prints JSON."""

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.events import silent
from simclr_cli.engine.loss import contrastive_loss, estimate_loss_bytes
from simclr_cli.engine.optim import create_optimizer, set_learning_rate
from simclr_cli.images import loader
from simclr_cli.images.cache import DecodedImages
from simclr_cli.images.census import Census
from simclr_cli.train.distillation import Distillation
from simclr_cli.train.loop import build_model
from simclr_cli.train.plan import Circumstances, resolve
from simclr_cli.train.step import Step

GPU, IMAGES, SIDE, BATCH = torch.device("cuda", 0), 64, 24, 16
CASES: list[dict[str, Any]] = [
    {"loss": loss, "optimizer": optimizer, "micro_batch": micro_batch, "resident": resident, "groups": groups}
    for loss, optimizer, micro_batch, resident, groups in (
        ("nt-xent", "adamw", None, True, False), ("nt-xent", "lars", 5, False, True),
        ("dcl", "sgd", None, False, False), ("dcl", "lars", 5, True, True),
        ("supcon", "adamw", 8, True, True), ("distill", "adamw", 5, False, False),
    )
]  # fmt: skip


def take_steps(loss: str, optimizer: str, micro_batch: int | None, resident: bool, groups: bool) -> str:
    """Take three steps, from the second on without a wait; return the traceback of one, or ""."""
    settings, _ = resolve(
        ResolvedSettings(
            images=Path(), backbone="test_resnet", weights="none", image_size=16, batch_size=BATCH, epochs=2, run="run",
            loss="nt-xent" if loss == "distill" else loss, optimizer=optimizer,
            compile="off", precision="float32", rotate=0.5,
        ),
        Circumstances(IMAGES, SIDE, GPU),
    )  # fmt: skip
    loader.RESIDENT_SHARE = 1 / 3 if resident else 0
    model = build_model(settings).to(GPU).train()
    distillation = None
    if loss == "distill":
        targets, anchors = torch.rand(IMAGES, 8), torch.rand(20, model.encoder.width, device=GPU)
        distillation = Distillation(targets, np.arange(20), anchors)
    trained = create_optimizer(model, settings.optimizer, weight_decay=1e-4)
    set_learning_rate(trained, 0.1)
    labels = torch.arange(IMAGES) // 3 if groups else None
    step = Step(model, trained, settings, silent, groups=labels, distillation=distillation)
    pixels = np.zeros((IMAGES, 3, SIDE, SIDE), np.uint8)
    sizes = np.full((IMAGES, 2), SIDE, np.int64)
    decoded = DecodedImages(Census(Path(), (), (), 0), SIDE, sizes, np.arange(IMAGES), (pixels,), workers=1)
    batches = loader.BatchLoader(decoded, BATCH, 0, GPU)
    assert (batches.resident_pixels is not None) == resident
    try:
        for batch in batches.load(0, 3, micro_batch):
            step(batch)
            torch.cuda.set_sync_debug_mode("error")
    except RuntimeError:
        return traceback.format_exc()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def measure_peak(images: int, kind: Any) -> int:
    """Measure the most bytes that a loss of projections and its gradient take on the GPU."""
    z = torch.zeros(2 * images, 128, device=GPU, requires_grad=True)
    groups = torch.arange(images) // 3 if kind == "supcon" else None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss: Tensor = contrastive_loss(z, 0.1, kind, groups)
    loss.backward()  # type: ignore[no-untyped-call]
    return torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    memory = [
        [kind, images, measure_peak(images, kind), estimate_loss_bytes(2 * images, 128, GPU)]
        for kind in ("nt-xent", "dcl", "supcon")
        for images in (1024, 2896, 4096, 65_536)
    ]
    sys.stdout.write(json.dumps({"waits": {str(case): take_steps(**case) for case in CASES}, "memory": memory}))
