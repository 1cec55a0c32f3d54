"""The training loop: Algorithm 1 over batches, from the newest checkpoint to the last epoch."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Iterator
from typing import Any

from simclr_cli.api import ResolvedSettings
from simclr_cli.core.distributed import ProcessGroup
from simclr_cli.core.errors import Interrupted, MachineError, Terminated
from simclr_cli.core.events import EpochDone, Event, Note, Report, StepDone, StopController
from simclr_cli.core.seeds import Purpose, seeded
from simclr_cli.encode.create import create_initial_encoder
from simclr_cli.engine.adaptation import select_trained_part
from simclr_cli.engine.encoder import synchronize_norms
from simclr_cli.engine.optim import Schedule, create_optimizer, peak_learning_rate
from simclr_cli.engine.simclr import ProjectionHead, SimCLR
from simclr_cli.store.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from simclr_cli.store.history import write_epochs
from simclr_cli.train.distillation import prepare_distillation
from simclr_cli.train.job import TrainingJob
from simclr_cli.train.losses import LOSS_READ_SECONDS, keep_last_good_weights, read_losses
from simclr_cli.train.monitor import Monitor
from simclr_cli.train.retry import run_steps
from simclr_cli.train.step import Step
from simclr_cli.train.time_budget import TimeBudget

ROWS_TIME_SHARE = 0.005  # of the training, that writing the rows of metrics may take


def build_model(settings: ResolvedSettings, source: str | None = None) -> SimCLR:
    """Build encoder and projection head as they are before the first step: a function of its arguments alone.

    Args:
        source: the file of the trained weights in the run; None: the weights of the settings.
    """
    encoder = create_initial_encoder(settings.backbone, source or settings.weights, settings.train_size, settings.seed)
    select_trained_part(encoder, settings.train)
    with seeded(settings.seed, Purpose.HEAD):
        head = ProjectionHead(encoder.width, layers=settings.head_layers, dimensions=settings.projection_dimensions)
    return SimCLR(encoder, head, freeze_batch_norm=settings.freeze_batch_norm)


class Training:
    """A training of `model` in place, on its device, that any thread can save (`core.events.Saveable`).

    Everything in a step follows from (seed, step) alone, so a resumed run repeats nothing and skips nothing. The host
    waits for a GPU once a second, to report the loss. Of several processes the main one saves; all stop at the same
    step.

    Raises:
        MachineError: the processes see different checkpoints.
    """

    def __init__(
        self,
        model: SimCLR,
        job: TrainingJob,
        report: Report,
        stop: StopController | None = None,
        monitor: Monitor | None = None,
    ) -> None:
        self.model, self.job, self.report, self.monitor = model, job, report, monitor
        self.stop = stop or StopController()
        self.settings, self.batches, self.processes = job.settings, job.batches, job.batches.process_group
        self.steps_per_epoch = self.batches.steps_per_epoch
        if not self.processes.is_single and self.batches.device.type == "cuda":
            synchronize_norms(model.encoder)
        distillation = prepare_distillation(model, job, report)
        self.optimizer = create_optimizer(
            model,
            self.settings.optimizer,
            weight_decay=self.settings.weight_decay,
            layer_decay=self.settings.layer_decay,
        )
        peak = peak_learning_rate(self.settings.learning_rate, self.settings.lr_rule, self.settings.batch_size)
        warmup_steps = round(self.settings.warmup_epochs * self.steps_per_epoch)
        self.learning_rate = Schedule(peak, job.total_steps, warmup_steps)
        self.metrics: list[dict[str, Any]] = []  # a row for every finished epoch
        self._rows_written, self._rows_budget = 0, TimeBudget(ROWS_TIME_SHARE)
        self._restarts_epoch = False  # the images have changed, so its steps had other batches
        self._fingerprint = self.batches.decoded.census.fingerprint
        losses = self._load_checkpoint()
        self._saved, self._save_time = (len(self.metrics), len(losses)), time.monotonic()
        self.start = len(self.metrics) * self.steps_per_epoch + len(losses)
        if len(set(self.processes.all_gather_object(self.start))) > 1:
            raise MachineError(
                f"The processes of this run do not all see its checkpoint in {job.run.checkpoint_folder}.",
                "Put --runs on a disk that all the machines share.",
            )
        if self.settings.resume and self.start < job.total_steps:
            self._report_resume()
        self.model.train()
        self.step = Step(
            model, self.optimizer, self.settings, report,
            losses=losses, micro_batches=self.batches.micro_batches(self.settings.micro_batch), groups=job.groups,
            distillation=distillation, process_group=self.processes,
        )  # fmt: skip
        self.losses = self.step.losses
        self._read_interval, self._read_time = 1, time.monotonic()  # in steps; when losses were last read

    def _load_checkpoint(self) -> list[float]:
        """Continue from the newest checkpoint, and return the losses of the steps that its epoch has done."""
        checkpoint = load_checkpoint(self.job.run.checkpoint_folder)
        if checkpoint is None:
            return []
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.metrics = checkpoint.metrics
        self._write_rows(self.metrics)
        self._restarts_epoch = bool(checkpoint.losses) and checkpoint.census_fingerprint != self._fingerprint
        return [] if self._restarts_epoch else checkpoint.losses

    def _report_resume(self) -> None:
        reason = " The images have changed since, so this epoch starts over." if self._restarts_epoch else ""
        epoch = f"epoch {len(self.metrics) + 1} of {self.settings.epochs}"
        self.report(Note(f"Resuming after step {self.start} of {self.job.total_steps}, in {epoch}.{reason}"))

    def run(self) -> list[dict[str, Any]]:
        """Train to the last epoch.

        Returns:
            A row per epoch (see EpochDone).

        Raises:
            TrainingError: the loss is not finite; the last checkpoint stays as it is.
            MachineError: the memory is too small for a micro-batch of one image.
            Interrupted: requested through the StopController or raised by `report`; everything is saved.
        """
        steps = run_steps(self.step, self.job, self.start, self.learning_rate, self.report)
        with contextlib.closing(steps):
            try:
                if self.stop.request is not None:
                    raise self.stop.request
                for epoch in range(len(self.metrics), self.settings.epochs):
                    self._run_epoch(epoch, steps)
            except Interrupted as stop:
                raise self.save_and_interrupt(type(stop)) from None
            finally:
                with self.step.lock:
                    self._write_rows(self.metrics)
        return self.metrics

    def _run_epoch(self, epoch: int, steps: Iterator[int]) -> None:
        """Do the rest of an epoch, from 0, and save where it is time to."""
        start_time, steps_before = time.perf_counter(), len(self.losses)
        save_seconds = self.settings.checkpoint_seconds
        speed = 0.0  # images per second; of an epoch that was stopped after its last step
        stop: Interrupted | None = None
        for step in itertools.islice(steps, self.steps_per_epoch - steps_before):
            steps_done = len(self.losses)
            if steps_done < self.steps_per_epoch and len(self.losses.unread) < self._read_interval:
                continue
            steps_read = self._read_losses(step, epoch)
            speed = (steps_done - steps_before) * self.settings.batch_size / (time.perf_counter() - start_time)
            stop = self._report_step(epoch, steps_done, steps_read, speed)
            if stop:
                break
            if steps_done < self.steps_per_epoch and self._read_time - self._save_time > save_seconds:
                self.save()
        if len(self.losses) == self.steps_per_epoch:  # a stop at the last step leaves a whole epoch
            stop = self._finish_epoch(epoch, speed, time.perf_counter() - start_time, stop)
        if stop:
            raise stop
        if time.monotonic() - self._save_time > save_seconds or epoch + 1 == self.settings.epochs:
            self.save()

    def _read_losses(self, step: int, epoch: int) -> int:
        """Read the losses up to `step` from the device, and return how many there were."""
        losses = read_losses(self.losses.unread, step, self.job.total_steps, epoch, self._keep_last_good_weights)
        with self.step.lock:
            self.losses.mark_read(losses)
        return len(losses)

    def _keep_last_good_weights(self, step: int, loss: float) -> str:
        return keep_last_good_weights(self.job, self.model, step, loss) if self.processes.is_main else ""

    def _report_step(self, epoch: int, steps_done: int, steps_read: int, speed: float) -> Interrupted | None:
        """Report the newest loss, agree with the other processes on a stop, and set the next step to read at."""
        event = StepDone(epoch + 1, self.settings.epochs, steps_done, self.steps_per_epoch, self.losses.read[-1], speed)
        stop = self._report_unless_stopped(event)
        on_cpu = self.batches.device.type == "cpu"
        interval = 1 if on_cpu else _choose_interval(steps_read, time.monotonic() - self._read_time)
        stop, self._read_interval = _agree(self.processes, stop, interval)
        self._read_time = time.monotonic()
        return stop

    def _finish_epoch(self, epoch: int, speed: float, seconds: float, stop: Interrupted | None) -> Interrupted | None:
        """Measure the model, write and report the epoch's row, and agree with the other processes on a stop.

        Rows are written as often as there is time for it, and before each checkpoint.
        """
        validation, knn = None, None
        if self.monitor is not None and self.processes.is_main:
            validation, knn = self.monitor.measure(self.model, epoch + 1)
        rate = self.learning_rate((epoch + 1) * self.steps_per_epoch - 1)
        row = EpochDone(epoch + 1, statistics.fmean(self.losses.read), rate, speed, seconds, validation, knn)
        rows = [*self.metrics, dataclasses.asdict(row)]
        with self.step.lock:
            if self._rows_budget.allows():
                self._write_rows(rows)
        stop, _ = _agree(self.processes, self._report_unless_stopped(row) or stop, self._read_interval)
        with self.step.lock:
            self.metrics = rows
            self.losses.clear()
        return stop

    def _write_rows(self, rows: list[dict[str, Any]]) -> None:
        """Write the rows of epochs that are not on the disk yet, in the main process."""
        if self.processes.is_main and self._rows_written < len(rows):
            with self._rows_budget.spend():
                write_epochs(self.job.run, rows)
            self._rows_written = len(rows)

    def _report_unless_stopped(self, event: Event) -> Interrupted | None:
        """Report an event; return a request to stop instead of raising it, so that all processes agree on it."""
        try:
            self.report(event)
        except Interrupted as stop:
            return stop
        return self.stop.request

    def save(self) -> int:
        """Save the last whole step, unless it is saved or its loss is not finite; return the number of steps saved."""
        with self.step.hold_last_step() as model_state:
            losses = self.losses.read_all()
            position = len(self.metrics), len(losses)
            if position != self._saved and all(map(math.isfinite, losses)):
                self._write_rows(self.metrics)
                if self.processes.is_main:
                    step = position[0] * self.steps_per_epoch + position[1]
                    state = self.optimizer.state_dict()
                    checkpoint = Checkpoint(step, model_state, state, self.metrics, losses, self._fingerprint)
                    save_checkpoint(self.job.run.checkpoint_folder, checkpoint)
                self._saved = position
            self._save_time = time.monotonic()
            return self._saved[0] * self.steps_per_epoch + self._saved[1]

    def save_and_interrupt(self, kind: type[Interrupted]) -> Interrupted:
        """Save the last whole step, and return the error that ends the training."""
        saved = f"Stopped after step {self.save()} of {self.job.total_steps}; all of it is saved."
        return kind(saved, f"Resume with: {self.job.run.resume_command}")


def _choose_interval(steps: int, seconds: float) -> int:
    """Return how many steps take LOSS_READ_SECONDS, at the pace of the last ones.

    A number of steps, not a time, so that all processes read at the same step.
    """
    return max(1, int(steps * LOSS_READ_SECONDS / max(seconds, 1e-3)))


def _agree(processes: ProcessGroup, stop: Interrupted | None, interval: int) -> tuple[Interrupted | None, int]:
    """Agree among all processes: stop if any is asked to, and read losses when the main one does."""
    if processes.is_single:
        return stop, interval
    answers = processes.all_gather_object([stop.exit_code if stop else 0, interval])
    code = max(code for code, _ in answers)
    kind = Terminated if code == Terminated.exit_code else Interrupted
    return (stop or kind("Stopped.", "") if code else None), answers[0][1]
