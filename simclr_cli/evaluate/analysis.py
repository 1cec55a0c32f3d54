"""What else a comparison tells: was it worth it, class by class, what is taken for what, likely wrong, few labels."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from simclr_cli.api import ClassScore, Confusion, FewLabels, LabelError, ProbeSettings, Score
from simclr_cli.core.events import Report, progress
from simclr_cli.engine.metrics import percent
from simclr_cli.engine.probes import fit_probe, suspects
from simclr_cli.evaluate.comparison import VALIDATION_SHARE, Comparison, Judged
from simclr_cli.images.labels import folds_of, some_labels, stratified

NAMES = {"untrained": "the untrained encoder", "raw pixels": "raw pixels", "color histogram": "a color histogram",
         "imagenet": "timm's ImageNet encoder"}  # of representations, in a sentence  # fmt: skip
FOLDS = 5
MOST_SUSPECTS = 100
VALIDATE_FROM = 5  # labels of the rarest class, from which on some of them choose l2


def per_class(judged: Judged, classes: tuple[str, ...]) -> tuple[ClassScore, ...]:
    """How each class fared."""
    truth, told = judged.test.labels, judged.deciding
    counted = (judged.train.labels, truth, told, truth[truth == told])
    counts = [torch.bincount(labels, minlength=len(classes)).tolist() for labels in counted]
    return tuple(
        ClassScore(name, train, test, 100 * (right / test) if test else None, 100 * (right / of_it) if of_it else None)
        for name, train, test, of_it, right in zip(classes, *counts, strict=True)
    )


def confusion(judged: Judged, classes: tuple[str, ...]) -> tuple[Confusion, ...]:
    """The cells of the confusion matrix that are not 0, by class and then by the class that was told."""
    pairs = judged.test.labels * len(classes) + judged.deciding
    numbers, counts = torch.unique(pairs, return_counts=True)
    return tuple(
        Confusion(classes[number // len(classes)], classes[number % len(classes)], times)
        for number, times in zip(numbers.tolist(), counts.tolist(), strict=True)
    )


def likely_mislabeled(found: Comparison, seed: int) -> tuple[LabelError, ...]:
    """Images whose label is likely wrong, held-out ones included, by probes that were not fitted on them."""
    first = found.first
    if first.linear is None:
        return ()
    names, classes = (*first.train.names, *first.test.names), found.classes
    labels = torch.cat([first.train.labels, first.test.labels])
    probabilities = out_of_fold(torch.cat([first.train.h, first.test.h]), labels, first.l2, len(classes), seed)
    told = probabilities.argmax(dim=1)
    return tuple(
        LabelError(names[row], classes[labels[row]], classes[told[row]], float(probabilities[row, labels[row]]))
        for row in suspects(probabilities, labels)[:MOST_SUSPECTS].tolist()
    )


def out_of_fold(h: Tensor, labels: Tensor, l2: float | None, classes: int, seed: int) -> Tensor:
    """Return (N, classes) probabilities of each row's classes by a linear probe that was fitted without its fold."""
    folds = torch.from_numpy(folds_of(labels.numpy(), FOLDS, seed))
    probabilities = torch.zeros(len(folds), classes)
    for fold in range(min(FOLDS, len(labels))):  # none is empty
        out = folds == fold
        probe = fit_probe(h[~out], labels[~out], l2=l2, classes=classes)
        probabilities[out] = probe.scores(h[out]).softmax(dim=1)
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
            accuracies = []
            for draw in range(settings.draws):
                used = torch.from_numpy(some_labels(one.train.labels.numpy(), size, settings.seed, draw))
                accuracies.append(_linear(one, used, len(found.classes), settings.seed))
            mean, spread = statistics.fmean(accuracies), statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
            rows.append(FewLabels(one.name, int(used.sum()), name, mean, spread, settings.draws))
    say(len(wanted), len(wanted))
    return tuple(rows)


def _linear(one: Judged, used: Tensor, classes: int, seed: int) -> float:
    """Percent told right by a linear probe; where labels are very few none of them is spent on choosing l2."""
    h, labels = one.train.h[used], one.train.labels[used]
    enough = int(labels.bincount()[labels].min()) >= VALIDATE_FROM
    validation = torch.from_numpy(stratified(labels.numpy(), VALIDATION_SHARE, seed)) if enough else None
    fitted = fit_probe(h, labels, classes=classes, validation=validation)
    return percent(fitted.scores(one.test.h).argmax(dim=1) == one.test.labels)


def verdict(scores: Sequence[Score], test_images: int) -> str:
    """Say what the first score is worth beside the others, of which those differ whose 95 % interval excludes 0."""
    first, *others = scores
    is_run = first.representation == "trained"
    begun = "Training" if is_run else _capital(_name(first))
    found = f"{first.deciding.top_1:.1f} % {'by the linear probe' if first.linear else 'by 20 nearest neighbors'}"
    compared = sorted((one for one in others if one.gain is not None), key=lambda one: -one.deciding.top_1)
    if not compared:
        return f"{begun}: {found}, with nothing to compare it to."
    untrained = next((one for one in compared if one.representation == "untrained"), None)
    better = next((one for one in compared if (one.gain_high or 0) < 0), None)
    if better is not None:
        text = f"{_name(better)} does better: {better.deciding.top_1:.1f} % against {found}."
        if untrained is not None and _low(untrained) > 0:
            return f"{begun} gained {_points(untrained)} over the untrained encoder, but {text}"
        return _capital(text)
    if untrained is not None and _low(untrained) <= 0:
        return (
            f"{begun} made no difference that {test_images:,} held-out images could show: {found}, "
            f"{_points(untrained)} over the untrained encoder."
        )
    rival, near = compared[0], next((one for one in compared if _low(one) <= 0), None)
    against = untrained or rival
    also = ""
    if near:
        also = f"; {_name(near)} may do as well"
    elif rival is not against:
        also = f", and {_points(rival)} over {_name(rival)}, the best of the others"
    lead = "helped" if is_run else "is of use"
    return f"{begun} {lead}: {found}, {_points(against)} over {_name(against)}{also}."


def _low(score: Score) -> float:
    return score.gain_low or 0.0


def _points(score: Score) -> str:
    return f"{score.gain:+.1f} points (95 % interval {score.gain_low:+.1f} to {score.gain_high:+.1f})"


def _name(score: Score) -> str:
    return NAMES.get(score.representation, score.representation)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
