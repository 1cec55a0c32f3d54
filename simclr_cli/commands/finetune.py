"""From an encoder to a classifier: fine-tuned with all labels or a share of them, or trained from scratch (B.5)."""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simclr_cli.api import FinetuneResult, FinetuneSettings
from simclr_cli.core.errors import InputError, Interrupted, RunError
from simclr_cli.core.events import Choice, Note, PlanMade, Report, progress, silent
from simclr_cli.core.files import make_folder
from simclr_cli.core.hardware import free_memory
from simclr_cli.encode.embed import embed_census, nothing_decoded
from simclr_cli.encode.load import ReadyEncoder, ready_encoder, untrained_twin
from simclr_cli.encode.model_card import classifier_config, model_card
from simclr_cli.engine.classifier import check_joinable, join_classifier
from simclr_cli.engine.metrics import accuracy_of, percent
from simclr_cli.engine.optim import peak_learning_rate
from simclr_cli.images.cache import DecodedImages, decode_once
from simclr_cli.images.census import Census
from simclr_cli.images.labels import LabeledImages, hold_out, read_labelled, some_labels
from simclr_cli.images.threads import count_workers
from simclr_cli.store.models import write_model
from simclr_cli.store.run import RunFolder, classifier_folder
from simclr_cli.train.plan import MEMORY_SHARE, TAKEN_OVER_KEPT
from simclr_cli.train.profiling import bytes_a_view
from simclr_cli.train.supervised import (
    FINE_TUNING,
    ClassifierRecipe,
    automatic_batch_size,
    batch_starts,
    seconds_a_image,
    train_classifier,
)

FEW_LABELS, EPOCHS_OF_FEW = 0.01, 60  # the paper's 60 epochs on 1 %; 30 on 10 %
EVALUATION_BATCH = 128  # images


def finetune(settings: FinetuneSettings, *, report: Report = silent) -> FinetuneResult:
    """Train a classifier of labeled images, and say how many of held-out ones it tells right.

    Raises:
        SimclrError: one of its kinds, with what to do next. Whatever it is, no classifier was written.
    """
    try:
        return _finetune(settings, report)
    except Interrupted as stop:
        raise type(stop)(
            "Stopped before the classifier was done; nothing was written.", "Type the command again."
        ) from None


def _finetune(settings: FinetuneSettings, report: Report) -> FinetuneResult:
    began = time.perf_counter()
    source = ready_encoder(settings)
    ready = untrained_twin(source, settings.seed) if settings.scratch else source
    check_joinable(ready.encoder)
    out = _free_folder(settings, source.run)
    root = settings.images or source.images
    report(Note(f"Fine-tuning {ready.name} on {root}."))
    workers = count_workers(settings.workers)
    lesson = _lesson(settings, source, root, workers, report)
    recipe, batch_size, plan = _plan(settings, ready, lesson, out)
    report(plan)
    linear = train_classifier(
        ready.encoder, lesson.decoded, lesson.rows, lesson.labels, len(lesson.classes), recipe,
        batch_size=batch_size, seed=settings.seed, report=report,
    )  # fmt: skip
    h, tested = embed_census(
        ready, lesson.held_out, batch_size=EVALUATION_BATCH, workers=workers, report=report, stage="testing"
    )
    if not len(h):
        raise nothing_decoded(lesson.held_out)
    truth = torch.tensor([lesson.classes.index(lesson.images.labels[image.name]) for image in tested.images])
    linear = linear.cpu()
    with torch.inference_mode():
        accuracy = accuracy_of(linear(torch.from_numpy(h)), truth)
    result = FinetuneResult(
        out=str(out),
        encoder=ready.name,
        scratch=settings.scratch,
        classes=lesson.classes,
        labels=len(lesson.rows),
        train_images=lesson.train_images,
        test_images=len(truth),
        split=lesson.images.split,
        chance=percent(lesson.labels.mode().values == truth),
        accuracy=accuracy,
        epochs=recipe.epochs,
        batch_size=batch_size,
        learning_rate=peak_learning_rate(recipe.learning_rate, "linear", batch_size),
        skipped=len(lesson.decoded.census.skipped) + len(tested.skipped),
        seconds=time.perf_counter() - began,
        model_checksum="",
        plan=plan,
    )
    return dataclasses.replace(result, model_checksum=_write(out, ready, linear, result, settings))


@dataclass(frozen=True)
class Lesson:
    """Labeled images to train on, and others to be tested by."""

    images: LabeledImages  # all of them
    decoded: DecodedImages
    rows: NDArray[np.int64]  # (N,) places in `decoded`, of the images whose labels are used
    labels: Tensor  # (N,) int64
    classes: tuple[str, ...]
    train_images: int  # of which they were drawn
    held_out: Census


def _free_folder(settings: FinetuneSettings, run: RunFolder | None) -> Path:
    """Return where the classifier goes, and nothing is yet."""
    where = run.path if run else Path()
    out = settings.out or classifier_folder(where, settings.labels_fraction, scratch=settings.scratch)
    if os.path.lexists(out):
        raise RunError(f"{out} is there already, and a classifier is never overwritten.", "Give another --out FOLDER.")
    make_folder(out.absolute().parent)  # it can be written to
    return out


def _lesson(settings: FinetuneSettings, source: ReadyEncoder, root: Path, workers: int, report: Report) -> Lesson:
    """Census, labels, split, draw, and the decoded images.

    The split is that of `probe` by the same seed.
    """
    labeled = read_labelled(root, settings, workers, report)
    size, tests = source.encoder.spec.image_size, labeled.held_out
    decoded = decode_once(labeled.census, size, workers=workers, progress=progress(report, "decoding"))
    images = decoded.census.images
    rows = np.arange(len(images))
    names = [labeled.labels[image.name] for image in images]
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        raise InputError(f"Fewer than two classes in {root} have a whole image.", "Give whole images of two.")
    numbers = np.array([classes.index(name) for name in names], dtype=np.int64)
    if tests is None:
        test = hold_out(numbers, settings.test_fraction, settings.seed)
        tests = dataclasses.replace(decoded.census, images=tuple(images[i] for i in rows[test]), skipped=())
        rows, numbers = rows[~test], numbers[~test]
        if not settings.scratch and source.was_trained_on(root):
            report(Note("The held-out images were among those trained on, without their labels."))
    used = some_labels(numbers, float(settings.labels_fraction), settings.seed, draw=0)
    return Lesson(labeled, decoded, rows[used], torch.from_numpy(numbers[used]), classes, len(rows), tests)


def _plan(
    settings: FinetuneSettings, ready: ReadyEncoder, lesson: Lesson, out: Path
) -> tuple[ClassifierRecipe, int, PlanMade]:
    """What was left open is resolved, each with its reason."""
    few = settings.labels_fraction <= FEW_LABELS
    epochs = settings.epochs or (EPOCHS_OF_FEW if few else FINE_TUNING.epochs)
    count = len(lesson.rows)
    batch_size, why = (min(settings.batch_size, count), "as set") if settings.batch_size else _batch(count, ready)
    recipe = dataclasses.replace(FINE_TUNING, epochs=epochs, learning_rate=settings.learning_rate)
    peak = peak_learning_rate(recipe.learning_rate, "linear", batch_size)
    start = "as set" if settings.run or settings.backbone else "the newest finished run"
    start = "random weights, for comparison" if settings.scratch else start
    share, of_paper = f"{100 * settings.labels_fraction:.4g} % of each class", "the paper's with {} % of the labels"
    choices = (
        Choice("start", ready.name, start),
        Choice("labels", f"{count:,} of {lesson.train_images:,}", f"{share}, drawn by seed {settings.seed}"),
        Choice("held out", f"{len(lesson.held_out.images):,} images", lesson.images.split),
        Choice("epochs", str(epochs), "as set" if settings.epochs else of_paper.format(1 if few else 10)),
        Choice("batch size", f"{batch_size} images", why),
        Choice("learning rate", f"{peak:.4g}", f"{recipe.learning_rate:g} x batch / 256, cosine to 0, no warm-up"),
    )
    seconds = seconds_a_image(ready.encoder, len(lesson.classes), recipe, lesson.decoded.side, batch_size)
    steps = epochs * (len(batch_starts(count, batch_size)) + 1)
    return recipe, batch_size, PlanMade(str(out), choices, steps, seconds * epochs * count)


def _batch(count: int, ready: ReadyEncoder) -> tuple[int, str]:
    """B for so many labels, and why: a CPU that runs out of memory ends the process, and says nothing."""
    wanted = automatic_batch_size(count, ready.device)
    kept = bytes_a_view(ready.encoder, "float32")
    room = int(MEMORY_SHARE * free_memory(ready.device) / max(1, kept * TAKEN_OVER_KEPT))
    if wanted <= room:
        return wanted, "all of them" if wanted == count else "a power of two, at most a quarter of them"
    return max(2, 1 << max(0, room.bit_length() - 1)), f"what the memory holds: {wanted} would be too many"


def _write(
    out: Path, ready: ReadyEncoder, linear: nn.Linear, result: FinetuneResult, settings: FinetuneSettings
) -> str:
    """The classifier's folder; its checksum."""
    training = {
        "encoder": result.encoder,
        "encoder_checksum": ready.checksum,
        "labels_fraction": settings.labels_fraction,
        "seed": settings.seed,
        **{name: getattr(result, name) for name in (
            "scratch", "labels", "train_images", "test_images", "split", "epochs", "batch_size", "learning_rate",
        )},
        "accuracy": dataclasses.asdict(result.accuracy),
    }  # fmt: skip
    encoder = ready.encoder.cpu()
    told = {"images": result.labels, "test_images": result.test_images, "told": result.accuracy.top_1}
    card = model_card(encoder, len(result.classes), **told)
    state = join_classifier(encoder, linear).state_dict()
    return write_model(out, state, classifier_config(encoder, result.classes, training), card)
