"""Several representations of the same labeled images, scored by the same code on the same split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import compress
from typing import cast

import numpy as np
import torch
from torch import Tensor

from simclr_cli.api import ProbeSettings, Score
from simclr_cli.core.events import Note, Report, progress
from simclr_cli.encode.embed import embed_together, nothing_decoded
from simclr_cli.encode.load import ReadyEncoder
from simclr_cli.engine.metrics import accuracy_of, gain_of, percent
from simclr_cli.engine.probes import fit_probe, knn_votes
from simclr_cli.images.cache import DecodedImages, decode_once
from simclr_cli.images.census import Census
from simclr_cli.images.labels import LabeledImages, hold_out, stratified
from simclr_cli.images.threads import count_workers
from simclr_cli.train.supervised import LINEAR, train_classifier

NEIGHBORS = (20, 200)
VALIDATION_SHARE = 0.2  # of the train images, to choose l2 on


@dataclass(frozen=True)
class LabeledRows:
    """Rows of h with their classes."""

    h: Tensor  # (N, D)
    labels: Tensor  # (N,) int64
    names: tuple[str, ...]  # N

    def of(self, chosen: Tensor) -> LabeledRows:
        """Those that a (N,) mask chooses."""
        return LabeledRows(self.h[chosen], self.labels[chosen], tuple(compress(self.names, chosen.tolist())))


@dataclass(frozen=True)
class Judged:
    """One representation: its rows, and what was told of the held-out ones."""

    name: str
    train: LabeledRows
    test: LabeledRows
    knn_20: Tensor  # (M, classes) votes
    knn_200: Tensor
    linear: Tensor | None = None  # (M, classes) logits
    l2: float | None = None  # of the linear probe, if it was the quick one

    @property
    def deciding(self) -> Tensor:
        """(M,) the classes told: by the linear probe where there is one, else by 20 neighbors."""
        return (self.knn_20 if self.linear is None else self.linear).argmax(dim=1)


@dataclass(frozen=True)
class Comparison:
    """Several representations on the same split of the same images."""

    classes: tuple[str, ...]
    judged: tuple[Judged, ...]
    skipped: int  # files that could not be used

    @property
    def first(self) -> Judged:
        """The one that the others are held against."""
        return self.judged[0]

    @property
    def chance(self) -> float:
        """Percent: always guessing the class that most train images have."""
        return percent(self.first.train.labels.mode().values == self.first.test.labels)

    def scores(self, seed: int) -> tuple[Score, ...]:
        """Accuracies, and by how much the first one is above each of the others that is judged like it."""
        scores = []
        for one in self.judged:
            truth = one.test.labels
            knn_20, knn_200 = (accuracy_of(votes, truth, seed) for votes in (one.knn_20, one.knn_200))
            linear = None if one.linear is None else accuracy_of(one.linear, truth, seed)
            gain: tuple[float, ...] = ()
            if one is not self.first and (one.linear is None) == (self.first.linear is None):
                gain = gain_of(self.first.deciding == truth, one.deciding == truth, seed)
            scores.append(Score(one.name, knn_20, knn_200, linear, *gain))
        return tuple(scores)


def compare(
    encoders: Mapping[str, ReadyEncoder], images: LabeledImages, settings: ProbeSettings, linear: bool, report: Report
) -> Comparison:
    """Judge each encoder by kNN, and by the settings' linear probe if wanted, on held-out images.

    The paper's protocol (section 3, appendix B.6) is for networks: what has no weights is then judged by kNN alone.

    Args:
        images: if none of them are held out they are split, stratified, by the settings' seed.

    Raises:
        InputError: no image could be decoded, or none can be held out.
    """
    classes, seed = images.classes, settings.seed
    rows, skipped = _labelled_rows(encoders, images, images.census, settings, report)
    if images.held_out is None:
        labels = next(iter(rows.values())).labels
        out = torch.from_numpy(hold_out(labels.numpy(), settings.test_fraction, seed))
        split = {name: (every.of(~out), every.of(out)) for name, every in rows.items()}
    else:
        held, more = _labelled_rows(encoders, images, images.held_out, settings, report)
        split, skipped = {name: (rows[name], held[name]) for name in rows}, skipped + more

    @cache
    def decoded_at(size: int) -> DecodedImages:
        workers = count_workers(settings.workers)
        return decode_once(images.census, size, workers=workers, progress=progress(report, "decoding"))

    def by_protocol(name: str, train: LabeledRows, test: LabeledRows) -> Tensor:
        report(Note(f"The paper's linear protocol, {name}: {LINEAR.epochs} epochs of crops and flips."))
        encoder = encoders[name].encoder
        decoded = decoded_at(encoder.spec.image_size)
        places = {image.name: row for row, image in enumerate(decoded.census.images)}
        chosen = np.array([places[name] for name in train.names], dtype=np.int64)
        fitted = train_classifier(
            encoder, decoded, chosen, train.labels, len(classes), LINEAR, seed=seed, report=report
        )
        with torch.inference_mode():
            return cast(Tensor, fitted.cpu()(test.h))

    judged = []
    for name, (train, test) in split.items():
        knn_20, knn_200 = knn_votes(
            train.h, train.labels, test.h,
            neighbors=NEIGHBORS, temperature=settings.knn_temperature, classes=len(classes),
        )  # fmt: skip
        one = Judged(name, train, test, knn_20, knn_200)
        if linear and settings.protocol == "quick":
            validation = torch.from_numpy(stratified(train.labels.numpy(), VALIDATION_SHARE, seed))
            fitted = fit_probe(train.h, train.labels, validation=validation, classes=len(classes))
            one = replace(one, linear=fitted.scores(test.h), l2=fitted.l2)
        elif linear and any(True for _ in encoders[name].encoder.parameters()):
            one = replace(one, linear=by_protocol(name, train, test))
        judged.append(one)
    return Comparison(classes, tuple(judged), skipped)


def _labelled_rows(
    encoders: Mapping[str, ReadyEncoder],
    images: LabeledImages,
    census: Census,
    settings: ProbeSettings,
    report: Report,
) -> tuple[dict[str, LabeledRows], int]:
    """h of every image that can be decoded, by each encoder; and how many files of the folder cannot be used.

    Encoders that look at the same crop are given it at once.
    """
    sizes = {name: ready.encoder.spec.image_size for name, ready in encoders.items()}
    paths = [census.path(image) for image in census.images]
    number_of = {name: number for number, name in enumerate(images.classes)}
    numbers = torch.tensor([number_of[images.labels[image.name]] for image in census.images])
    found: dict[str, LabeledRows] = {}
    for size in dict.fromkeys(sizes.values()):
        names = [name for name in sizes if sizes[name] == size]
        every, unusable = embed_together(
            [encoders[name] for name in names],
            paths,
            batch_size=settings.batch_size,
            workers=count_workers(settings.workers),
            report=report,
            stage=f"embedding, {', '.join(names)}",
        )
        kept = [i for i in range(len(paths)) if i not in unusable]
        if not kept:
            raise nothing_decoded(census)
        rows = tuple(census.images[i].name for i in kept)
        for name, h in zip(names, every, strict=True):
            found[name] = LabeledRows(torch.from_numpy(h), numbers[kept], rows)
    return {name: found[name] for name in encoders}, len(census.skipped) + len(unusable)
