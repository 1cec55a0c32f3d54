"""Learn an encoder from a folder of images, without labels: census, plan, decode, train, export."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from simclr_cli.api import PretrainResult, PretrainSettings, ResolvedSettings
from simclr_cli.commands.report import try_report
from simclr_cli.core.distributed import ProcessGroup, join_process_group
from simclr_cli.core.errors import CollapseError, InputError, MachineError, require_extra
from simclr_cli.core.events import (
    CensusTaken,
    Choice,
    EpochDone,
    Event,
    Note,
    PlanMade,
    Report,
    StopController,
    progress,
    silent,
)
from simclr_cli.core.files import prepare_folder, write_json
from simclr_cli.core.hardware import get_free_memory
from simclr_cli.core.world import World
from simclr_cli.encode.load import resolve_device
from simclr_cli.encode.model_card import build_timm_config, render_model_card
from simclr_cli.engine.encoder import has_batch_norm
from simclr_cli.engine.simclr import SimCLR
from simclr_cli.images.cache import DecodedImages, decode_images, describe_cache_shortage
from simclr_cli.images.census import Census
from simclr_cli.images.loader import BatchLoader
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import count_workers
from simclr_cli.search.near_duplicates import group_negatives
from simclr_cli.store.history import TensorBoardWriter, read_epochs
from simclr_cli.store.run import RunFolder
from simclr_cli.store.run_info import RunInfo
from simclr_cli.train.job import TrainingJob
from simclr_cli.train.loop import Training, build_model
from simclr_cli.train.monitor import Monitor, Outcome, draw_held_out, judge_training
from simclr_cli.train.plan import Circumstances, choose_compile, choose_micro_batch, fit_to_decoded_images, resolve
from simclr_cli.train.profiling import describe_disk_shortage, estimate_seconds, measure_bytes_per_view
from simclr_cli.train.resume import explain_more_epochs, lock_run, open_run, record_run
from simclr_cli.train.resume_images import check_unchanged_images


@dataclass(frozen=True)
class Preparation:
    """A run before its images are decoded; plan, model and previous run in the main process only."""

    run: RunFolder
    settings: ResolvedSettings
    census: Census
    plan: PlanMade | None = None
    model: SimCLR | None = None
    previous: RunInfo | None = None  # of a run that is resumed


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
    device = resolve_device(settings.device, world)
    with join_process_group(world, device) as processes, contextlib.ExitStack() as stack:
        prepared = _prepare(settings, device, processes, stack, report)
        if settings.dry_run:
            return _describe_result(prepared, start_time)
        job, prepared = _decode(settings, prepared, device, processes, report)
        if settings.tensorboard and processes.is_main:
            report = _write_event_files(job.run, report, stack)
        model = prepared.model or build_model(job.settings).to(device)
        training = Training(model, job, report, stop, Monitor(job.batches.decoded, job.batches.held_out, job.settings))
        with training.stop.saving(training):
            metrics = training.run()
            outcome = judge_training(metrics, job.settings.batch_size, job.total_steps)
            checksum = _export(model, job, outcome) if processes.is_main else None
        if training.stop.request is not None:  # while the encoder was written: the run is finished, but has no report
            raise training.stop.request
        del training  # frees the state of the optimizer, which may be large, before the report
        page = None
        if job.info is not None:
            workers = job.settings.workers
            page = try_report(job.run, job.info, census=prepared.census, device=device, workers=workers, report=report)
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
    if processes.is_main:
        prepared = _plan(settings, device, processes, report)
        if not settings.dry_run:
            stack.enter_context(lock_run(prepared.run, report, resumed=prepared.settings.resume))
        if not processes.is_single:
            message = [str(prepared.run.path.absolute()), prepared.settings.to_json(), prepared.census.to_json()]
    message = processes.broadcast_object(message)
    if prepared is None:
        run, resolved, census = message
        prepared = Preparation(RunFolder(Path(run)), ResolvedSettings.from_json(resolved), Census.from_json(census))
    return prepared


def _plan(settings: PretrainSettings, device: torch.device, processes: ProcessGroup, report: Report) -> Preparation:
    """Scan the images and resolve every setting; whatever cannot work fails here, before any long work."""
    run, requested, previous = open_run(settings, restarted=processes.was_restarted)
    workers = count_workers(requested.workers, processes.local_world_size)
    census = take_census(requested.images, workers=workers, progress=progress(report, "reading headers"))
    if previous is not None:
        check_unchanged_images(run, previous.settings.images, census, requested, report)
    if requested.loss == "supcon" and not census.classes:
        raise InputError(
            f"--loss supcon needs a folder per class, and the folders in {census.root} do not look like classes.",
            "Sort the images into at least two folders of at least two images, or use another --loss.",
        )
    summary = census.summary()
    report(CensusTaken(summary))

    memory = get_free_memory(device) // (processes.local_world_size if device.type == "cpu" else 1)
    short_side = summary["short_side"]["median"]
    here = Circumstances(len(census.images), short_side, device, processes.world_size, memory)
    resolved, choices = resolve(requested, here)
    if previous is not None:
        choices = explain_more_epochs(previous, resolved, choices)
    resolved = dataclasses.replace(resolved, run=run.path.name)
    model = build_model(resolved).to(device)
    bytes_per_image = 2 * measure_bytes_per_view(model.encoder, resolved.precision)
    resolved, micro_batch = choose_micro_batch(resolved, here, bytes_per_image, has_batch_norm(model.encoder))
    steps = resolved.epochs * ((len(census.images) - resolved.held_out) // resolved.batch_size)
    seconds = estimate_seconds(model, resolved, census, steps, processes.world_size)
    resolved, compiling = choose_compile(resolved, here, seconds)
    plan = PlanMade(str(run.path), (*choices, micro_batch, compiling), steps, seconds)
    report(plan)
    cache_shortage = describe_cache_shortage(census, resolved.image_size, _cache_budget(resolved))
    for shortage in filter(None, (cache_shortage, describe_disk_shortage(run.path, model, resolved))):
        report(Note(shortage, warning=True))
    return Preparation(run, resolved, census, plan, model, previous)


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
    groups = group_negatives(images, resolved, processes, report)
    held_out = draw_held_out(len(images), resolved.held_out, resolved.seed)
    batches = BatchLoader(images, resolved.batch_size, resolved.seed, device, processes, held_out)
    job = TrainingJob(prepared.run, resolved, batches, groups, info)
    return job, dataclasses.replace(prepared, settings=resolved, census=images.census, plan=plan)


def _replace_choices(choices: Sequence[Choice], changed: Sequence[Choice]) -> tuple[Choice, ...]:
    by_name = {choice.name: choice for choice in changed}
    return tuple(by_name.get(choice.name, choice) for choice in choices)


def _decode_images(
    census: Census, settings: ResolvedSettings, workers: int, processes: ProcessGroup, report: Report
) -> DecodedImages:
    """Decode the images, which must be the same in all processes, and more than one."""
    with processes.main_first():
        images = decode_images(
            census, settings.image_size, workers=workers, progress=progress(report, "decoding"),
            budget=_cache_budget(settings),
        )  # fmt: skip
    if len(set(processes.all_gather_object(images.census.fingerprint))) > 1:
        raise MachineError(
            f"The processes of this run do not all see the same images in {census.root}.",
            "Mount the same folder under the same path on each machine.",
        )
    if len(images) < 2:
        raise InputError("Only one image could be decoded.", "Use a folder of at least 2 whole images.")
    return images


def _write_event_files(run: RunFolder, report: Report, stack: contextlib.ExitStack) -> Report:
    """Return a report that also writes every epoch to TensorBoard's event files."""
    files = TensorBoardWriter(run.event_folder, lambda text: report(Note(text, warning=True)))
    stack.callback(files.close)

    def report_and_write(event: Event) -> None:
        if isinstance(event, EpochDone):
            files.write(read_epochs(run))  # the training has just written them, with this one
        report(event)

    return report_and_write


def _export(model: SimCLR, job: TrainingJob, outcome: Outcome) -> str:
    """Write outcome, projection head and encoder, which finishes the run; return the checksum of the encoder."""
    write_json(job.run.outcome_file, dataclasses.asdict(outcome))
    encoder = model.cpu().encoder
    job.run.write_projection_head(model.head.state_dict())
    card = render_model_card(encoder, images=len(job.batches.decoded), epochs=job.settings.epochs)
    return job.run.write_encoder(encoder.backbone.state_dict(), build_timm_config(encoder), card)


def _cache_budget(settings: PretrainSettings) -> int | None:
    """Return the bytes that the cache may take; None: automatic."""
    return None if settings.cache_gb is None else int(settings.cache_gb * 1e9)
