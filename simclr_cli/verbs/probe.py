"""How good is an encoder where labels exist: kNN and linear probe on held-out pictures, beside the untrained one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from simclr_cli.engine.accuracy import accuracy_of, percent
from simclr_cli.engine.probes import fit_probe, knn_votes
from simclr_cli.errors import InputError
from simclr_cli.events import Note, Report, silent
from simclr_cli.images.decode import default_workers
from simclr_cli.images.folder import Census, take_census
from simclr_cli.images.labels import labelled, labelled_like
from simclr_cli.results import ProbeResult, Score
from simclr_cli.settings import ProbeSettings
from simclr_cli.verbs.embedding import embed_pictures, pictures_of, trained_on
from simclr_cli.verbs.encoders import ReadyEncoder, ready_encoder, untrained_twin
from simclr_cli.verbs.pretrain import progress
from simclr_cli.verbs.splits import stratified

NEIGHBOURS = (20, 200)
VALIDATION_SHARE = 0.2  # of the train pictures, to choose l2 on


@dataclass(frozen=True)
class LabelledRows:
    """Rows of h with their classes."""

    h: Tensor  # (N, D)
    labels: Tensor  # (N,) int64


@dataclass(frozen=True)
class Comparison:
    """Scores of several encoders on the same split of the same pictures."""

    scores: tuple[Score, ...]
    train_pictures: int
    test_pictures: int
    chance: float  # percent: always guessing the class that most train pictures have
    refused: int  # files that could not be used


def probe(settings: ProbeSettings, *, report: Report = silent) -> ProbeResult:
    """Score a run's encoder (or a plain timm model) and its untrained twin on labelled pictures.

    Raises:
        SimclrError: one of its kinds, with what to do next.
    """
    ready = ready_encoder(settings)
    root = settings.images or pictures_of(ready.run)
    report(Note(f"Probing {ready.name} on {root}."))
    workers = settings.workers or default_workers()
    census = take_census(root, workers=workers, progress=progress(report, "reading headers"))
    census, labels = labelled(census, settings.labels)
    held_out, split = None, f"stratified, {settings.test_fraction:.0%} held out by seed {settings.seed}"
    if settings.test is not None:
        held_out, split = take_census(settings.test, workers=workers), f"held out in {settings.test}"
        labels = {**labels, **labelled_like(held_out, frozenset(labels.values()))}
    seed = settings.seed
    if ready.run is not None:
        seed = ready.run.settings().get("seed", settings.seed)
        if held_out is None and census.root.resolve() == trained_on(ready.run).resolve():
            report(Note("The held-out pictures were among those trained on, without their labels."))
    untrained = {"untrained": untrained_twin(ready, seed)}
    # A plain timm model with random weights is its own twin.
    encoders = untrained if ready.run is None and settings.weights == "none" else {"trained": ready, **untrained}
    comparison = compare(encoders, census, held_out, labels, settings, report=report)
    return ProbeResult(
        encoder=ready.name,
        train_pictures=comparison.train_pictures,
        test_pictures=comparison.test_pictures,
        classes=tuple(sorted(set(labels.values()))),
        chance=comparison.chance,
        scores=comparison.scores,
        split=split,
        knn_temperature=settings.knn_temperature,
        refused=comparison.refused,
        model_digest=ready.digest,
    )


def compare(
    encoders: Mapping[str, ReadyEncoder],
    census: Census,
    held_out: Census | None,
    labels: Mapping[str, str],
    settings: ProbeSettings,
    *,
    linear: bool = True,
    report: Report = silent,
) -> Comparison:
    """Score each encoder by kNN, and by the linear probe if wanted, on held-out pictures.

    Args:
        held_out: the test pictures; without them the census is split, stratified, by the settings' seed.
        labels: class by picture name, of both.
    """
    workers = settings.workers or default_workers()
    classes = sorted(set(labels.values()))
    refused = 0

    def rows_of(ready: ReadyEncoder, pictures: Census, stage: str) -> LabelledRows:
        nonlocal refused
        h, kept = embed_pictures(
            ready, pictures, batch_size=settings.batch_size, workers=workers, report=report, stage=stage
        )
        refused += len(kept.refused)
        numbers = [classes.index(labels[picture.name]) for picture in kept.pictures]
        return LabelledRows(torch.from_numpy(h), torch.tensor(numbers))

    scores = []
    for name, ready in encoders.items():
        refused = 0
        rows = rows_of(ready, census, f"embedding, {name}")
        if held_out is None:
            test = torch.from_numpy(stratified(rows.labels.numpy(), settings.test_fraction, settings.seed))
            if not test.any():
                raise InputError(
                    "No class has two pictures, so none can be held out.", "Label more, or give --test FOLDER."
                )
            train_rows = LabelledRows(rows.h[~test], rows.labels[~test])
            test_rows = LabelledRows(rows.h[test], rows.labels[test])
        else:
            train_rows, test_rows = rows, rows_of(ready, held_out, f"embedding held-out, {name}")
        scores.append(score(name, train_rows, test_rows, len(classes), settings, linear=linear))
    guess = train_rows.labels.mode().values
    return Comparison(
        tuple(scores), len(train_rows.labels), len(test_rows.labels), percent(guess == test_rows.labels), refused
    )


def score(
    name: str, train: LabelledRows, test: LabelledRows, classes: int, settings: ProbeSettings, *, linear: bool
) -> Score:
    """kNN and linear accuracy of one representation, in percent of the held-out pictures."""
    knn_20, knn_200 = knn_votes(
        train.h, train.labels, test.h, neighbours=NEIGHBOURS, temperature=settings.knn_temperature, classes=classes
    )
    by_line = None
    if linear:
        validation = torch.from_numpy(stratified(train.labels.numpy(), VALIDATION_SHARE, settings.seed))
        fitted = fit_probe(train.h, train.labels, validation=validation, classes=classes)
        by_line = accuracy_of(fitted.scores(test.h), test.labels)
    return Score(
        name,
        accuracy_of(knn_20, test.labels),
        accuracy_of(knn_200, test.labels),
        by_line,
    )
