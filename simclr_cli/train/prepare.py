"""The preparation of a run before its images are decoded: census, start, plan, and a trial of the model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from simclr_cli.api import PretrainSettings, ResolvedSettings
from simclr_cli.core.distributed import ProcessGroup
from simclr_cli.core.errors import InputError
from simclr_cli.core.events import CensusTaken, Choice, Note, PlanMade, Report, progress
from simclr_cli.core.hardware import get_free_memory, has_fast_bfloat16
from simclr_cli.engine.encoder import has_batch_norm
from simclr_cli.engine.simclr import SimCLR
from simclr_cli.images.cache import describe_cache_shortage
from simclr_cli.images.census import Census
from simclr_cli.images.colors import UNKNOWN_COLORS, sample_colors
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import count_workers
from simclr_cli.store.checkpoint import find_last_step
from simclr_cli.store.run import RunFolder
from simclr_cli.store.run_info import RunInfo
from simclr_cli.train.distillation import MAX_ANCHORS
from simclr_cli.train.loop import build_model
from simclr_cli.train.monitor import MAX_KNN_IMAGES
from simclr_cli.train.plan import choose_compile, choose_micro_batch, fit_to_hours, resolve, warn_of_views
from simclr_cli.train.profiling import (
    count_model_bytes,
    describe_disk_shortage,
    estimate_bytes_behind_cut,
    estimate_seconds,
    measure_bytes_per_view,
    measure_seconds_per_embedding,
)
from simclr_cli.train.resume import explain_more_epochs, open_run
from simclr_cli.train.resume_images import check_unchanged_images
from simclr_cli.train.rules import Circumstances
from simclr_cli.train.start import NO_START, Start, choose_start, describe_alternative


@dataclass(frozen=True)
class Preparation:
    """A run before its images are decoded; plan, model and previous run in the main process only."""

    run: RunFolder
    settings: ResolvedSettings
    census: Census
    plan: PlanMade | None = None
    model: SimCLR | None = None
    start: Start = NO_START  # its encoder in the main process only
    previous: RunInfo | None = None  # of a run that is resumed


@dataclass(frozen=True)
class Capacity:
    """The abilities that all devices of a run have."""

    memory: int  # free bytes for each process
    has_fast_bfloat16: bool

    @staticmethod
    def measure(device: torch.device, processes: ProcessGroup) -> Capacity:
        """Measure the device of each process, and return the least of all; to be called in all processes."""
        memory = get_free_memory(device) // (processes.local_world_size if device.type == "cpu" else 1)
        return Capacity(processes.min(memory), bool(processes.min(has_fast_bfloat16(device))))


def plan_run(
    settings: PretrainSettings, device: torch.device, capacity: Capacity, processes: ProcessGroup, report: Report
) -> Preparation:
    """Scan the images and resolve every setting; whatever cannot work fails here, before any long work."""
    run, requested, previous = open_run(settings, restarted=processes.was_restarted)
    if previous is not None:
        requested = _replace_slow_settings(requested, settings, previous, device, capacity, report)
    start = choose_start(requested, run, device, report)
    workers = count_workers(requested.workers, processes.local_world_size)
    census = take_census(requested.images, workers=workers, progress=progress(report, "reading headers"))
    if previous is not None:
        check_unchanged_images(run, previous.settings.images, census, requested, report)
    if requested.loss == "supcon" and not census.classes:
        raise InputError(
            f"--loss supcon needs a folder per class, and {census.class_folders.describe(census.root)}.",
            "Sort the images into at least two folders of at least two images, or use another --loss.",
        )
    summary = census.summary()
    report(CensusTaken(summary))

    short_side = summary["short_side"]["median"]
    colors = sample_colors(census, workers) if previous is None else UNKNOWN_COLORS
    here = Circumstances(
        len(census.images), short_side, device, processes.world_size, capacity.memory, capacity.has_fast_bfloat16,
        start=start.initial, colors=colors,
    )  # fmt: skip
    resolved, choices, model, seconds = _measure(requested, here, run, census, start)
    if requested.hours is not None and previous is None:
        other_seconds = _estimate_embedding(resolved, census, start)
        fitted, reason = fit_to_hours(resolved, requested, seconds / resolved.epochs, other_seconds)
        resolved, choices, model, seconds = _measure(fitted, here, run, census, start)
        names = ("epochs", "train size") if requested.train_size is None else ("epochs",)
        choices = tuple(dataclasses.replace(c, reason=reason) if c.name in names else c for c in choices)
    if previous is not None:
        choices = explain_more_epochs(run, previous, resolved, choices)
    steps = resolved.epochs * ((len(census.images) - resolved.held_out) // resolved.batch_size)
    done = 0 if previous is None else min(steps, find_last_step(run.checkpoint_folder))
    seconds = seconds * (steps - done) / max(1, steps) + _estimate_embedding(resolved, census, start)
    resolved, compiling = choose_compile(resolved, here, seconds)
    plan = PlanMade(str(run.path), (*choices, compiling), steps, seconds, done)
    report(plan)
    for warning in warn_of_views(resolved, colors):
        report(Note(warning, warning=True))
    if resolved.precision == "bfloat16" and device.type == "cuda" and not capacity.has_fast_bfloat16:
        report(Note("This GPU emulates bfloat16, which is slow; --precision float32 is faster.", warning=True))
    cache_shortage = describe_cache_shortage(census, resolved.train_size, get_cache_budget(resolved))
    for shortage in filter(None, (cache_shortage, describe_disk_shortage(run.path, model, resolved))):
        report(Note(shortage, warning=True))
    if start.encoder is not None and previous is None:
        report(Note(describe_alternative(start, resolved)))
    return Preparation(run, resolved, census, plan, model, start, previous)


def _replace_slow_settings(
    requested: ResolvedSettings, settings: PretrainSettings, previous: RunInfo, device: torch.device,
    capacity: Capacity, report: Report,
) -> ResolvedSettings:  # fmt: skip
    """Let a run from an NVIDIA GPU continue without what is slow here: emulated bfloat16, and compiling for a CPU.

    The weights are float32 in either precision. In float32 the images need twice the memory, so that the micro-batch
    is chosen anew.
    """
    if torch.device(previous.settings.device).type != "cuda":
        return requested
    changed: dict[str, Any] = {} if device.type == "cuda" else {"compile": settings.compile}
    if requested.precision == "bfloat16" and not capacity.has_fast_bfloat16:
        report(Note("This device computes bfloat16 slowly: the run continues in float32, which rounds less."))
        changed |= {"precision": "float32", "micro_batch": settings.micro_batch}
    return dataclasses.replace(requested, **changed)


def _measure(
    requested: ResolvedSettings, here: Circumstances, run: RunFolder, census: Census, start: Start
) -> tuple[ResolvedSettings, tuple[Choice, ...], SimCLR, float]:
    """Resolve every setting, build the model, and estimate the seconds of its training by a trial."""
    resolved, choices = resolve(dataclasses.replace(requested, hours=None), here)
    resolved = dataclasses.replace(resolved, run=run.path.name)
    model = build_model(resolved, start.source).to(here.device)
    bytes_per_image = 2 * measure_bytes_per_view(model.encoder, resolved.precision)
    left = max(0, here.memory - count_model_bytes(model, resolved, gradients=True))
    here = dataclasses.replace(here, memory=left)
    behind_cut = estimate_bytes_behind_cut(resolved, model.encoder.width, here.images, here.device)
    sees_batch = has_batch_norm(model.encoder) and not resolved.freeze_batch_norm
    resolved, micro_batch = choose_micro_batch(resolved, here, bytes_per_image, behind_cut, sees_batch)
    steps = resolved.epochs * ((len(census.images) - resolved.held_out) // resolved.batch_size)
    seconds = estimate_seconds(model, resolved, census, steps, here.processes)
    return resolved, (*choices, micro_batch), model, seconds


def _estimate_embedding(settings: ResolvedSettings, census: Census, start: Start) -> float:
    """Estimate the seconds for embedding besides the training: the targets, the anchors and the guard's images."""
    if start.encoder is None:
        return 0.0
    count, own_size = len(census.images), start.encoder.spec.image_size
    images = 0.0  # as many at the start's own size: the time is in proportion to the pixels
    if settings.loss == "distill":
        images += count + min(MAX_ANCHORS, count) * (settings.train_size / own_size) ** 2
    if census.classes:
        images += 2 * min(MAX_KNN_IMAGES, count) * (settings.image_size / own_size) ** 2
    return images * measure_seconds_per_embedding(start.encoder)


def get_cache_budget(settings: PretrainSettings) -> int | None:
    """Return the bytes that the cache may take; None: automatic."""
    return None if settings.cache_gb is None else int(settings.cache_gb * 1e9)
