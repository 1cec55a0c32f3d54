"""Training itself: Algorithm 1 as a loop over batches, from the newest checkpoint to the last epoch."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from simclr_cli.engine.compilation import Forward, compiled
from simclr_cli.engine.loss import nt_xent
from simclr_cli.engine.model import ProjectionHead, SimCLR
from simclr_cli.engine.optim import create_optimizer, learning_rate, peak_learning_rate, set_learning_rate
from simclr_cli.engine.views import TwoViews
from simclr_cli.errors import Interrupted, TrainingError
from simclr_cli.events import EpochDone, Note, Report, StepDone, silent
from simclr_cli.images.batches import Batches
from simclr_cli.seeds import Purpose, seed_for, seeded, torch_generator
from simclr_cli.settings import ResolvedSettings
from simclr_cli.store.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from simclr_cli.store.run import RunFolder
from simclr_cli.verbs.encoders import start_encoder
from simclr_cli.verbs.plan import view_recipe

CHECKPOINT_SECONDS = 60  # at most this much work, and an epoch, is lost to a power cut
TELL_SECONDS = 1  # between two looks at the loss on a GPU, each of which lets it run dry
TRIAL_PICTURES, TRIAL_SECONDS = 64, 4  # what the estimate of the time may cost
SHORT_RUN = 120  # seconds; of such a run a rough estimate is enough


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

    What happens in a step follows from (seed, step) alone, so a resumed run repeats nothing and skips nothing. A GPU is
    waited for once a second, to say how it goes.

    Returns:
        The rows of metrics.jsonl, one an epoch.

    Raises:
        TrainingError: the loss is not finite; the last checkpoint stands.
        Interrupted: raised by `report`, and again from here after saving.
    """
    optimizer = create_optimizer(model, chosen.optimizer, weight_decay=chosen.weight_decay)
    steps, total = batches.steps_per_epoch, chosen.epochs * batches.steps_per_epoch
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
    step_of = Step(model, optimizer, chosen, report)
    saved = told = time.monotonic()
    with contextlib.closing(batches.run(len(metrics) * steps + len(losses), total)) as coming:
        for epoch in range(len(metrics), chosen.epochs):
            began, first = time.perf_counter(), len(losses)
            stop: Interrupted | None = None
            unread: list[Tensor] = []  # losses that are still on the device
            for batch in itertools.islice(coming, steps - first):
                rate = learning_rate(
                    batch.step, total_steps=total, warmup_steps=chosen.warmup_epochs * steps, peak=peak
                )
                set_learning_rate(optimizer, rate)
                unread.append(step_of(batch.pixels, batch.sizes, batch.step))
                done = len(losses) + len(unread)
                if done < steps and batches.device.type != "cpu" and time.monotonic() - told < TELL_SECONDS:
                    continue
                losses += _read(unread, batch.step, total, epoch)
                unread, told = [], time.monotonic()
                speed = (done - first) * chosen.batch_size / (time.perf_counter() - began)
                stop = _tell(report, StepDone(epoch + 1, chosen.epochs, done, steps, losses[-1], speed))
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


def _read(unread: list[Tensor], last: int, total: int, epoch: int) -> list[float]:
    """The losses of the steps up to `last`, from the device.

    Raises:
        TrainingError: one of them is not finite.
    """
    losses: list[float] = torch.stack(unread).tolist()
    for step, loss in enumerate(losses, start=last + 1 - len(losses)):
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss became {loss} in step {step + 1} of {total} (epoch {epoch + 1}).",
                "Train under another --run with a lower --learning-rate or a higher --temperature.",
            )
    return losses


def _tell(report: Report, event: StepDone | EpochDone) -> Interrupted | None:
    """Report an event; what asks for a stop is handed over, for there is something to save first."""
    try:
        report(event)
    except Interrupted as stop:
        return stop
    return None


class Step:
    """One update: two views of N pictures, one pass, NT-Xent, one step of the optimizer."""

    def __init__(
        self, model: SimCLR, optimizer: torch.optim.Optimizer, chosen: ResolvedSettings, report: Report
    ) -> None:
        self.device = model.encoder.mean.device
        self.optimizer = optimizer
        self.chosen = chosen
        self.views = TwoViews(chosen.image_size, view_recipe(chosen))
        self.forward: Forward = model
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # every batch has the same shape
        if chosen.compile == "on":
            size = chosen.image_size
            example = torch.rand(2 * chosen.batch_size, 3, size, size, device=self.device)
            self.forward, reason = compiled(model, example, self._autocast())
            if reason:
                report(Note(f"Trained without torch.compile, which is not to be had here ({reason}).", warning=True))

    def __call__(self, pixels: Tensor, sizes: Tensor, step: int) -> Tensor:
        """Everything random in a step follows from (seed, step).

        Args:
            pixels: (N, 3, side, side) uint8, on the device; sizes: (N, 2) true heights and widths, on the CPU.
            step: of the whole training, from 0.

        Returns:
            The loss before the update, a scalar without graph, on the device.
        """
        torch.manual_seed(seed_for(self.chosen.seed, Purpose.STEP, step))  # dropout and the like
        x = self.views(pixels, sizes, torch_generator(self.chosen.seed, Purpose.VIEWS, step))  # (2N, 3, S, S)
        with self._autocast():
            _, z = self.forward(x)  # (2N, D)
        loss = nt_xent(z, self.chosen.temperature)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.chosen.precision == "bfloat16")


def seconds_a_picture(model: SimCLR, chosen: ResolvedSettings, side: int, pictures: int) -> float:
    """Time a step on random pictures: few first, more as long as that is quick and the run is not.

    Args:
        side: of the stored pictures, px.
        pictures: that the run will see, through all epochs.
    """
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}  # it is to be trained in earnest
    model.train()
    eager = dataclasses.replace(chosen, compile="off")
    step = Step(model, create_optimizer(model, chosen.optimizer, weight_decay=chosen.weight_decay), eager, silent)
    most = min(chosen.batch_size, TRIAL_PICTURES) if step.device.type == "cpu" else chosen.batch_size
    count, seconds = 1, 0.0
    while count < most and seconds * 8 < TRIAL_SECONDS and (count == 1 or pictures * seconds / count > SHORT_RUN):
        count = min(8 * count, most)
        pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8).to(step.device)
        sizes = torch.full((count, 2), side)
        seconds = math.inf
        for i in range(2):  # the first of a size is slow: kernels are chosen, memory is taken
            began = time.perf_counter()
            float(step(pixels, sizes, i))
            seconds = min(seconds, time.perf_counter() - began)
    model.zero_grad()
    model.load_state_dict(before)
    return seconds / count
