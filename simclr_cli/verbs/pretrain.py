"""Learn an encoder from a folder of pictures, without labels: census, plan, decode, train, export."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable

from simclr_cli.errors import InputError
from simclr_cli.events import CensusTaken, Note, PlanMade, PretrainResult, Progress, Report, silent
from simclr_cli.files import make_folder
from simclr_cli.images.batches import Batches
from simclr_cli.images.cache import decode_once, lack_of_room, stored_side
from simclr_cli.images.decode import default_workers
from simclr_cli.images.folder import take_census
from simclr_cli.settings import PretrainSettings
from simclr_cli.verbs.encoders import pick_device
from simclr_cli.verbs.export import model_card, timm_config
from simclr_cli.verbs.plan import Circumstances, choose_compile, resolve
from simclr_cli.verbs.resume import begin, check_same_pictures, describe
from simclr_cli.verbs.training import build_model, seconds_a_picture, train


def pretrain(settings: PretrainSettings, *, report: Report = silent) -> PretrainResult:
    """Train on a folder of pictures, or go on with a run that was stopped.

    `report` may raise `Interrupted` at any event: a run in training is then saved and can be resumed.

    Raises:
        SimclrError: one of its kinds, with what to do next.
    """
    began = time.perf_counter()
    run, wanted = begin(settings)
    workers = wanted.workers or default_workers()
    census = take_census(wanted.images, workers=workers, progress=progress(report, "reading headers"))
    if settings.resume:
        check_same_pictures(run, census)
    summary = census.summary()
    report(CensusTaken(summary))

    device = pick_device(wanted.device)
    here = Circumstances(len(census.pictures), summary["short_side"]["median"], device)
    chosen, choices = resolve(wanted, here)
    chosen = dataclasses.replace(chosen, run=run.path.name)
    steps = chosen.epochs * (len(census.pictures) // chosen.batch_size)
    model = build_model(chosen).to(device)  # names and sizes that cannot work end here, before any long work
    seen = steps * chosen.batch_size
    estimate = seen * seconds_a_picture(model, chosen, stored_side(census, chosen.image_size), seen)
    chosen, compiling = choose_compile(chosen, here, estimate)
    plan = PlanMade(str(run.path), (*choices, compiling), steps, estimate)
    report(plan)
    budget = None if chosen.cache_gb is None else int(chosen.cache_gb * 1e9)
    if shortage := lack_of_room(census, chosen.image_size, budget):
        report(Note(shortage, warning=True))
    result = PretrainResult(
        run=str(run.path), finished=False, epochs=chosen.epochs, pictures=len(census.pictures),
        refused=len(census.refused), first_loss=None, last_loss=None, images_per_second=None,
        seconds=time.perf_counter() - began, model_digest=None, plan=plan, census=summary,
    )  # fmt: skip
    if settings.dry_run:
        return result

    make_folder(run.path)
    decoded = decode_once(
        census, chosen.image_size, workers=workers, progress=progress(report, "decoding"), budget=budget
    )
    census = decoded.census
    if len(decoded) < 2:
        raise InputError("Only one picture could be decoded.", "Give a folder of at least 2 whole pictures.")
    if len(decoded) < chosen.batch_size:
        report(Note(f"The batch shrinks from {chosen.batch_size} to {len(decoded)}: that many could be decoded."))
        chosen = dataclasses.replace(chosen, batch_size=len(decoded))
    describe(run, chosen, census)

    metrics = train(model, Batches(decoded, chosen.batch_size, chosen.seed, device), chosen, run, report)

    model = model.cpu()
    run.write_projector(model.head.state_dict())
    card = model_card(model.encoder, pictures=len(decoded), epochs=chosen.epochs)
    digest = run.write_encoder(model.encoder.backbone.state_dict(), timm_config(model.encoder), card)
    return dataclasses.replace(
        result,
        finished=True,
        pictures=len(decoded),
        refused=len(census.refused),
        first_loss=metrics[0]["loss"],
        last_loss=metrics[-1]["loss"],
        images_per_second=statistics.median(row["images_per_second"] for row in metrics),
        seconds=time.perf_counter() - began,
        model_digest=digest,
        census=census.summary(),
    )


def progress(report: Report, stage: str) -> Callable[[int, int], None]:
    """A callback for a long stage that reports each step of it."""
    return lambda done, total: report(Progress(stage, done, total))
