"""What else a comparison tells: class by class, what is taken for what, labels that are likely wrong, few labels."""

from __future__ import annotations

import statistics

import torch
from torch import Tensor

from simclr_cli.engine.accuracy import percent
from simclr_cli.engine.probes import fit_probe
from simclr_cli.engine.suspects import suspects
from simclr_cli.events import Report, progress
from simclr_cli.results import ClassScore, Confusion, FewLabels, Suspect
from simclr_cli.settings import ProbeSettings
from simclr_cli.verbs.comparison import VALIDATION_SHARE, Comparison, Judged, LabelledRows
from simclr_cli.verbs.splits import folds_of, some_labels, stratified

FOLDS = 5
MOST_SUSPECTS = 100
VALIDATE_FROM = 5  # labels of the rarest class, from which on some of them choose l2


def per_class(judged: Judged, classes: tuple[str, ...]) -> tuple[ClassScore, ...]:
    """How each class fared."""
    told, truth = judged.deciding, judged.test.labels
    train = torch.bincount(judged.train.labels, minlength=len(classes))
    rows = []
    for number, name in enumerate(classes):
        of_it, told_it = truth == number, told == number
        rows.append(
            ClassScore(
                name,
                int(train[number]),
                int(of_it.sum()),
                percent(told_it[of_it]) if of_it.any() else None,
                percent(of_it[told_it]) if told_it.any() else None,
            )
        )
    return tuple(rows)


def confusion(judged: Judged, classes: tuple[str, ...]) -> tuple[Confusion, ...]:
    """The cells of the confusion matrix that are not 0, by class and then by the class that was told."""
    pairs = judged.test.labels * len(classes) + judged.deciding
    numbers, counts = torch.unique(pairs, return_counts=True)
    return tuple(
        Confusion(classes[number // len(classes)], classes[number % len(classes)], times)
        for number, times in zip(numbers.tolist(), counts.tolist(), strict=True)
    )


def likely_mislabelled(found: Comparison, seed: int) -> tuple[Suspect, ...]:
    """Pictures whose label is likely wrong, held-out ones included, by probes that were not fitted on them."""
    first = found.first
    if first.linear is None:
        return ()
    rows = LabelledRows(
        torch.cat([first.train.h, first.test.h]),
        torch.cat([first.train.labels, first.test.labels]),
        (*first.train.names, *first.test.names),
    )
    probabilities = out_of_fold(rows, first.l2, len(found.classes), seed)
    told = probabilities.argmax(dim=1)
    return tuple(
        Suspect(
            rows.names[row],
            found.classes[rows.labels[row]],
            found.classes[told[row]],
            float(probabilities[row, rows.labels[row]]),
        )
        for row in suspects(probabilities, rows.labels)[:MOST_SUSPECTS].tolist()
    )


def out_of_fold(rows: LabelledRows, l2: float | None, classes: int, seed: int) -> Tensor:
    """Return (N, classes) probabilities of each row's classes by a linear probe that was fitted without its fold."""
    folds = torch.from_numpy(folds_of(rows.labels.numpy(), FOLDS, seed))
    probabilities = torch.zeros(len(folds), classes)
    for fold in range(FOLDS):
        out = folds == fold
        if out.any():
            probe = fit_probe(rows.h[~out], rows.labels[~out], l2=l2, classes=classes)
            probabilities[out] = probe.scores(rows.h[out]).softmax(dim=1)
    return probabilities


def few_labels(found: Comparison, settings: ProbeSettings, report: Report) -> tuple[FewLabels, ...]:
    """The linear probe on a part of the train labels, by every representation that has one; mean of several draws."""
    wanted = [
        *((share, f"{share:.3g} of the labels") for share in settings.shares),
        *((count, f"{count:,} a class") for count in settings.counts),
    ]
    say = progress(report, "fitting on few labels")
    rows: list[FewLabels] = []
    for done, (size, name) in enumerate(wanted):
        say(done, len(wanted))
        for one in found.judged:
            if one.linear is None:
                continue
            labels = one.train.labels.numpy()
            accuracies, used = [], 0
            for draw in range(settings.draws):
                chosen = one.train.of(torch.from_numpy(some_labels(labels, size, settings.seed, draw)))
                used = len(chosen.labels)
                accuracies.append(_linear(chosen, one.test, len(found.classes), settings.seed))
            spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
            rows.append(FewLabels(one.name, used, name, statistics.fmean(accuracies), spread, settings.draws))
    say(len(wanted), len(wanted))
    return tuple(rows)


def _linear(train: LabelledRows, test: LabelledRows, classes: int, seed: int) -> float:
    """Percent told right by a linear probe; where labels are very few none of them is spent on choosing l2."""
    enough = int(train.labels.bincount()[train.labels].min()) >= VALIDATE_FROM
    validation = torch.from_numpy(stratified(train.labels.numpy(), VALIDATION_SHARE, seed)) if enough else None
    fitted = fit_probe(train.h, train.labels, classes=classes, validation=validation)
    return percent(fitted.scores(test.h).argmax(dim=1) == test.labels)
