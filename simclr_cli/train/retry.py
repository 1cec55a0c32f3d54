"""Steps one after the other; one that runs out of memory is done again in smaller micro-batches."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import torch

from simclr_cli.core.errors import MachineError, describe_memory_failure, is_out_of_memory
from simclr_cli.core.events import Note, Report
from simclr_cli.engine.optim import Schedule, set_learning_rate
from simclr_cli.images.loader import BatchLoader
from simclr_cli.train.job import TrainingJob
from simclr_cli.train.step import Step


def run_steps(
    step: Step, job: TrainingJob, start: int, learning_rate: Schedule, report: Report
) -> Generator[int, None, None]:
    """Yield each step of a training from `start` on, counted from 0, once it is done.

    Raises:
        MachineError: the memory is too small for a micro-batch of one image, or of a run of several processes.
    """
    micro_batch = job.settings.micro_batch
    while True:
        with contextlib.closing(job.batches.load(start, job.total_steps, micro_batch)) as batches:
            for batch in batches:
                set_learning_rate(step.optimizer, learning_rate(batch.step))
                try:
                    step(batch)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    cause = describe_memory_failure(error)
                    break
                start = batch.step + 1
                yield batch.step
            else:
                return
        # The memory of the step is free here.
        micro_batch = _halve_micro_batch(job.batches, micro_batch, start, cause, report)
        job.record_micro_batch(micro_batch)


def _halve_micro_batch(batches: BatchLoader, micro_batch: int | None, step: int, cause: str, report: Report) -> int:
    """Return half of the micro-batch that did not fit into memory."""
    largest: int = max(part.stop - part.start for part in batches.micro_batches(micro_batch))
    half = largest // 2
    if largest == 1:
        raise MachineError(
            f"{cause} too small to train on a single image at a time.",
            "Set a smaller --image-size or --backbone, close other programs, or run simclr doctor.",
        )
    if not batches.process_group.is_single:
        raise MachineError(
            f"{cause} too small for a micro-batch of {largest} images.",
            f"Run again with --resume --micro-batch {half}.",
        )
    if batches.device.type != "cpu":
        torch.get_device_module(batches.device).empty_cache()
    text = f"{cause} too small for {largest} images at a time. Step {step + 1} is repeated with {half}."
    report(Note(text, warning=True))
    return half
