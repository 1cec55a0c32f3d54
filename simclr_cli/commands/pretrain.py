"""Learn an encoder from a folder of images, without labels: census, plan, decode, train, export."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simclr_cli.api import IndexSettings, PretrainResult, PretrainSettings, ResolvedSettings
from simclr_cli.commands.report import try_report
from simclr_cli.core.distributed import ProcessGroup, join_process_group
from simclr_cli.core.errors import CollapseError, InputError, Interrupted, MachineError, require_extra
from simclr_cli.core.events import (
    Choice,
    Note,
    Report,
    StopController,
    progress,
    silent,
)
from simclr_cli.core.files import prepare_folder
from simclr_cli.core.world import World
from simclr_cli.encode.device import resolve_device
from simclr_cli.engine.simclr import SimCLR
from simclr_cli.images.cache import DecodedImages, decode_images
from simclr_cli.images.census import Census
from simclr_cli.images.loader import BatchLoader
from simclr_cli.images.threads import count_workers
from simclr_cli.search.library import open_index, open_library
from simclr_cli.search.near_duplicates import group_negatives
from simclr_cli.store.run import RunFolder
from simclr_cli.train.finish import FinishedTraining, export, write_event_files
from simclr_cli.train.guard import Guard
from simclr_cli.train.job import TrainingJob
from simclr_cli.train.loop import Training, build_model
from simclr_cli.train.monitor import Monitor, draw_held_out
from simclr_cli.train.outcome import Outcome, Scores, compare, judge_distillation, judge_training
from simclr_cli.train.plan import fit_to_decoded_images
from simclr_cli.train.prepare import Capacity, Preparation, get_cache_budget, plan_run
from simclr_cli.train.resume import lock_run, record_run
from simclr_cli.train.start import keep_start


def pretrain(
    settings: PretrainSettings, *, report: Report = silent, stop: StopController | None = None
) -> PretrainResult:
    """Train on a folder of images, or resume a run.

    Where torchrun or srun has started several processes, each calls this and they work as one: the main one plans and
    writes.

    Args:
        report: called with every event. It may raise `Interrupted`: the training is then saved and can be resumed.
        stop: lets another thread request a stop, or save the training while a step is running.

    Raises:
        SimclrError: one of its kinds, with what to do next.
    """
    start_time = time.perf_counter()
    if settings.tensorboard:
        require_extra("tensorboard", "tensorboard", "--tensorboard")
    world = World.from_environment(devices=settings.devices)
    device = resolve_device(settings.device, world, report)
    with join_process_group(world, device) as processes, contextlib.ExitStack() as stack:
        prepared = _prepare(settings, device, processes, stack, report)
        if settings.dry_run:
            return _describe_result(prepared, start_time)
        job, prepared = _decode(settings, prepared, device, processes, report)
        if settings.tensorboard and processes.is_main:
            report = write_event_files(job.run, report, stack)
        model = prepared.model or build_model(job.settings, job.start_weights).to(device)
        monitor = Monitor(job.batches.decoded, job.batches.held_out, job.settings, job.targets)
        start = monitor.score(model) if processes.is_main and job.targets is None else None
        guard = Guard(model, job, monitor, report) if job.settings.weights != "none" and processes.is_main else None
        training = Training(model, job, report, stop, monitor)
        start_time -= sum(row.get("seconds") or 0 for row in training.metrics)  # of the epochs before a resume
        with training.stop.saving(training):
            metrics = training.run()
            outcome = judge_distillation(metrics) if start is None else _judge(metrics, start, model, monitor, job)
            if guard is not None:
                try:
                    outcome = guard.choose_weights(model, outcome)
                except Interrupted as request:
                    raise training.save_and_interrupt(type(request)) from None
            checksum = export(model, job, outcome) if processes.is_main else None
        finished, stop = FinishedTraining(job.run, job.total_steps), training.stop
        if stop.request is not None:  # while the encoder was written
            raise finished.save_and_interrupt(type(stop.request))
        del training  # frees the state of the optimizer, which may be large, before the report
        page = None
        if job.info is not None:
            with stop.saving(finished):
                page = try_report(job.run, job.info, census=prepared.census, device=device, report=report)
        if outcome.state == "collapsed":
            what, _, remedy = outcome.words.partition(". ")
            raise CollapseError(f"{what}.", remedy)
        return dataclasses.replace(
            _describe_result(prepared, start_time, metrics),
            model_checksum=checksum,
            state=outcome.state,
            outcome=outcome.words,
            report=page,
        )


def _judge(
    metrics: Sequence[Mapping[str, Any]], start: Scores, model: SimCLR, monitor: Monitor, job: TrainingJob
) -> Outcome:
    gains, is_untrained = compare(start, monitor.score(model)), job.settings.weights == "none"
    return judge_training(metrics, gains, job.settings.batch_size, job.total_steps, of_untrained=is_untrained)


def _describe_result(
    prepared: Preparation, start_time: float, metrics: Sequence[Mapping[str, Any]] = ()
) -> PretrainResult:
    """Return the result of a plan, or of a finished training by a row of metrics per epoch."""
    return PretrainResult(
        run=str(prepared.run.path),
        finished=bool(metrics),
        epochs=prepared.settings.epochs,
        images=len(prepared.census.images),
        skipped=len(prepared.census.skipped),
        first_loss=metrics[0]["loss"] if metrics else None,
        last_loss=metrics[-1]["loss"] if metrics else None,
        images_per_second=statistics.median(row["images_per_second"] for row in metrics) if metrics else None,
        seconds=time.perf_counter() - start_time,
        model_checksum=None,
        plan=prepared.plan,
        census=prepared.census.summary(),
    )


def _prepare(
    settings: PretrainSettings,
    device: torch.device,
    processes: ProcessGroup,
    stack: contextlib.ExitStack,
    report: Report,
) -> Preparation:
    """Plan the run in the main process, lock its folder, and broadcast the plan to the other processes."""
    prepared, message = None, None
    capacity = Capacity.measure(device, processes)
    if processes.is_main:
        prepared = plan_run(settings, device, capacity, processes, report)
        if not settings.dry_run:
            stack.enter_context(lock_run(prepared.run, report, resumed=prepared.settings.resume))
        if not processes.is_single:
            message = [str(prepared.run.path.absolute()), prepared.settings.to_json(), prepared.census.to_json()]
    message = processes.broadcast_object(message)
    if prepared is None:
        run, resolved, census = message
        prepared = Preparation(RunFolder(Path(run)), ResolvedSettings.from_json(resolved), Census.from_json(census))
    return prepared


def _decode(
    settings: PretrainSettings, prepared: Preparation, device: torch.device, processes: ProcessGroup, report: Report
) -> tuple[TrainingJob, Preparation]:
    """Decode the images, and fit the plan to those that could be decoded."""
    prepare_folder(prepared.run.path)
    workers = count_workers(prepared.settings.workers, processes.local_world_size)
    images = _decode_images(prepared.census, prepared.settings, workers, processes, report)
    is_fixed = prepared.settings.resume or settings.held_out is not None
    resolved, changed = fit_to_decoded_images(prepared.settings, len(images), held_out_is_fixed=is_fixed)
    for choice in changed:
        report(Note(f"The plan changes. {choice.name.capitalize()}: {choice.value}, {choice.reason}.", warning=True))
    plan, info = prepared.plan, None
    if plan is not None:
        plan = dataclasses.replace(plan, choices=_replace_choices(plan.choices, changed))
        info = record_run(prepared.run, resolved, images.census, plan.choices, prepared.census, prepared.previous)
        keep_start(prepared.run, prepared.start)
    groups = group_negatives(images, resolved, processes, report)
    held_out = draw_held_out(len(images), resolved.held_out, resolved.seed)
    batches = BatchLoader(images, resolved.batch_size, resolved.seed, device, processes, held_out)
    targets = _embed_targets(prepared.run, resolved, images.census, device, processes, report)
    job = TrainingJob(prepared.run, resolved, batches, groups, info, targets)
    return job, dataclasses.replace(prepared, settings=resolved, census=images.census, plan=plan)


def _embed_targets(
    run: RunFolder,
    settings: ResolvedSettings,
    census: Census,
    device: torch.device,
    processes: ProcessGroup,
    report: Report,
) -> Tensor | None:
    """Return the embeddings of the images by the start at its own size, for distillation; the user's cache keeps them.

    Raises:
        InputError: an image can no longer be decoded.
    """
    if settings.loss != "distill":
        return None
    with processes.main_first():
        library = IndexSettings(
            images=census.root, encoder=str(run.start_folder), device=str(device), workers=settings.workers
        )
        index, _ = open_index(open_library(library, report), report, "Embedding")
        places = [index.places_by_name.get(image.name) for image in census.images]
        if None in places:
            name = census.images[places.index(None)].name
            raise InputError(f"{census.root / name} can no longer be decoded.", "Restore it, or run the command again.")
        return torch.from_numpy(index.h.take(np.array(places, np.int64)))


def _replace_choices(choices: Sequence[Choice], changed: Sequence[Choice]) -> tuple[Choice, ...]:
    by_name = {choice.name: choice for choice in changed}
    return tuple(by_name.get(choice.name, choice) for choice in choices)


def _decode_images(
    census: Census, settings: ResolvedSettings, workers: int, processes: ProcessGroup, report: Report
) -> DecodedImages:
    """Decode the images, which must be the same in all processes, and more than one."""
    with processes.main_first():
        images = decode_images(
            census, settings.train_size, workers=workers, progress=progress(report, "decoding"),
            budget=get_cache_budget(settings),
        )  # fmt: skip
    if len(set(processes.all_gather_object(images.census.fingerprint))) > 1:
        raise MachineError(
            f"The processes of this run do not all see the same images in {census.root}.",
            "Mount the same folder under the same path on each machine.",
        )
    if len(images) < 2:
        raise InputError("Only one image could be decoded.", "Use a folder of at least 2 whole images.")
    return images
