"""The comparison of several encoders by the same code on the same split of labeled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import compress

import numpy as np
import torch
from torch import Tensor, nn

from simclr_cli.api import ProbeSettings, Score
from simclr_cli.core.events import Note, Report, progress
from simclr_cli.encode.embed import embed_with_encoders, undecodable_error
from simclr_cli.encode.load import LoadedEncoder
from simclr_cli.engine.encoder import Encoder
from simclr_cli.engine.metrics import compute_accuracy, compute_gain, compute_percentage
from simclr_cli.engine.probes import fit_probe, knn_votes
from simclr_cli.images.cache import DecodedImages, decode_images
from simclr_cli.images.census import Census
from simclr_cli.images.labels import LabeledImages, hold_out, split_stratified
from simclr_cli.images.threads import count_workers
from simclr_cli.train.supervised import LINEAR, train_classifier

NEIGHBORS = (20, 200)
VALIDATION_SHARE = 0.2  # of the train images, to choose l2 on


@dataclass(frozen=True)
class LabeledEmbeddings:
    """Embeddings of images with their classes."""

    h: Tensor  # (N, D)
    labels: Tensor  # (N,) int64
    names: tuple[str, ...]  # N

    def select(self, mask: Tensor) -> LabeledEmbeddings:
        """Return the rows where an (N,) mask is true."""
        return LabeledEmbeddings(self.h[mask], self.labels[mask], tuple(compress(self.names, mask.tolist())))


@dataclass(frozen=True)
class EncoderEvaluation:
    """The embeddings of one encoder, and its scores of the classes of M held-out images."""

    name: str
    train: LabeledEmbeddings
    test: LabeledEmbeddings
    knn_20: Tensor  # (M, classes) votes
    knn_200: Tensor
    linear: Tensor | None = None  # (M, classes) logits
    l2: float | None = None  # of the quick linear probe

    @property
    def predicted_classes(self) -> Tensor:
        """Return (M,) classes predicted by the linear probe, or without one by 20 neighbors."""
        return (self.knn_20 if self.linear is None else self.linear).argmax(dim=1)


@dataclass(frozen=True)
class Comparison:
    """The evaluations of several encoders on the same images."""

    classes: tuple[str, ...]
    evaluations: tuple[EncoderEvaluation, ...]
    skipped: int  # files

    @property
    def first(self) -> EncoderEvaluation:
        """Return the evaluation that the others are the baselines of."""
        return self.evaluations[0]

    @property
    def chance(self) -> float:
        """Return the accuracy of always guessing the largest class of the train images, in percent."""
        return compute_percentage(self.first.train.labels.mode().values == self.first.test.labels)

    def compute_scores(self, seed: int) -> tuple[Score, ...]:
        """Compute accuracies, and the gain of the first encoder over each one that was evaluated the same way."""
        scores = []
        for evaluation in self.evaluations:
            truth, linear = evaluation.test.labels, evaluation.linear
            knn_20 = compute_accuracy(evaluation.knn_20, truth, seed)
            knn_200 = compute_accuracy(evaluation.knn_200, truth, seed)
            linear_accuracy = None if linear is None else compute_accuracy(linear, truth, seed)
            gain: tuple[float, ...] = ()
            if evaluation is not self.first and (linear is None) == (self.first.linear is None):
                gain = compute_gain(self.first.predicted_classes == truth, evaluation.predicted_classes == truth, seed)
            scores.append(Score(evaluation.name, knn_20, knn_200, linear_accuracy, *gain))
        return tuple(scores)


def compare_encoders(
    encoders: Mapping[str, LoadedEncoder], images: LabeledImages, settings: ProbeSettings, linear: bool, report: Report
) -> Comparison:
    """Evaluate each encoder on held-out images by kNN and, if `linear`, by the linear probe of the settings.

    The paper's protocol (section 3, appendix B.6) is for networks: an encoder without weights is then evaluated by kNN
    only.

    Args:
        images: without held-out images they are split, stratified, by the seed of the settings.

    Raises:
        InputError: no image could be decoded, or none can be held out.
    """
    classes = len(images.classes)
    splits, skipped = _embed_splits(encoders, images, settings, report)

    @cache
    def decode(size: int) -> DecodedImages:
        workers = count_workers(settings.workers)
        return decode_images(images.census, size, workers=workers, progress=progress(report, "decoding"))

    evaluations = []
    for name, (train, test) in splits.items():
        encoder = encoders[name].encoder
        knn_20, knn_200 = knn_votes(
            train.h, train.labels, test.h,
            neighbors=NEIGHBORS, temperature=settings.knn_temperature, classes=classes,
        )  # fmt: skip
        evaluation = EncoderEvaluation(name, train, test, knn_20, knn_200)
        if linear and settings.protocol == "quick":
            validation = torch.from_numpy(split_stratified(train.labels.numpy(), VALIDATION_SHARE, settings.seed))
            probe = fit_probe(train.h, train.labels, validation=validation, classes=classes)
            evaluation = replace(evaluation, linear=probe.compute_logits(test.h), l2=probe.l2)
        elif linear and any(True for _ in encoder.parameters()):
            report(Note(f"The paper's linear protocol, {name}: {LINEAR.epochs} epochs of crops and flips."))
            decoded = decode(encoder.spec.image_size)
            fitted = _train_linear(encoder, decoded, train, classes, settings.seed, report)
            with torch.inference_mode():
                evaluation = replace(evaluation, linear=fitted(test.h))
        evaluations.append(evaluation)
    return Comparison(images.classes, tuple(evaluations), skipped)


def _train_linear(
    encoder: Encoder, decoded: DecodedImages, train: LabeledEmbeddings, classes: int, seed: int, report: Report
) -> nn.Linear:
    """Train a linear classifier of h by the paper's protocol, and return it on the CPU."""
    rows_by_name = {image.name: row for row, image in enumerate(decoded.census.images)}
    rows = np.array([rows_by_name[name] for name in train.names], dtype=np.int64)
    return train_classifier(encoder, decoded, rows, train.labels, classes, LINEAR, seed=seed, report=report).cpu()


def _embed_splits(
    encoders: Mapping[str, LoadedEncoder], images: LabeledImages, settings: ProbeSettings, report: Report
) -> tuple[dict[str, tuple[LabeledEmbeddings, LabeledEmbeddings]], int]:
    """Return the train and the test embeddings of each encoder, and the number of skipped files."""
    embeddings, skipped = _embed_census(encoders, images, images.census, settings, report)
    if images.held_out is None:
        labels = next(iter(embeddings.values())).labels
        is_test = torch.from_numpy(hold_out(labels.numpy(), settings.test_fraction, settings.seed))
        return {name: (rows.select(~is_test), rows.select(is_test)) for name, rows in embeddings.items()}, skipped
    tests, skipped_tests = _embed_census(encoders, images, images.held_out, settings, report)
    return {name: (embeddings[name], tests[name]) for name in embeddings}, skipped + skipped_tests


def _embed_census(
    encoders: Mapping[str, LoadedEncoder],
    images: LabeledImages,
    census: Census,
    settings: ProbeSettings,
    report: Report,
) -> tuple[dict[str, LabeledEmbeddings], int]:
    """Return the embeddings by each encoder of every image that can be decoded, and the number of skipped files.

    Encoders with the same crop share its decoding.
    """
    specs = {name: ready.encoder.spec for name, ready in encoders.items()}
    bits = images.census.bits or census.bits
    crops = {name: (spec.image_size, spec.crop_fraction, spec.bits or bits) for name, spec in specs.items()}
    paths = [census.path(image) for image in census.images]
    class_numbers = {name: number for number, name in enumerate(images.classes)}
    labels = torch.tensor([class_numbers[images.labels[image.name]] for image in census.images])
    embeddings: dict[str, LabeledEmbeddings] = {}
    for crop in dict.fromkeys(crops.values()):
        names = [name for name in crops if crops[name] == crop]
        arrays, unusable = embed_with_encoders(
            [encoders[name] for name in names],
            paths,
            crop[2],
            batch_size=settings.batch_size,
            workers=count_workers(settings.workers),
            report=report,
            stage=f"embedding, {', '.join(names)}",
        )
        decoded = [i for i in range(len(paths)) if i not in unusable]
        if not decoded:
            raise undecodable_error(census)
        image_names = tuple(census.images[i].name for i in decoded)
        for name, h in zip(names, arrays, strict=True):
            embeddings[name] = LabeledEmbeddings(torch.from_numpy(h), labels[decoded], image_names)
    return {name: embeddings[name] for name in encoders}, len(census.skipped) + len(unusable)
