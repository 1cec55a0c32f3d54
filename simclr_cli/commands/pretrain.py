"""Learn an encoder from a folder of images, without labels: census, plan, decode, train, export."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from simclr_cli.api import PretrainResult, PretrainSettings, ResolvedSettings
from simclr_cli.commands.report import try_report
from simclr_cli.core.distributed import Ranks, connected
from simclr_cli.core.errors import CollapseError, InputError, MachineError, require_extra
from simclr_cli.core.events import (
    CensusTaken,
    EpochDone,
    Event,
    Note,
    PlanMade,
    Report,
    TrainingEnded,
    progress,
    silent,
)
from simclr_cli.core.files import make_folder, write_json
from simclr_cli.core.hardware import free_memory
from simclr_cli.core.world import Place
from simclr_cli.encode.load import pick_device
from simclr_cli.encode.model_card import model_card, timm_config
from simclr_cli.engine.encoder import has_batch_norm
from simclr_cli.engine.simclr import SimCLR
from simclr_cli.images.cache import DecodedImages, decode_once, lack_of_room, stored_side
from simclr_cli.images.census import Census
from simclr_cli.images.groups import group
from simclr_cli.images.loader import Batches
from simclr_cli.images.scan import take_census
from simclr_cli.images.threads import count_workers
from simclr_cli.search.near_duplicates import join_alike
from simclr_cli.store.history import EventFiles, read_epochs
from simclr_cli.store.run import RunFolder
from simclr_cli.store.run_info import RunInfo
from simclr_cli.train.loop import build_model, train
from simclr_cli.train.monitor import Monitor, kept_out
from simclr_cli.train.outcome import outcome
from simclr_cli.train.plan import Circumstances, choose_compile, choose_micro_batch, fit_to_decoded, resolve
from simclr_cli.train.profiling import bytes_a_view, lack_of_disk, seconds_a_image
from simclr_cli.train.resume import alone, begin, explain, settle
from simclr_cli.train.run_images import check_images

FORWARD = 1 / 3  # of the time of a step, which all micro-batches but the last take once more


def pretrain(settings: PretrainSettings, *, report: Report = silent) -> PretrainResult:
    """Train on a folder of images, or go on with a run that was stopped.

    `report` may raise `Interrupted` at any event: a run in training is then saved and can be resumed. Where torchrun
    or srun has started several processes, each calls this and they work as one: the first one plans and writes.

    Raises:
        SimclrError: one of its kinds, with what to do next.
    """
    place = Place.found(devices=settings.devices)
    device = pick_device(settings.device, place)
    with connected(place, device) as ranks, contextlib.ExitStack() as held:
        return _pretrain(settings, device, ranks, held, report)


def _pretrain(
    settings: PretrainSettings, device: torch.device, ranks: Ranks, held: contextlib.ExitStack, report: Report
) -> PretrainResult:
    began = time.perf_counter()
    if settings.tensorboard:
        require_extra("tensorboard", "tensorboard", "--tensorboard")
    beside = ranks.beside()
    plan: PlanMade | None = None
    model: SimCLR | None = None
    before: RunInfo | None = None
    told = None
    if ranks.first:
        run, chosen, census, plan, model, before = _prepare(settings, device, ranks, beside, report)
        if not settings.dry_run:
            held.enter_context(alone(run, report, resumed=chosen.resume))
        if not ranks.alone:
            told = [str(run.path.absolute()), chosen.told(), census.told()]
    told = ranks.share(told)
    if not ranks.first:
        run, chosen, census = RunFolder(Path(told[0])), ResolvedSettings.retold(told[1]), Census.retold(told[2])
    result = PretrainResult(
        run=str(run.path), finished=False, epochs=chosen.epochs, images=len(census.images),
        skipped=len(census.skipped), first_loss=None, last_loss=None, images_per_second=None,
        seconds=time.perf_counter() - began, model_checksum=None, plan=plan, census=census.summary(),
    )  # fmt: skip
    if settings.dry_run:
        return result

    make_folder(run.path)
    decoded = _decode(census, chosen, count_workers(chosen.workers, beside), ranks, report)
    listed, census = census, decoded.census
    fixed = chosen.resume or settings.held_out is not None
    chosen, amended = fit_to_decoded(chosen, len(decoded), held_out_is_fixed=fixed)
    for choice in amended:
        report(Note(f"The plan changes. {choice.name.capitalize()}: {choice.value}, {choice.reason}.", warning=True))
    info = None
    if plan is not None:
        new = {choice.name: choice for choice in amended}
        plan = dataclasses.replace(plan, choices=tuple(new.get(choice.name, choice) for choice in plan.choices))
        info = settle(run, chosen, census, plan.choices, listed, before)
    groups = _groups(decoded, chosen, ranks, report)

    def shrunk(micro_batch: int) -> None:
        assert info is not None  # with several processes it is an error instead
        smaller = dataclasses.replace(info.settings, micro_batch=micro_batch)
        run.write_config(dataclasses.replace(info, settings=smaller).described())

    model = model or build_model(chosen).to(device)
    out = kept_out(len(decoded), chosen.held_out, chosen.seed)
    batches = Batches(decoded, chosen.batch_size, chosen.seed, device, ranks, out)
    watch = Monitor(decoded, out, chosen)
    telling = _to_event_files(run, report, held) if settings.tensorboard and ranks.first else report
    metrics = train(model, batches, chosen, run, telling, groups=groups, shrunk=shrunk, look=watch.look)

    found = outcome(metrics, chosen.batch_size, chosen.epochs * batches.steps_per_epoch)
    checksum, page = None, None
    if ranks.first:
        assert info is not None
        write_json(run.outcome_file, dataclasses.asdict(found))
        encoder = model.cpu().encoder
        run.write_projector(model.head.state_dict())
        card = model_card(encoder, images=len(decoded), epochs=chosen.epochs)
        checksum = run.write_encoder(encoder.backbone.state_dict(), timm_config(encoder), card)  # the run is finished
        report(TrainingEnded())
        page = try_report(run, info, census=census, device=device, workers=chosen.workers, report=report)
    if found.state == "collapsed":
        what, _, remedy = found.words.partition(". ")
        raise CollapseError(f"{what}.", remedy)
    return dataclasses.replace(
        result,
        finished=True,
        images=len(decoded),
        skipped=len(census.skipped),
        first_loss=metrics[0]["loss"],
        last_loss=metrics[-1]["loss"],
        images_per_second=statistics.median(row["images_per_second"] for row in metrics),
        seconds=time.perf_counter() - began,
        model_checksum=checksum,
        plan=plan,
        census=census.summary(),
        state=found.state,
        outcome=found.words,
        report=page,
    )


def _prepare(
    settings: PretrainSettings, device: torch.device, ranks: Ranks, beside: int, report: Report
) -> tuple[RunFolder, ResolvedSettings, Census, PlanMade, SimCLR, RunInfo | None]:
    """Census and plan, and of a run that goes on what it was; whatever cannot work ends here, before any long work."""
    run, wanted, before = begin(settings, restarted=ranks.restarted)
    workers = count_workers(wanted.workers, beside)
    census = take_census(wanted.images, workers=workers, progress=progress(report, "reading headers"))
    if before is not None:
        check_images(run, before.settings.images, census, wanted, report)
    if wanted.loss == "supcon" and not census.classes:
        raise InputError(
            f"--loss supcon takes the folders for classes, and those in {census.root} do not look like it.",
            "Sort the images into at least two folders of at least two, or choose another --loss.",
        )
    summary = census.summary()
    report(CensusTaken(summary))

    memory = free_memory(device) // (beside if device.type == "cpu" else 1)
    here = Circumstances(len(census.images), summary["short_side"]["median"], device, ranks.count, memory)
    chosen, choices = resolve(wanted, here)
    if before is not None:
        choices = explain(before, chosen, choices)
    chosen = dataclasses.replace(chosen, run=run.path.name)
    model = build_model(chosen).to(device)
    kept = 2 * bytes_a_view(model.encoder, chosen.precision)
    chosen, micro_batch = choose_micro_batch(chosen, here, kept, has_batch_norm(model.encoder))
    steps = chosen.epochs * ((len(census.images) - chosen.held_out) // chosen.batch_size)
    seen = steps * chosen.batch_size
    estimate = seen * seconds_a_image(model, chosen, stored_side(census, chosen.image_size), seen) / ranks.count
    estimate *= 1 + FORWARD * max(0.0, 1 - chosen.micro_batch * ranks.count / chosen.batch_size)
    chosen, compiling = choose_compile(chosen, here, estimate)
    plan = PlanMade(str(run.path), (*choices, micro_batch, compiling), steps, estimate)
    report(plan)
    room = lack_of_room(census, chosen.image_size, _budget(chosen))
    for shortage in filter(None, (room, lack_of_disk(run.path, model, chosen))):
        report(Note(shortage, warning=True))
    return run, chosen, census, plan, model, before


def _decode(census: Census, chosen: ResolvedSettings, workers: int, ranks: Ranks, report: Report) -> DecodedImages:
    """The images, which must be the same to all processes, and more than one."""
    told = progress(report, "decoding")
    with ranks.in_turn():
        decoded = decode_once(census, chosen.image_size, workers=workers, progress=told, budget=_budget(chosen))
    if len(set(ranks.collect(decoded.census.fingerprint))) > 1:
        raise MachineError(
            f"The processes of this run do not all see the same images in {census.root}.",
            "Give each machine the same folder under the same path.",
        )
    if len(decoded) < 2:
        raise InputError("Only one image could be decoded.", "Give a folder of at least 2 whole images.")
    return decoded


def _groups(decoded: DecodedImages, chosen: ResolvedSettings, ranks: Ranks, report: Report) -> Tensor | None:
    """(N,) the classes of the images for supcon; else which are not pushed apart; None: each is alone."""
    if chosen.loss == "supcon":
        return torch.from_numpy(np.unique(decoded.census.labels, return_inverse=True)[1])
    found = None
    ids = group(decoded.census, chosen.group_by, chosen.duplicates, decoded.workers) if ranks.first else None
    if ids is not None:
        if chosen.duplicates == "near":
            join_alike(ids, decoded, progress(report, "looking for copies"))
        found = ids.tolist()
    if (found := ranks.share(found)) is None:
        return None
    sizes = sorted(size for size in Counter(found).values() if size > 1)
    within = f", of {' to '.join(str(n) for n in sorted({sizes[0], sizes[-1]}))} images" if sizes else ""
    others = len(found) - sum(sizes)
    report(Note(f"Groups that are not pushed apart: {len(sizes):,}{within}; {others:,} images are alone."))
    return torch.tensor(found)


def _to_event_files(run: RunFolder, report: Report, held: contextlib.ExitStack) -> Report:
    """The same report, which writes every epoch to event files first."""
    files = EventFiles(run.event_files, lambda text: report(Note(text, warning=True)))
    held.callback(files.close)

    def told(event: Event) -> None:
        if isinstance(event, EpochDone):
            files.write(read_epochs(run))  # train has just written them, with this one
        report(event)

    return told


def _budget(settings: PretrainSettings) -> int | None:
    return None if settings.cache_gb is None else int(settings.cache_gb * 1e9)
