"""Estimates of the time, memory and disk space that a training needs, from trials on random images."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from simclr_cli.api import Precision, ResolvedSettings
from simclr_cli.core.errors import is_out_of_memory
from simclr_cli.core.events import silent
from simclr_cli.core.files import get_free_bytes
from simclr_cli.engine.encoder import Encoder
from simclr_cli.engine.loss import estimate_loss_bytes
from simclr_cli.engine.optim import create_optimizer
from simclr_cli.engine.simclr import SimCLR
from simclr_cli.images.cache import stored_side
from simclr_cli.images.census import Census
from simclr_cli.images.loader import Batch
from simclr_cli.train.distillation import MAX_ANCHORS
from simclr_cli.train.step import Step

FORWARD_SHARE = 1 / 3  # of the time of a step; all micro-batches but the last need it once more
PEAK_H, PEAK_DISTILLATION_MATRICES = 2, 5.5  # tensors of the size of h and of its similarities, at a time
EMBEDDED_IMAGES = 4  # of the trial of embedding
MAX_TRIAL_IMAGES, MAX_TRIAL_SECONDS = 64, 4  # that the estimate of the time may cost
OPTIMIZER_STATES = {"adamw": 2, "lars": 1, "sgd": 1}  # numbers per weight
SHORT_RUN_SECONDS = 120  # for which a rough estimate is enough


def measure_bytes_per_view(encoder: Encoder, precision: Precision) -> int:
    """Measure what autograd keeps per view from forward to backward, on a copy of f: most of the memory of a step."""
    encoder = copy.deepcopy(encoder).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    device, size = encoder.mean.device, encoder.spec.image_size

    def measure(views: int) -> int:
        kept_bytes: dict[int, int] = {}  # by address of the storage

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept_bytes[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # the tensor itself holds its graph, which would hold it for ever

        x = torch.rand(views, 3, size, size, device=device)
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
            h = encoder(x)  # referenced until the kept tensors are counted
        assert len(h) == views
        return sum(kept_bytes.values())

    return (measure(6) - measure(4)) // 2  # without what does not grow with the images


def estimate_bytes_behind_cut(settings: ResolvedSettings, width: int, images: int, device: torch.device) -> int:
    """Estimate the memory of what sees the whole batch at once: h, head and loss, with their gradients.

    Args:
        width: of h.
        images: of the census, of which distillation compares with some.
    """
    views = 2 * settings.batch_size
    if settings.loss == "distill":
        return 4 * int(views * (PEAK_H * width + PEAK_DISTILLATION_MATRICES * min(MAX_ANCHORS, images)))
    per_view = PEAK_H + 2 * settings.head_layers  # the head keeps inputs of its norms and layers
    return 4 * views * per_view * width + estimate_loss_bytes(views, settings.projection_dimensions, device)


def measure_seconds_per_image(model: SimCLR, settings: ResolvedSettings, side: int, images: int) -> float:
    """Time a step of a copy of the model on random images: few first, more while that is quick and the run is not.

    Args:
        side: of the stored images, px.
        images: that the run will see, through all epochs.
    """
    model = copy.deepcopy(model).train()
    eager = dataclasses.replace(settings, compile="off", loss="nt-xent")
    step = Step(model, create_optimizer(model, settings.optimizer, weight_decay=settings.weight_decay), eager, silent)
    largest = min(settings.batch_size, settings.micro_batch or settings.batch_size)
    if step.device.type == "cpu":
        largest = min(largest, MAX_TRIAL_IMAGES)
    count, seconds = 0, 0.0
    while (
        count < largest
        and seconds * 8 < MAX_TRIAL_SECONDS
        and (count == 0 or images * seconds / count > SHORT_RUN_SECONDS)
    ):
        tried = min(8 * max(1, count), largest)
        try:
            count, seconds = tried, _time_step(step, tried, side)
        except RuntimeError as error:  # the copy of the model takes memory too, so that the training may have enough
            if tried == 1 or not is_out_of_memory(error):
                raise
            largest = max(count, tried // 2)
    return seconds / count


def _time_step(step: Step, images: int, side: int) -> float:
    """Time the step of some images; a single one as half of two micro-batches, since the loss needs two images."""
    count = 2 if images == 1 else 1
    pixels = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8).to(step.device)
    sizes = torch.full((count * images, 2), side)
    parts = tuple(slice(i * images, (i + 1) * images) for i in range(count))
    batches = [Batch(i, np.arange(count * images), sizes, parts, itertools.repeat(pixels)) for i in range(2)]
    return measure_seconds_per_step(step(batch) for batch in batches) / count


def measure_seconds_per_embedding(encoder: Encoder) -> float:
    """Time the embedding of an image: the quickest of two small batches."""
    size, device = encoder.spec.image_size, encoder.mean.device
    x = torch.rand(EMBEDDED_IMAGES, 3, size, size, device=device)
    with torch.inference_mode():
        return measure_seconds_per_step(encoder(x).sum() for _ in range(2)) / EMBEDDED_IMAGES


def measure_seconds_per_step(losses: Iterable[Tensor]) -> float:
    """Time the quickest of some steps, each of which is done when its loss is read.

    The first step of a size is slow: kernels are chosen, memory is allocated.
    """
    seconds, start = math.inf, time.perf_counter()
    for loss in losses:
        float(loss)
        seconds, start = min(seconds, time.perf_counter() - start), time.perf_counter()
    return seconds


def count_model_bytes(model: SimCLR, settings: ResolvedSettings, *, gradients: bool) -> int:
    """Count the bytes of the weights and of the optimizer's state, and of the gradients if these are to be counted."""
    weights: int = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return weights + (OPTIMIZER_STATES[settings.optimizer] + gradients) * trained


def describe_disk_shortage(folder: Path, model: SimCLR, settings: ResolvedSettings) -> str | None:
    """Return a warning if two checkpoints do not fit on the disk: the old one stays until the new one is whole."""
    needed, free = 2 * count_model_bytes(model, settings, gradients=False), get_free_bytes(folder)
    if needed <= free:
        return None
    return (
        f"Saving this run needs {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free in {folder.parent}: "
        "free space there, or the training stops when it saves."
    )


def estimate_seconds(model: SimCLR, settings: ResolvedSettings, census: Census, steps: int, processes: int) -> float:
    """Estimate the time of the training from a trial of some steps on random images."""
    images = steps * settings.batch_size
    side = stored_side(census, settings.train_size)
    seconds = images * measure_seconds_per_image(model, settings, side, images) / processes
    return seconds * (1 + FORWARD_SHARE * max(0.0, 1 - settings.micro_batch * processes / settings.batch_size))
