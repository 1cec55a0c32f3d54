"""What a run will take: time and memory, tried out on random images; and disk."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from simclr_cli.api import Precision, ResolvedSettings
from simclr_cli.core.events import silent
from simclr_cli.core.files import free_bytes
from simclr_cli.engine.encoder import Encoder
from simclr_cli.engine.optim import create_optimizer
from simclr_cli.engine.simclr import SimCLR
from simclr_cli.images.loader import Batch
from simclr_cli.train.step import Step

TRIAL_IMAGES, TRIAL_SECONDS = 64, 4  # what the estimate of the time may cost
KEPT_A_WEIGHT = {"adamw": 2, "lars": 1, "sgd": 1}  # numbers that an optimizer keeps for each weight
SHORT_RUN = 120  # seconds; of such a run a rough estimate is enough


def bytes_a_view(encoder: Encoder, precision: Precision) -> int:
    """What autograd keeps of one view from forward to backward, by a copy of f: most of what a step takes."""
    encoder = copy.deepcopy(encoder).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    device, size = encoder.mean.device, encoder.spec.image_size

    def kept_of(views: int) -> int:
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        x = torch.rand(views, 3, size, size, device=device)
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
            h = encoder(x)  # is there as long as what was kept is counted
        assert h.requires_grad
        return sum(kept.values())

    return (kept_of(6) - kept_of(4)) // 2  # what does not grow with the images does not count


def seconds_a_image(model: SimCLR, chosen: ResolvedSettings, side: int, images: int) -> float:
    """Time a step of a copy of the model on random images: few first, more while that is quick and the run is not.

    Args:
        side: of the stored images, px.
        images: that the run will see, through all epochs.
    """
    model = copy.deepcopy(model).train()
    eager = dataclasses.replace(chosen, compile="off", loss="nt-xent")
    step = Step(model, create_optimizer(model, chosen.optimizer, weight_decay=chosen.weight_decay), eager, silent)
    most = min(chosen.batch_size, chosen.micro_batch or chosen.batch_size)
    if step.device.type == "cpu":
        most = min(most, TRIAL_IMAGES)
    count, seconds = 1, 0.0
    while count < most and seconds * 8 < TRIAL_SECONDS and (count == 1 or images * seconds / count > SHORT_RUN):
        count = min(8 * count, most)
        pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8).to(step.device)
        sizes = torch.full((count, 2), side)
        batches = [Batch(i, np.arange(count), sizes, (slice(0, count),), iter([pixels])) for i in range(2)]
        seconds = seconds_a_step(step(batch) for batch in batches)
    return seconds / count


def seconds_a_step(losses: Iterable[Tensor]) -> float:
    """Time the quickest of some steps, each of which is done when its loss is asked for.

    The first of a size is slow: kernels are chosen, memory is taken.
    """
    seconds, began = math.inf, time.perf_counter()
    for loss in losses:
        float(loss)
        seconds, began = min(seconds, time.perf_counter() - began), time.perf_counter()
    return seconds


def lack_of_disk(folder: Path, model: SimCLR, chosen: ResolvedSettings) -> str | None:
    """A sentence about it, if there is no room for two checkpoints: the old one stays until the new one is whole."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    needed, free = 2 * (weights + KEPT_A_WEIGHT[chosen.optimizer] * trained), free_bytes(folder)
    if needed <= free:
        return None
    return (
        f"To save this run needs {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free in {folder.parent}: "
        "make room there, or it will stop when it saves."
    )
