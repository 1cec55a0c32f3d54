"""A linear classifier trained with labels: on h of a frozen f (the linear protocol), or f and all (fine-tuning)."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from simclr_cli.core.errors import MachineError, is_out_of_memory
from simclr_cli.core.events import EpochDone, Report, StepDone
from simclr_cli.core.seeds import Purpose, numpy_generator, seed_device, torch_generator
from simclr_cli.engine.augment import ViewRecipe, draw_parameters, make_view
from simclr_cli.engine.compile import folded
from simclr_cli.engine.encoder import Encoder
from simclr_cli.engine.optim import Schedule, peak_learning_rate, set_learning_rate
from simclr_cli.images.cache import DecodedImages
from simclr_cli.images.loader import AHEAD
from simclr_cli.images.threads import ahead
from simclr_cli.train.outcome import TELL_SECONDS, read_losses
from simclr_cli.train.profiling import seconds_a_step

CROP_AND_FLIP = ViewRecipe(jitter=0.0, grayscale=0.0, blur=0.0)
MOMENTUM = 0.9
TRIAL_IMAGES = 32  # what the estimate of the time is made from


@dataclass(frozen=True)
class ClassifierRecipe:
    """How a classifier is trained: Nesterov momentum, cosine to 0 without warm-up, no decay (B.5, B.6)."""

    frozen: bool  # f is left as it is, batch norm's statistics included
    learning_rate: float  # times B / 256
    epochs: int


LINEAR = ClassifierRecipe(frozen=True, learning_rate=0.1, epochs=90)
FINE_TUNING = ClassifierRecipe(frozen=False, learning_rate=0.05, epochs=30)


def automatic_batch_size(images: int, device: torch.device) -> int:
    """B for so many labeled images: a power of two, at most a quarter of them, and 256 on a CPU or 1,024 on a GPU.

    The paper takes 4,096 of ImageNet (1,024 of 1 %), and the rate grows with B: of few images too large a batch
    would leave too few steps. Below 16 it is all of them.
    """
    if images < 16:
        return images
    most, quarter = 256 if device.type == "cpu" else 1024, images // 4
    return min(most, 1 << (quarter.bit_length() - 1))


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
    """A linear classifier of h, zero before the first step, trained on one random view of each image an epoch.

    h goes in as it is, not normalized and not standardized. If the recipe is frozen, f stays as it is bit for bit;
    otherwise it is trained in place, batch norm and dropout included, and is left in eval mode. Order follows from
    (seed, epoch), views and dropout from (seed, step). An epoch's remainder is a batch of its own.

    Args:
        encoder: f, on the device to train on.
        rows: (N,) places of the labeled images in `decoded`.
        labels: (N,) int64, theirs, from 0 to before `classes`; on the CPU.
        batch_size: B; None: see automatic_batch_size.

    Returns:
        width -> classes, on the encoder's device; its outputs are logits.

    Raises:
        TrainingError: the loss is not finite.
        MachineError: the memory is too small for the batch.
        Interrupted: raised by `report`; f may then be half trained.
    """
    device = encoder.mean.device
    batch_size = min(batch_size or automatic_batch_size(len(rows), device), len(rows))
    starts = batch_starts(len(rows), batch_size)
    steps = len(starts) + 1
    total = recipe.epochs * steps
    rate_of = Schedule(peak_learning_rate(recipe.learning_rate, "linear", batch_size), total)
    update = Update(encoder, classes, recipe, seed)
    losses: list[float] = []  # of the epoch under way, as far as they are read
    unread: list[Tensor] = []  # on the device still
    began = told = time.monotonic()
    seen = 0
    try:
        with closing(_batches(decoded, rows, starts, recipe.epochs, seed)) as coming:
            for step, (places, pixels) in enumerate(coming):
                epoch, done = step // steps + 1, step % steps + 1
                sizes = torch.from_numpy(decoded.sizes[rows[places]])
                unread.append(update(pixels, sizes, labels[torch.from_numpy(places)], step, rate_of(step)))
                seen += len(places)
                if device.type != "cpu" and done < steps and time.monotonic() - told < TELL_SECONDS:
                    continue
                losses += read_losses(unread, step, total, epoch - 1, remedy="Try a lower --learning-rate.")
                unread, told = [], time.monotonic()
                speed = seen / max(told - began, 1e-9)
                report(StepDone(epoch, recipe.epochs, done, steps, losses[-1], speed))
                if done == steps:
                    report(EpochDone(epoch, statistics.fmean(losses), rate_of(step), speed, told - began))
                    losses, seen, began = [], 0, time.monotonic()
    finally:
        encoder.eval()
    return update.linear


class Update:
    """One step of Nesterov's momentum on the cross-entropy of one view of each image of a batch."""

    def __init__(self, encoder: Encoder, classes: int, recipe: ClassifierRecipe, seed: int) -> None:
        self.device, self.size = encoder.mean.device, encoder.spec.image_size
        self.frozen, self.seed = recipe.frozen, seed
        self.linear = nn.Linear(encoder.width, classes).to(self.device)
        nn.init.zeros_(self.linear.weight)  # as in the paper's code: the first loss is log(classes)
        nn.init.zeros_(self.linear.bias)
        # Frozen, f is what `embed` uses: in eval mode, its norms folded in, which changes h by rounding only.
        self.encode: Callable[[Tensor], Tensor] = folded(encoder.eval()) if recipe.frozen else encoder.train()
        trained = [*self.linear.parameters(), *([] if recipe.frozen else encoder.parameters())]
        self.optimizer = torch.optim.SGD(trained, lr=0.0, momentum=MOMENTUM, nesterov=True)

    def __call__(self, pixels: Tensor, sizes: Tensor, labels: Tensor, step: int, rate: float) -> Tensor:
        """Train on (B, 3, H, W) uint8 squashed images of (B, 2) true sizes; return the mean loss before.

        The loss is a scalar without graph, on the device.
        """
        drawn = draw_parameters(sizes, CROP_AND_FLIP, torch_generator(self.seed, Purpose.AUGMENT, step))
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        try:
            x = make_view(pixels.to(self.device, non_blocking=True), sizes, drawn, self.size)
            logits = self.linear(self._represent(x, step))
            loss = F.cross_entropy(logits, labels.to(self.device, non_blocking=True))
            loss.backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise MachineError(
                f"The memory is too small to train on {len(pixels)} images at a time.",
                f"Give a smaller batch: --batch-size {max(1, len(pixels) // 2)}, for one.",
            ) from None
        self.optimizer.step()
        return loss.detach()

    def _represent(self, x: Tensor, step: int) -> Tensor:
        """(B, width) h; a frozen f is computed without a graph, so that nothing can flow back into it."""
        if not self.frozen:
            seed_device(self.device, self.seed, Purpose.STEP, step)
            return self.encode(x)
        with torch.inference_mode():
            h = self.encode(x)
        return h.clone()  # one that autograd may keep, for the gradient by the weights


def batch_starts(count: int, batch_size: int) -> list[int]:
    """Return where each batch but the first begins in an epoch's order; a remainder of one joins the batch before.

    Of a single image batch norm has no variance to learn, and where it is 1 x 1 by then it refuses.
    """
    return list(range(batch_size, count - 1, batch_size))


def seconds_a_image(encoder: Encoder, classes: int, recipe: ClassifierRecipe, side: int, batch_size: int) -> float:
    """What one image costs in training, tried out on a copy of the encoder with random images.

    Args:
        side: of the stored images, px.
    """
    count = min(batch_size, TRIAL_IMAGES)
    update = Update(copy.deepcopy(encoder), classes, recipe, seed=0)
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator())
    sizes, labels = torch.full((count, 2), side), torch.zeros(count, dtype=torch.int64)
    return seconds_a_step(update(pixels, sizes, labels, step, 0.0) for step in range(2)) / count


def _batches(
    decoded: DecodedImages, rows: NDArray[np.int64], starts: list[int], epochs: int, seed: int
) -> Generator[tuple[NDArray[np.int64], Tensor], None, None]:
    """Yield (B,) places among `rows` and (B, 3, side, side) uint8 of every step, the next ones read ahead."""
    orders = (numpy_generator(seed, Purpose.CLASSIFIER, epoch).permutation(len(rows)) for epoch in range(epochs))
    pinned = torch.cuda.is_available()

    def make(places: NDArray[np.int64]) -> tuple[NDArray[np.int64], Tensor]:
        pixels = torch.from_numpy(decoded.read(rows[places]))
        return places, pixels.pin_memory() if pinned else pixels

    return ahead(make, (places for order in orders for places in np.split(order, starts)), AHEAD)
