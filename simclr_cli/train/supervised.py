"""A linear classifier trained with labels: on h of a frozen f (linear protocol), or together with f (fine-tuning)."""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from simclr_cli.core.errors import MachineError, describe_memory_failure, is_out_of_memory
from simclr_cli.core.events import EpochDone, Report, StepDone
from simclr_cli.core.seeds import Purpose, create_numpy_generator, create_torch_generator, seed_device
from simclr_cli.encode.embed import compute_in_parts
from simclr_cli.engine.augment import ViewParameters, ViewRecipe, draw_parameters, make_view
from simclr_cli.engine.compile import fold_batch_norm
from simclr_cli.engine.encoder import Encoder
from simclr_cli.engine.image_ops import upload
from simclr_cli.engine.optim import Schedule, peak_learning_rate, set_learning_rate
from simclr_cli.images.cache import DecodedImages
from simclr_cli.images.loader import PREFETCHED_PARTS
from simclr_cli.images.threads import prefetch
from simclr_cli.train.losses import LOSS_READ_SECONDS, EpochLosses, read_losses
from simclr_cli.train.profiling import measure_seconds_per_step

CROP_AND_FLIP = ViewRecipe(jitter=0.0, grayscale=0.0, blur=0.0)
MOMENTUM = 0.9
TRIAL_IMAGES = 32  # for the estimate of the time


@dataclass(frozen=True)
class ClassifierRecipe:
    """The recipe of a classifier: Nesterov momentum, cosine to 0 without warm-up, no weight decay (B.5, B.6)."""

    frozen: bool  # f does not change, nor do batch norm's statistics
    learning_rate: float  # times B / 256
    epochs: int


LINEAR = ClassifierRecipe(frozen=True, learning_rate=0.1, epochs=90)
FINE_TUNING = ClassifierRecipe(frozen=False, learning_rate=0.05, epochs=30)


PROBE_REMEDY = "Use --protocol quick, or another --device."  # a frozen f: `probe` sets neither rate nor batch


def choose_batch_size(images: int, device: torch.device) -> int:
    """Return B: a power of two, at most a quarter of the labeled images, and at most 256 on a CPU, 1,024 on a GPU.

    The paper uses 4,096 on ImageNet (1,024 on 1 %), and the rate grows with B. Few images in large batches would make
    too few steps. Fewer than 16 images are one batch.
    """
    if images < 16:
        return images
    largest, quarter = 256 if device.type == "cpu" else 1024, images // 4
    return min(largest, 1 << (quarter.bit_length() - 1))


def train_classifier(
    encoder: Encoder,
    decoded: DecodedImages,
    rows: NDArray[np.int64],
    labels: Tensor,
    classes: int,
    recipe: ClassifierRecipe,
    *,
    batch_size: int | None = None,
    seed: int,
    report: Report,
) -> nn.Linear:
    """Train a linear classifier of h, zero before the first step, on one random view of each image per epoch.

    h is neither normalized nor standardized. A frozen f stays the same bit for bit; otherwise f is trained in place,
    batch norm and dropout included. f ends in eval mode. The order follows from (seed, epoch), views and dropout from
    (seed, step). An epoch's remainder is a batch.

    Args:
        encoder: f, on the device to train on.
        rows: (N,) rows of the labeled images in `decoded`.
        labels: (N,) int64 in 0..classes-1, on the CPU.
        batch_size: B; None: see choose_batch_size.

    Returns:
        width -> classes, on the encoder's device; its outputs are logits.

    Raises:
        TrainingError: the loss is not finite.
        MachineError: the memory is too small for the batch.
        Interrupted: raised by `report`; f may then be half trained.
    """
    batch_size = min(batch_size or choose_batch_size(len(rows), encoder.mean.device), len(rows))
    starts = compute_batch_starts(len(rows), batch_size)
    steps_per_epoch = len(starts) + 1
    learning_rate = Schedule(
        peak_learning_rate(recipe.learning_rate, "linear", batch_size), recipe.epochs * steps_per_epoch
    )
    train_step = ClassifierStep(encoder, classes, recipe, seed)
    remedy = PROBE_REMEDY if recipe.frozen else "Try a lower --learning-rate."
    reporter = EpochReporter(recipe.epochs, steps_per_epoch, encoder.mean.device, report, remedy)
    try:
        with closing(_load_batches(decoded, rows, starts, recipe.epochs, seed, train_step.device)) as batches:
            for step, (places, pixels) in enumerate(batches):
                sizes, rate = torch.from_numpy(decoded.sizes[rows[places]]), learning_rate(step)
                loss = train_step(pixels, sizes, labels[torch.from_numpy(places)], step, rate)
                reporter.add(step, loss, len(places), rate)
    finally:
        encoder.eval()
    return train_step.linear


class EpochReporter:
    """A reader of losses that reports every step, on a GPU at most once in LOSS_READ_SECONDS, and every epoch."""

    def __init__(self, epochs: int, steps_per_epoch: int, device: torch.device, report: Report, remedy: str) -> None:
        self.epochs, self.steps_per_epoch, self.device, self.report = epochs, steps_per_epoch, device, report
        self.remedy = remedy  # for a loss that is not finite
        self.losses = EpochLosses()
        self.images = 0
        self.epoch_start = self.last_read = time.monotonic()

    def add(self, step: int, loss: Tensor, images: int, learning_rate: float) -> None:
        """Add a step of `images` images, and report the step and a finished epoch.

        Raises:
            TrainingError: the loss is not finite.
        """
        epoch, done = step // self.steps_per_epoch + 1, step % self.steps_per_epoch + 1
        is_last = done == self.steps_per_epoch
        self.losses.append(loss)
        self.images += images
        if self.device.type != "cpu" and not is_last and time.monotonic() - self.last_read < LOSS_READ_SECONDS:
            return
        total = self.epochs * self.steps_per_epoch
        self.losses.mark_read(read_losses(self.losses.unread, step, total, epoch - 1, remedy=self.remedy))
        self.last_read = time.monotonic()
        seconds = self.last_read - self.epoch_start
        speed = self.images / max(seconds, 1e-9)
        self.report(StepDone(epoch, self.epochs, done, self.steps_per_epoch, self.losses.read[-1], speed))
        if is_last:
            self.report(EpochDone(epoch, statistics.fmean(self.losses.read), learning_rate, speed, seconds))
            self.losses.clear()
            self.images, self.epoch_start = 0, time.monotonic()


class ClassifierStep:
    """One step of Nesterov's momentum on the cross-entropy of one view of each image of a batch."""

    def __init__(self, encoder: Encoder, classes: int, recipe: ClassifierRecipe, seed: int) -> None:
        self.device, self.size = encoder.mean.device, encoder.spec.image_size
        self.frozen, self.seed = recipe.frozen, seed
        self.largest_part = sys.maxsize  # images at a time that a frozen f had enough memory for
        self.linear = nn.Linear(encoder.width, classes).to(self.device)
        nn.init.zeros_(self.linear.weight)  # as in the paper's code: the first loss is log(classes)
        nn.init.zeros_(self.linear.bias)
        # A frozen f runs as in `embed`: in eval mode, its norms folded in, which changes h by rounding only.
        self.encode: Callable[[Tensor], Tensor] = fold_batch_norm(encoder.eval()) if recipe.frozen else encoder.train()
        trained = [*self.linear.parameters(), *([] if recipe.frozen else encoder.parameters())]
        self.optimizer = torch.optim.SGD(trained, lr=0.0, momentum=MOMENTUM, nesterov=True)

    def __call__(self, pixels: Tensor, sizes: Tensor, labels: Tensor, step: int, rate: float) -> Tensor:
        """Train on (B, 3, H, W) uint8 squashed images of (B, 2) true sizes, and return the mean loss before the step.

        The loss is a scalar without graph, on the device.
        """
        drawn = draw_parameters(sizes, CROP_AND_FLIP, create_torch_generator(self.seed, Purpose.AUGMENT, step))
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        try:
            logits = self.linear(self._embed(pixels, sizes, drawn, step))
            loss = F.cross_entropy(logits, upload(labels, self.device))
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            smaller = f"Use a smaller batch, such as --batch-size {max(1, len(pixels) // 2)}."
            raise MachineError(
                f"{describe_memory_failure(error)} too small to train on {len(pixels)} images at a time.",
                PROBE_REMEDY if self.frozen else smaller,
            ) from None
        return loss.detach()

    def _embed(self, pixels: Tensor, sizes: Tensor, drawn: ViewParameters, step: int) -> Tensor:
        """Return h (B, width); a frozen f computes it without a graph, so that no gradient reaches f, and in parts."""

        def compute(part: slice) -> Tensor:
            x = make_view(upload(pixels[part], self.device), sizes[part], drawn[part], self.size)
            return self.encode(x)

        if not self.frozen:
            seed_device(self.device, self.seed, Purpose.STEP, step)
            return compute(slice(None))
        with torch.inference_mode():
            parts = compute_in_parts(compute, len(pixels), self.largest_part)
            self.largest_part = len(parts[0]) if len(parts) > 1 else self.largest_part
            h = torch.cat(parts)
        return h.clone()  # a normal tensor: autograd keeps it for the gradient of the weights


def compute_batch_starts(count: int, batch_size: int) -> list[int]:
    """Return the start of each batch but the first in an epoch's order; a remainder of one joins the batch before.

    Batch norm has no variance to learn from a single image, and fails where its map is 1 x 1.
    """
    return list(range(batch_size, count - 1, batch_size))


def measure_seconds_per_image(
    encoder: Encoder, classes: int, recipe: ClassifierRecipe, side: int, batch_size: int
) -> float:
    """Measure the seconds that training takes per image, with a copy of the encoder and random images.

    Args:
        side: of the stored images, px.
    """
    count = min(batch_size, TRIAL_IMAGES)
    train_step = ClassifierStep(copy.deepcopy(encoder), classes, recipe, seed=0)
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator())
    sizes, labels = torch.full((count, 2), side), torch.zeros(count, dtype=torch.int64)
    return measure_seconds_per_step(train_step(pixels, sizes, labels, step, 0.0) for step in range(2)) / count


def _load_batches(
    decoded: DecodedImages, rows: NDArray[np.int64], starts: list[int], epochs: int, seed: int, device: torch.device
) -> Generator[tuple[NDArray[np.int64], Tensor], None, None]:
    """Yield each step's (B,) places in `rows` and (B, 3, side, side) uint8 images, and read the next ones ahead."""
    orders = (create_numpy_generator(seed, Purpose.CLASSIFIER, epoch).permutation(len(rows)) for epoch in range(epochs))

    def load(places: NDArray[np.int64]) -> tuple[NDArray[np.int64], Tensor]:
        pixels = torch.from_numpy(decoded.read(rows[places]))
        return places, pixels.pin_memory() if device.type == "cuda" else pixels

    return prefetch(load, (places for order in orders for places in np.split(order, starts)), PREFETCHED_PARTS)
