"""Several representations of the same labelled pictures, scored by the same code on the same split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from simclr_cli.engine.accuracy import accuracy_of, gain_of, percent
from simclr_cli.engine.probes import fit_probe, knn_votes
from simclr_cli.errors import InputError
from simclr_cli.events import Note, Report, progress, silent
from simclr_cli.images.cache import DecodedPictures, decode_once
from simclr_cli.images.census import Census, Refused
from simclr_cli.images.labels import LabelledImages
from simclr_cli.results import Score
from simclr_cli.settings import ProbeSettings
from simclr_cli.verbs.classifier import LINEAR, train_classifier
from simclr_cli.verbs.embedding import embed_together, nothing_decoded
from simclr_cli.verbs.encoders import ReadyEncoder
from simclr_cli.verbs.splits import stratified

NEIGHBOURS = (20, 200)
VALIDATION_SHARE = 0.2  # of the train pictures, to choose l2 on


@dataclass(frozen=True)
class LabelledRows:
    """Rows of h with their classes."""

    h: Tensor  # (N, D)
    labels: Tensor  # (N,) int64
    names: tuple[str, ...]  # N

    def of(self, chosen: Tensor) -> LabelledRows:
        """Those that a (N,) mask chooses."""
        names = tuple(name for name, one in zip(self.names, chosen.tolist(), strict=True) if one)
        return LabelledRows(self.h[chosen], self.labels[chosen], names)


@dataclass(frozen=True)
class Judged:
    """One representation: its rows, and what was told of the held-out ones."""

    name: str
    train: LabelledRows
    test: LabelledRows
    knn_20: Tensor  # (M, classes) votes
    knn_200: Tensor
    linear: Tensor | None = None  # (M, classes) logits
    l2: float | None = None  # of the linear probe, if it was the quick one

    @property
    def deciding(self) -> Tensor:
        """(M,) the classes told: by the linear probe where there is one, else by 20 neighbours."""
        return (self.knn_20 if self.linear is None else self.linear).argmax(dim=1)


@dataclass(frozen=True)
class Comparison:
    """Several representations on the same split of the same pictures."""

    classes: tuple[str, ...]
    judged: tuple[Judged, ...]
    refused: int  # files that could not be used

    @property
    def first(self) -> Judged:
        """The one that the others are held against."""
        return self.judged[0]

    @property
    def chance(self) -> float:
        """Percent: always guessing the class that most train pictures have."""
        return percent(self.first.train.labels.mode().values == self.first.test.labels)

    def scores(self, seed: int) -> tuple[Score, ...]:
        """Accuracies, and by how much the first one is above each of the others that is judged like it."""
        scores = []
        for one in self.judged:
            truth = one.test.labels
            score = Score(
                one.name,
                accuracy_of(one.knn_20, truth, seed),
                accuracy_of(one.knn_200, truth, seed),
                None if one.linear is None else accuracy_of(one.linear, truth, seed),
            )
            if one is not self.first and (one.linear is None) == (self.first.linear is None):
                gain, low, high = gain_of(self.first.deciding == truth, one.deciding == truth, seed)
                score = replace(score, gain=gain, gain_low=low, gain_high=high)
            scores.append(score)
        return tuple(scores)


def compare(
    encoders: Mapping[str, ReadyEncoder],
    images: LabelledImages,
    settings: ProbeSettings,
    *,
    workers: int,
    linear: bool = True,
    report: Report = silent,
) -> Comparison:
    """Judge each encoder by kNN, and by the settings' linear probe if wanted, on held-out pictures.

    The paper's protocol is for networks: what has no weights is then judged by kNN alone.

    Args:
        images: if none of them are held out they are split, stratified, by the settings' seed.

    Raises:
        InputError: no picture could be decoded, or none can be held out.
    """
    classes = tuple(sorted(set(images.labels.values())))
    rows_of = partial(_labelled_rows, encoders, images.labels, classes, settings.batch_size, workers, report)
    rows, refused = rows_of(images.census)
    if images.held_out is None:
        some = next(iter(rows.values())).labels
        test = torch.from_numpy(stratified(some.numpy(), settings.test_fraction, settings.seed))
        if not test.any():
            raise InputError(
                "No class has two pictures, so none can be held out.", "Label more, or give --test FOLDER."
            )
        split = {name: (every.of(~test), every.of(test)) for name, every in rows.items()}
    else:
        held, more = rows_of(images.held_out)
        split, refused = {name: (rows[name], held[name]) for name in rows}, refused + more
    quick = linear and settings.protocol == "quick"
    judged = [judge(name, *parts, len(classes), settings, linear=quick) for name, parts in split.items()]
    if linear and not quick:
        judged = _by_protocol(judged, encoders, images.census, len(classes), settings.seed, workers, report)
    return Comparison(classes, tuple(judged), refused)


def _by_protocol(
    judged: Sequence[Judged],
    encoders: Mapping[str, ReadyEncoder],
    census: Census,
    classes: int,
    seed: int,
    workers: int,
    report: Report,
) -> list[Judged]:
    """Each with the logits of the paper's linear evaluation, where it has weights (section 3, appendix B.6).

    Images are decoded once for each size that the encoders see.
    """
    decoded: dict[int, DecodedPictures] = {}
    found = []
    for one in judged:
        ready, train, logits = encoders[one.name], one.train, None
        if any(True for _ in ready.encoder.parameters()):
            report(Note(f"The paper's linear protocol, {one.name}: {LINEAR.epochs} epochs of crops and flips."))
            size = ready.encoder.spec.image_size
            if size not in decoded:
                decoded[size] = decode_once(census, size, workers=workers, progress=progress(report, "decoding"))
            places = {picture.name: row for row, picture in enumerate(decoded[size].census.pictures)}
            rows = np.array([places[name] for name in train.names], dtype=np.int64)
            linear = train_classifier(
                ready.encoder, decoded[size], rows, train.labels, classes, LINEAR, seed=seed, report=report
            ).cpu()
            with torch.inference_mode():
                logits = linear(one.test.h)
        found.append(replace(one, linear=logits))
    return found


def _labelled_rows(
    encoders: Mapping[str, ReadyEncoder],
    labels: Mapping[str, str],
    classes: tuple[str, ...],
    batch_size: int,
    workers: int,
    report: Report,
    census: Census,
) -> tuple[dict[str, LabelledRows], int]:
    """h of every picture that can be decoded, by each encoder; and how many files of the folder cannot be used.

    Encoders that look at the same crop are given it at once.
    """
    together: dict[int, list[str]] = {}
    for name, ready in encoders.items():
        together.setdefault(ready.encoder.spec.image_size, []).append(name)
    paths = [census.path(picture) for picture in census.pictures]
    numbers = torch.tensor([classes.index(labels[picture.name]) for picture in census.pictures])
    found: dict[str, LabelledRows] = {}
    for names in together.values():
        every, refusals = embed_together(
            [encoders[name] for name in names],
            paths,
            batch_size=batch_size,
            workers=workers,
            report=report,
            stage=f"embedding, {', '.join(names)}",
        )
        kept = [i for i in range(len(paths)) if i not in refusals]
        if not kept:
            raise nothing_decoded(census)
        rest = census.without([Refused(census.pictures[i].name, why.reason) for i, why in refusals.items()])
        for name, h in zip(names, every, strict=True):
            rows = tuple(picture.name for picture in rest.pictures)
            found[name] = LabelledRows(torch.from_numpy(h), numbers[kept], rows)
    return {name: found[name] for name in encoders}, len(rest.refused)


def judge(
    name: str, train: LabelledRows, test: LabelledRows, classes: int, settings: ProbeSettings, *, linear: bool
) -> Judged:
    """What one representation tells of the held-out pictures."""
    knn_20, knn_200 = knn_votes(
        train.h, train.labels, test.h, neighbours=NEIGHBOURS, temperature=settings.knn_temperature, classes=classes
    )
    if not linear:
        return Judged(name, train, test, knn_20, knn_200)
    validation = torch.from_numpy(stratified(train.labels.numpy(), VALIDATION_SHARE, settings.seed))
    fitted = fit_probe(train.h, train.labels, validation=validation, classes=classes)
    return Judged(name, train, test, knn_20, knn_200, linear=fitted.scores(test.h), l2=fitted.l2)
