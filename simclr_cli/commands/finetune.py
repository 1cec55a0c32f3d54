"""`simclr finetune`: a classifier from an encoder or from scratch, with all labels or a share of them (B.5)."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simclr_cli.api import FinetuneResult, FinetuneSettings
from simclr_cli.core.errors import InputError, Interrupted
from simclr_cli.core.events import Choice, Note, PlanMade, Report, progress, silent
from simclr_cli.core.files import prepare_folder
from simclr_cli.core.hardware import get_free_memory
from simclr_cli.encode.embed import embed_census, undecodable_error
from simclr_cli.encode.load import LoadedEncoder, create_untrained_encoder, resolve_encoder
from simclr_cli.encode.model_card import build_classifier_config, render_model_card
from simclr_cli.engine.classifier import check_joinable, join_classifier
from simclr_cli.engine.metrics import compute_accuracy, compute_percentage
from simclr_cli.engine.optim import peak_learning_rate
from simclr_cli.images.cache import DecodedImages, decode_images
from simclr_cli.images.census import Census
from simclr_cli.images.labels import LabeledImages, draw_labels, hold_out, read_labeled_images
from simclr_cli.images.threads import count_workers
from simclr_cli.store.models import write_model
from simclr_cli.store.run import RunFolder, choose_classifier_folder
from simclr_cli.train.plan import MEMORY_SHARE, PEAK_OVER_KEPT
from simclr_cli.train.profiling import measure_bytes_per_view
from simclr_cli.train.supervised import (
    FINE_TUNING,
    ClassifierRecipe,
    choose_batch_size,
    compute_batch_starts,
    measure_seconds_per_image,
    train_classifier,
)

SMALL_SHARE, EPOCHS_FOR_SMALL_SHARE = 0.01, 60  # the paper's 60 epochs on 1 % of the labels; 30 on 10 %
EVALUATION_BATCH = 128  # images


def finetune(settings: FinetuneSettings, *, report: Report = silent) -> FinetuneResult:
    """Train a classifier of labeled images, and measure its accuracy on held-out images.

    Raises:
        SimclrError: one of its kinds, with what to do next. No classifier is written then.
    """
    try:
        return _finetune(settings, report)
    except Interrupted as stop:
        raise type(stop)("Fine-tuning was stopped, and nothing was written.", "Run the command again.") from None


def _finetune(settings: FinetuneSettings, report: Report) -> FinetuneResult:
    start_time = time.perf_counter()
    source = resolve_encoder(settings, report=report)
    ready = create_untrained_encoder(source, settings.seed) if settings.scratch else source
    check_joinable(ready.encoder)
    out = _prepare_out(settings, source.run)
    root = settings.images or source.images
    report(Note(f"Fine-tuning {ready.name} on {root}."))
    split = _split_images(settings, source, root, report)
    ready.encoder.spec = dataclasses.replace(ready.encoder.spec, bits=split.images.census.bits)
    recipe, batch_size, plan = _plan(settings, ready, split, out)
    report(plan)
    linear = train_classifier(
        ready.encoder, split.decoded, split.rows, split.labels, len(split.classes), recipe,
        batch_size=batch_size, seed=settings.seed, report=report,
    )  # fmt: skip
    linear = linear.cpu()
    logits, truth, skipped = _test(ready, linear, split, count_workers(settings.workers), report)
    result = FinetuneResult(
        out=str(out),
        encoder=ready.name,
        scratch=settings.scratch,
        classes=split.classes,
        labels=len(split.rows),
        train_images=split.train_images,
        test_images=len(truth),
        split=split.images.split,
        chance=compute_percentage(split.labels.mode().values == truth),
        accuracy=compute_accuracy(logits, truth),
        epochs=recipe.epochs,
        batch_size=batch_size,
        learning_rate=peak_learning_rate(recipe.learning_rate, "linear", batch_size),
        skipped=len(split.decoded.census.skipped) + skipped,
        seconds=time.perf_counter() - start_time,
        model_checksum="",
        plan=plan,
    )
    return dataclasses.replace(result, model_checksum=_write_classifier(out, ready, linear, result, settings))


def _prepare_out(settings: FinetuneSettings, run: RunFolder | None) -> Path:
    """Return the folder of the classifier, which must not exist, and make its parent."""
    out = choose_classifier_folder(settings.out, run, settings.labels_fraction, scratch=settings.scratch)
    prepare_folder(out.absolute().parent)  # fails before long work if it is not writable
    return out


@dataclass(frozen=True)
class LabeledSplit:
    """Labeled images to train on, and held-out images."""

    images: LabeledImages  # all of them
    decoded: DecodedImages
    rows: NDArray[np.int64]  # (N,) in `decoded`, of the images whose labels are used
    labels: Tensor  # (N,) int64
    classes: tuple[str, ...]
    train_images: int  # that the N were drawn from
    held_out: Census


def _split_images(settings: FinetuneSettings, source: LoadedEncoder, root: Path, report: Report) -> LabeledSplit:
    """Read and decode the labeled images, hold some out as `probe` does by the same seed, and draw the labels."""
    workers = count_workers(settings.workers)
    images = read_labeled_images(root, settings, workers, report)
    size, held_out = source.encoder.spec.image_size, images.held_out
    decoded = decode_images(images.census, size, workers=workers, progress=progress(report, "decoding"))
    names = [images.labels[image.name] for image in decoded.census.images]
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        raise InputError(
            f"Fewer than two classes in {root} have an image that can be decoded.",
            "Add images of at least two classes.",
        )
    rows = np.arange(len(names))
    labels = np.array([classes.index(name) for name in names], dtype=np.int64)
    if held_out is None:
        is_test = hold_out(labels, settings.test_fraction, settings.seed)
        test_images = tuple(decoded.census.images[i] for i in rows[is_test])
        held_out = dataclasses.replace(decoded.census, images=test_images, skipped=())
        rows, labels = rows[~is_test], labels[~is_test]
        if not settings.scratch and source.was_trained_on(root):
            report(Note("The held-out images were also used for pretraining, without their labels."))
    if lost := {images.labels[image.name] for image in held_out.images}.difference(classes):
        raise InputError(
            f"No image of {sorted(lost)[0]} in {root} can be decoded, and {settings.test} has images of it.",
            f"Add whole images of it, or remove it from {settings.test}.",
        )
    used = draw_labels(labels, float(settings.labels_fraction), settings.seed, draw=0)
    return LabeledSplit(images, decoded, rows[used], torch.from_numpy(labels[used]), classes, len(rows), held_out)


def _plan(
    settings: FinetuneSettings, ready: LoadedEncoder, split: LabeledSplit, out: Path
) -> tuple[ClassifierRecipe, int, PlanMade]:
    """Return recipe, batch size and plan: every setting with its reason."""
    is_small = settings.labels_fraction <= SMALL_SHARE
    epochs = settings.epochs or (EPOCHS_FOR_SMALL_SHARE if is_small else FINE_TUNING.epochs)
    count = len(split.rows)
    if settings.batch_size:
        batch_size, reason = min(settings.batch_size, count), "as set"
    else:
        batch_size, reason = _fit_batch_size(count, ready)
    recipe = dataclasses.replace(FINE_TUNING, epochs=epochs, learning_rate=settings.learning_rate)
    peak = peak_learning_rate(recipe.learning_rate, "linear", batch_size)
    start = "as set" if settings.run or settings.encoder else "the newest finished run" if ready.run else "no run"
    start = "random weights, for comparison" if settings.scratch else start
    share = f"{100 * settings.labels_fraction:.4g} % of each class, drawn by seed {settings.seed}"
    from_paper = f"the paper's value for {1 if is_small else 10} % of the labels"
    choices = (
        Choice("start", ready.name, start),
        Choice("labels", f"{count:,} of {split.train_images:,}", share),
        Choice("held out", f"{len(split.held_out.images):,} images", split.images.split),
        Choice("epochs", str(epochs), "as set" if settings.epochs else from_paper),
        Choice("batch size", f"{batch_size} images", reason),
        Choice("learning rate", f"{peak:.4g}", f"{recipe.learning_rate:g} x batch / 256, cosine to 0, no warmup"),
    )
    seconds = measure_seconds_per_image(ready.encoder, len(split.classes), recipe, split.decoded.side, batch_size)
    steps = epochs * (len(compute_batch_starts(count, batch_size)) + 1)
    return recipe, batch_size, PlanMade(str(out), choices, steps, seconds * epochs * count)


def _fit_batch_size(count: int, ready: LoadedEncoder) -> tuple[int, str]:
    """Return the batch size for `count` labeled images that fits into the memory, with the reason.

    A process that runs out of memory on a CPU is ended without a message.
    """
    preferred = choose_batch_size(count, ready.device)
    bytes_per_image = measure_bytes_per_view(ready.encoder, "float32") * PEAK_OVER_KEPT
    largest = int(MEMORY_SHARE * get_free_memory(ready.device) / max(1, bytes_per_image))
    if preferred <= largest:
        return preferred, "all of them" if preferred == count else "a power of two, at most a quarter of them"
    return max(2, 1 << max(0, largest.bit_length() - 1)), f"limited by the memory, which is too small for {preferred}"


def _test(
    ready: LoadedEncoder, linear: nn.Linear, split: LabeledSplit, workers: int, report: Report
) -> tuple[Tensor, Tensor, int]:
    """Return logits (M, classes) and classes (M,) of the held-out images, and the number of skipped files."""
    h, tested = embed_census(
        ready, split.held_out, batch_size=EVALUATION_BATCH, workers=workers, report=report, stage="testing"
    )
    if not len(h):
        raise undecodable_error(split.held_out)
    truth = torch.tensor([split.classes.index(split.images.labels[image.name]) for image in tested.images])
    with torch.inference_mode():
        return linear(torch.from_numpy(h)), truth, len(tested.skipped)


def _write_classifier(
    out: Path, ready: LoadedEncoder, linear: nn.Linear, result: FinetuneResult, settings: FinetuneSettings
) -> str:
    """Write the folder of the classifier, and return its checksum."""
    training = {
        "encoder": result.encoder,
        "encoder_checksum": ready.checksum,
        "labels_fraction": settings.labels_fraction,
        "seed": settings.seed,
        **{name: getattr(result, name) for name in (
            "scratch", "labels", "train_images", "test_images", "split", "chance", "epochs", "batch_size",
            "learning_rate",
        )},
        "accuracy": dataclasses.asdict(result.accuracy),
    }  # fmt: skip
    encoder = ready.encoder.cpu()
    figures = {"images": result.labels, "test_images": result.test_images, "accuracy": result.accuracy.top_1}
    card = render_model_card(encoder, len(result.classes), **figures)
    state = join_classifier(encoder, linear).state_dict()
    return write_model(out, state, build_classifier_config(encoder, result.classes, training), card)
