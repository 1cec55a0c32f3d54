"""Training itself: Algorithm 1 as a loop over batches, from the newest checkpoint to the last epoch."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.distributed import Ranks
from simclr_cli.core.errors import Interrupted, MachineError, Terminated, is_out_of_memory
from simclr_cli.core.events import EpochDone, Event, Note, Report, StepDone, TrainingBegun, ValidationMetrics
from simclr_cli.core.seeds import Purpose, seeded
from simclr_cli.encode.load import start_encoder
from simclr_cli.engine.encoder import synchronize_norms
from simclr_cli.engine.optim import Schedule, create_optimizer, peak_learning_rate, set_learning_rate
from simclr_cli.engine.simclr import ProjectionHead, SimCLR
from simclr_cli.images.loader import Batches
from simclr_cli.store.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from simclr_cli.store.history import write_epochs
from simclr_cli.store.run import RunFolder
from simclr_cli.train.outcome import TELL_SECONDS, keep_what_is_good, read_losses
from simclr_cli.train.step import Step


def build_model(chosen: ResolvedSettings) -> SimCLR:
    """Encoder and head as they are before the first step: a function of the settings alone."""
    encoder = start_encoder(chosen.backbone, chosen.weights, chosen.image_size, chosen.seed)
    with seeded(chosen.seed, Purpose.HEAD):
        head = ProjectionHead(encoder.width, layers=chosen.head_layers, dimensions=chosen.projection_dimensions)
    return SimCLR(encoder, head)


def train(
    model: SimCLR,
    batches: Batches,
    chosen: ResolvedSettings,
    run: RunFolder,
    report: Report,
    *,
    groups: Tensor | None = None,
    shrunk: Callable[[int], None] = lambda _: None,
    look: Callable[[SimCLR, int], tuple[ValidationMetrics | None, float | None]] = lambda *_: (None, None),
) -> list[dict[str, Any]]:
    """Train `model` in place, on the device that it is on.

    What happens in a step follows from (seed, step) alone, so a resumed run repeats nothing and skips nothing. A GPU is
    waited for once a second, to say how it goes. Of several processes the first one saves; all stop at the same step.

    Args:
        groups: one for every image of the census (see contrastive_loss).
        shrunk: told of a smaller micro-batch, after the memory was too small for one.
        look: measures the model after an epoch (see Monitor.look).

    Returns:
        A row an epoch (see EpochDone).

    Raises:
        TrainingError: the loss is not finite; the last checkpoint stands.
        MachineError: the memory is too small for the smallest micro-batch.
        Interrupted: raised by `report`, and again from here after saving.

    With TrainingBegun `report` is given what saves the last whole step from any thread, while the next is under way.
    """
    ranks = batches.ranks
    if not ranks.alone and batches.device.type == "cuda":
        synchronize_norms(model.encoder)
    optimizer = create_optimizer(model, chosen.optimizer, weight_decay=chosen.weight_decay)
    steps, total = batches.steps_per_epoch, chosen.epochs * batches.steps_per_epoch
    peak = peak_learning_rate(chosen.learning_rate, chosen.lr_rule, chosen.batch_size)
    rate_of = Schedule(peak, total, chosen.warmup_epochs * steps)
    metrics: list[dict[str, Any]] = []  # a row for every epoch done
    losses: list[float] = []  # one for every step done of the epoch under way, but for those not read yet
    fingerprint = batches.decoded.census.fingerprint
    begun_again = False
    if found := load_checkpoint(run.checkpoints):
        model.load_state_dict(found.model)
        optimizer.load_state_dict(found.optimizer)
        begun_again = bool(found.losses) and found.images != fingerprint  # its steps were other batches
        metrics, losses = found.metrics, [] if begun_again else found.losses
        if ranks.first and metrics:
            write_epochs(run, metrics)
    saved, last_save = (len(metrics), len(losses)), time.monotonic()
    start = len(metrics) * steps + len(losses)
    if len(set(ranks.collect(start))) > 1:
        raise MachineError(
            f"The processes of this run do not all see its checkpoint in {run.checkpoints}.",
            "Put --runs on a disk that all the machines share.",
        )

    def save() -> int:
        nonlocal saved, last_save
        with step_of.whole() as model_state:
            every = losses + [float(loss) for loss in step_of.losses]
            done = len(metrics), len(every)
            if done != saved and all(map(math.isfinite, every)):
                if ranks.first:
                    step = done[0] * steps + done[1]
                    state = Checkpoint(step, model_state, optimizer.state_dict(), metrics, every, fingerprint)
                    save_checkpoint(run.checkpoints, state)
                saved = done
            last_save = time.monotonic()
            return saved[0] * steps + saved[1]

    def stopped(kind: type[Interrupted]) -> Interrupted:
        return kind(f"Stopped after step {save()} of {total}; all of it is saved.", f"Go on with: {run.resume_command}")

    def failed(step: int, loss: float) -> str:
        return keep_what_is_good(run, model, batches, step, loss) if ranks.first else ""

    if chosen.resume and start < total:
        why = " The images are no longer those that it was of, so this epoch begins again." if begun_again else ""
        report(Note(f"Going on after step {start} of {total}, in epoch {len(metrics) + 1} of {chosen.epochs}.{why}"))
    model.train()
    step_of = Step(model, optimizer, chosen, report, groups=groups, ranks=ranks)
    unread = step_of.losses  # still on the device
    if stop := _tell(report, TrainingBegun(save, stopped)):
        raise stopped(type(stop)) from None
    told = time.monotonic()
    pause = 1  # steps from one look at the losses to the next
    with contextlib.closing(_updates(step_of, batches, start, total, rate_of, report, shrunk)) as coming:
        for epoch in range(len(metrics), chosen.epochs):
            began, first = time.perf_counter(), len(losses)
            speed = 0.0  # of an epoch that was stopped after its last step
            for step in itertools.islice(coming, steps - first):
                done = len(losses) + len(unread)
                if done < steps and len(unread) < pause:
                    continue
                read = read_losses(unread, step, total, epoch, failed)
                with step_of.lock:
                    losses += read
                    unread.clear()
                speed = (done - first) * chosen.batch_size / (time.perf_counter() - began)
                stop = _tell(report, StepDone(epoch + 1, chosen.epochs, done, steps, losses[-1], speed))
                pause = 1 if batches.device.type == "cpu" else _pause(len(read), time.monotonic() - told)
                stop, pause = _agree(ranks, stop, pause)
                told = time.monotonic()
                if stop:
                    break
                if done < steps and told - last_save > chosen.checkpoint_seconds:
                    save()
            if len(losses) == steps:  # a stop at the last step leaves a whole epoch
                seconds = time.perf_counter() - began
                seen = look(model, epoch + 1) if ranks.first else (None, None)
                rate = rate_of((epoch + 1) * steps - 1)
                row = EpochDone(epoch + 1, statistics.fmean(losses), rate, speed, seconds, *seen)
                rows = [*metrics, dataclasses.asdict(row)]
                if ranks.first:
                    write_epochs(run, rows)
                stop = _agree(ranks, _tell(report, row) or stop, pause)[0]
                with step_of.lock:
                    metrics, losses = rows, []
            if stop:
                raise stopped(type(stop)) from None
            if time.monotonic() - last_save > chosen.checkpoint_seconds or epoch + 1 == chosen.epochs:
                save()
    return metrics


def _updates(
    step_of: Step,
    batches: Batches,
    start: int,
    total: int,
    rate_of: Schedule,
    report: Report,
    shrunk: Callable[[int], None],
) -> Generator[int, None, None]:
    """The steps from `start` to before `total`, each done when it is asked for.

    A step that the memory was too small for is done again in smaller micro-batches, and so are those that follow.
    """
    most = step_of.chosen.micro_batch
    while True:
        with contextlib.closing(batches.run(start, total, most)) as coming:
            for batch in coming:
                set_learning_rate(step_of.optimizer, rate_of(batch.step))
                try:
                    step_of(batch)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    break
                start = batch.step + 1
                yield batch.step
            else:
                return
        most = _smaller(batches, most, start, report)  # here what the failed step held is free again
        shrunk(most)


def _smaller(batches: Batches, most: int | None, step: int, report: Report) -> int:
    """Half of the micro-batch that the memory was too small for."""
    largest: int = max(part.stop - part.start for part in batches.parts(most))
    half = largest // 2
    remedy = "Give a smaller --image-size or --backbone, or close what else is running."
    if largest == 1:
        raise MachineError("The memory is too small to train on a single image at a time.", remedy)
    if not batches.ranks.alone:
        raise MachineError(
            f"The memory of a device is too small for a micro-batch of {largest} images.",
            f"Go on with --resume --micro-batch {half}.",
        )
    if batches.device.type == "cuda":
        torch.cuda.empty_cache()
    text = f"Step {step + 1}: the memory was too small for {largest} images at a time; done again with {half}."
    report(Note(text, warning=True))
    return half


def _pause(steps: int, seconds: float) -> int:
    """How many steps take TELL_SECONDS, by the last ones: a number, so that all processes look at the same step."""
    return max(1, int(steps * TELL_SECONDS / max(seconds, 1e-3)))


def _agree(ranks: Ranks, stop: Interrupted | None, pause: int) -> tuple[Interrupted | None, int]:
    """What all processes do: stop if any of them is to, and look at the losses when the first one does."""
    if ranks.alone:
        return stop, pause
    said = ranks.collect([stop.exit_code if stop else 0, pause])
    code = max(code for code, _ in said)
    kind = Terminated if code == Terminated.exit_code else Interrupted
    return (stop or kind("Stopped.", "") if code else None), said[0][1]


def _tell(report: Report, event: Event) -> Interrupted | None:
    """Report an event; what asks for a stop is handed over, for there is something to save first."""
    try:
        report(event)
    except Interrupted as stop:
        return stop
    return None
