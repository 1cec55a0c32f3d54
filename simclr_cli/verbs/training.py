"""Training itself: Algorithm 1 as a loop over batches, from the newest checkpoint to the last epoch."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from simclr_cli.engine.loss import nt_xent
from simclr_cli.engine.model import ProjectionHead, SimCLR
from simclr_cli.engine.optim import create_optimizer, learning_rate, peak_learning_rate, set_learning_rate
from simclr_cli.engine.views import TwoViews
from simclr_cli.errors import Interrupted, TrainingError
from simclr_cli.events import EpochDone, Report, StepDone
from simclr_cli.images.batches import Batches
from simclr_cli.seeds import Purpose, seed_for, seeded, torch_generator
from simclr_cli.settings import ResolvedSettings
from simclr_cli.store.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from simclr_cli.store.run import RunFolder
from simclr_cli.verbs.encoders import start_encoder
from simclr_cli.verbs.plan import view_recipe

CHECKPOINT_SECONDS = 60  # at most this much work, and an epoch, is lost to a power cut
TRIAL_PICTURES, TRIAL_SECONDS = 64, 4  # what the estimate of the time may cost


def build_model(chosen: ResolvedSettings) -> SimCLR:
    """Encoder and head as they are before the first step: a function of the settings alone."""
    encoder = start_encoder(chosen.backbone, chosen.weights, chosen.image_size, chosen.seed)
    with seeded(chosen.seed, Purpose.HEAD):
        head = ProjectionHead(encoder.width, layers=chosen.head_layers, dimensions=chosen.projection_dimensions)
    return SimCLR(encoder, head)


def train(
    model: SimCLR, batches: Batches, chosen: ResolvedSettings, run: RunFolder, report: Report
) -> list[dict[str, Any]]:
    """Train `model` in place, on the device that it is on.

    What happens in a step follows from (seed, step) alone, so a resumed run repeats nothing and skips nothing.

    Returns:
        The rows of metrics.jsonl, one an epoch.

    Raises:
        TrainingError: the loss is not finite; the last checkpoint stands.
        Interrupted: raised by `report`, and again from here after saving.
    """
    optimizer = create_optimizer(model, chosen.optimizer, weight_decay=chosen.weight_decay)
    steps, total = batches.steps_per_epoch, chosen.epochs * batches.steps_per_epoch
    views = TwoViews(chosen.image_size, view_recipe(chosen))
    peak = peak_learning_rate(chosen.learning_rate, chosen.lr_rule, chosen.batch_size)
    metrics: list[dict[str, Any]] = []  # a row for every epoch done
    losses: list[float] = []  # one for every step done of the epoch under way
    if found := load_checkpoint(run.checkpoints):
        model.load_state_dict(found.model)
        optimizer.load_state_dict(found.optimizer)
        metrics, losses = found.metrics, found.losses

    def save() -> None:
        done = len(metrics) * steps + len(losses)
        save_checkpoint(run.checkpoints, Checkpoint(done, model.state_dict(), optimizer.state_dict(), metrics, losses))

    model.train()
    saved = time.monotonic()
    for epoch in range(len(metrics), chosen.epochs):
        began, first = time.perf_counter(), len(losses)
        stop: Interrupted | None = None
        for batch in batches.epoch(epoch, start=first):
            step = epoch * steps + batch.step
            rate = learning_rate(step, total_steps=total, warmup_steps=chosen.warmup_epochs * steps, peak=peak)
            set_learning_rate(optimizer, rate)
            torch.manual_seed(seed_for(chosen.seed, Purpose.STEP, step))  # dropout and the like
            generator = torch_generator(chosen.seed, Purpose.VIEWS, step)
            loss = train_step(model, views, optimizer, batch.pixels, batch.sizes, generator, chosen)
            losses.append(float(loss))
            if not math.isfinite(losses[-1]):
                raise TrainingError(
                    f"The loss became {losses[-1]} in step {step + 1} of {total} (epoch {epoch + 1}).",
                    "Train under another --run with a lower --learning-rate or a higher --temperature.",
                )
            speed = (len(losses) - first) * chosen.batch_size / (time.perf_counter() - began)
            stop = _tell(report, StepDone(epoch + 1, chosen.epochs, batch.step + 1, steps, losses[-1], speed))
            if stop:
                break
        if len(losses) == steps:  # a stop at the last step leaves a whole epoch
            row = EpochDone(epoch + 1, statistics.fmean(losses), rate, speed, time.perf_counter() - began)
            metrics.append(dataclasses.asdict(row))
            losses = []
            run.write_metrics(metrics)
            stop = _tell(report, row) or stop
        if stop or time.monotonic() - saved > CHECKPOINT_SECONDS or epoch + 1 == chosen.epochs:
            save()
            saved = time.monotonic()
        if stop:
            raise type(stop)(
                f"Stopped after step {len(metrics) * steps + len(losses)} of {total}; all of it is saved.",
                f"Go on with: {run.resume_command}",
            ) from None
    return metrics


def _tell(report: Report, event: StepDone | EpochDone) -> Interrupted | None:
    """Report an event; what asks for a stop is handed over, for there is something to save first."""
    try:
        report(event)
    except Interrupted as stop:
        return stop
    return None


def train_step(
    model: SimCLR,
    views: TwoViews,
    optimizer: torch.optim.Optimizer,
    pixels: Tensor,
    sizes: Tensor,
    generator: torch.Generator,
    chosen: ResolvedSettings,
) -> Tensor:
    """One update: two views of N pictures, one pass, NT-Xent, one step of the optimizer.

    Args:
        pixels: (N, 3, side, side) uint8; sizes: (N, 2) true heights and widths.

    Returns:
        The loss before the update, a scalar without graph.
    """
    device = model.encoder.mean.device
    x = views(pixels.to(device), sizes, generator)  # (2N, 3, S, S)
    with torch.autocast(device.type, torch.bfloat16, enabled=chosen.precision == "bfloat16"):
        _, z = model(x)  # (2N, D)
    loss = nt_xent(z, chosen.temperature)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def seconds_a_picture(model: SimCLR, chosen: ResolvedSettings, side: int) -> float:
    """Time a step on random pictures: small ones first, larger ones as long as that is quick. `model` is spoilt by it.

    Args:
        side: of the stored pictures, px.
    """
    model.train()
    views = TwoViews(chosen.image_size, view_recipe(chosen))
    optimizer = create_optimizer(model, chosen.optimizer, weight_decay=chosen.weight_decay)
    generator = torch.Generator().manual_seed(0)
    count, seconds = 1, 0.0
    while count < min(chosen.batch_size, TRIAL_PICTURES) and seconds * 8 < TRIAL_SECONDS:
        count = min(8 * count, chosen.batch_size, TRIAL_PICTURES)
        pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
        sizes = torch.full((count, 2), side)
        seconds = math.inf
        for _ in range(3):  # the first of a size is slow: kernels are chosen, memory is taken
            began = time.perf_counter()
            float(train_step(model, views, optimizer, pixels, sizes, generator, chosen))
            seconds = min(seconds, time.perf_counter() - began)
    return seconds / count
