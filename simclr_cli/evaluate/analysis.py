"""The analysis of a comparison: verdict, scores per class, confusions, label errors, and probes on few labels."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from simclr_cli.api import ClassScore, Confusion, FewLabels, LabelError, ProbeSettings, Score
from simclr_cli.core.events import Report, progress
from simclr_cli.engine.metrics import compute_percentage
from simclr_cli.engine.probes import fit_probe
from simclr_cli.evaluate.comparison import VALIDATION_SHARE, Comparison, EncoderEvaluation
from simclr_cli.images.labels import assign_folds, draw_labels, split_stratified

NAMES = {"trained": "the run", "untrained": "untrained encoder"}  # in the verdict
FLOORS = ("untrained", "raw pixels")  # that an encoder must be better than
FOLDS = 5
MAX_LABEL_ERRORS = 100
MIN_ADVANTAGE = 0.5  # of the errors of always predicting one class: probes that avoid fewer do not judge labels
MIN_LABELS_TO_VALIDATE = 5  # of the rarest class; with fewer, l2 is not chosen on a validation split


def score_classes(evaluation: EncoderEvaluation, classes: tuple[str, ...]) -> tuple[ClassScore, ...]:
    """Compute recall and precision of each class."""
    truth, predicted = evaluation.test.labels, evaluation.predicted_classes
    counted = (evaluation.train.labels, truth, predicted, truth[truth == predicted])
    counts = [torch.bincount(labels, minlength=len(classes)).tolist() for labels in counted]
    return tuple(
        ClassScore(
            name, train, test, 100 * (correct / test) if test else None, 100 * (correct / found) if found else None
        )
        for name, train, test, found, correct in zip(classes, *counts, strict=True)
    )


def count_confusions(evaluation: EncoderEvaluation, classes: tuple[str, ...]) -> tuple[Confusion, ...]:
    """Return the cells of the confusion matrix that are not 0, by class and then by predicted class."""
    pairs = evaluation.test.labels * len(classes) + evaluation.predicted_classes
    numbers, counts = torch.unique(pairs, return_counts=True)
    return tuple(
        Confusion(classes[number // len(classes)], classes[number % len(classes)], count)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
    )


def list_label_errors(comparison: Comparison, seed: int) -> tuple[tuple[LabelError, ...], str]:
    """List the images, held-out ones included, whose label is likely wrong by probes that were not fitted on them.

    Returns:
        The images, and the reason for listing none, or "": probes that are mostly wrong themselves tell nothing.
    """
    first, classes = comparison.first, comparison.classes
    if first.linear is None:
        return (), ""
    names = (*first.train.names, *first.test.names)
    h, labels = torch.cat([first.train.h, first.test.h]), torch.cat([first.train.labels, first.test.labels])
    probabilities = predict_out_of_fold(h, labels, first.l2, len(classes), seed)
    predicted = probabilities.argmax(dim=1)
    accuracy, chance = (compute_percentage(guess == labels) for guess in (predicted, labels.mode().values))
    if accuracy < chance + MIN_ADVANTAGE * (100 - chance):
        return (), (
            f"No label is listed as likely wrong: the linear probe itself is right about {accuracy:.0f} % of the "
            f"images only (always predicting one class: {chance:.0f} %)."
        )
    errors = tuple(
        LabelError(names[row], classes[labels[row]], classes[predicted[row]], float(probabilities[row, labels[row]]))
        for row in find_label_errors(probabilities, labels)[:MAX_LABEL_ERRORS].tolist()
    )
    return errors, ""


def predict_out_of_fold(h: Tensor, labels: Tensor, l2: float | None, classes: int, seed: int) -> Tensor:
    """Return (N, classes) probabilities of each row's classes by a linear probe that was fitted without its fold."""
    folds = torch.from_numpy(assign_folds(labels.numpy(), FOLDS, seed))
    probabilities = torch.zeros(len(folds), classes)
    for fold in range(min(FOLDS, len(labels))):  # none is empty
        in_fold = folds == fold
        probe = fit_probe(h[~in_fold], labels[~in_fold], l2=l2, classes=classes)
        probabilities[in_fold] = probe.compute_logits(h[in_fold]).softmax(dim=1)
    return probabilities


def probe_few_labels(comparison: Comparison, settings: ProbeSettings, report: Report) -> tuple[FewLabels, ...]:
    """Fit the linear probe of each encoder that has one on several draws of a part of the train labels."""
    parts = [
        *((share, f"{share:.3g} of the labels") for share in settings.label_fractions),
        *((count, f"{count:,} per class") for count in settings.label_counts),
    ]
    report_done = progress(report, "fitting on few labels")
    rows: list[FewLabels] = []
    for done, (size, name) in enumerate(parts):
        report_done(done, len(parts))
        for evaluation in comparison.evaluations:
            if evaluation.linear is None:
                continue
            accuracies = []
            for draw in range(settings.draws):
                used = torch.from_numpy(draw_labels(evaluation.train.labels.numpy(), size, settings.seed, draw))
                accuracies.append(_probe_part(evaluation, used, len(comparison.classes), settings.seed))
            mean, std = statistics.fmean(accuracies), statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
            rows.append(FewLabels(evaluation.name, int(used.sum()), name, mean, std, settings.draws))
    report_done(len(parts), len(parts))
    return tuple(rows)


def _probe_part(evaluation: EncoderEvaluation, used: Tensor, classes: int, seed: int) -> float:
    """Return the accuracy, in percent, of a linear probe that is fitted on the `used` (N,) rows only."""
    h, labels = evaluation.train.h[used], evaluation.train.labels[used]
    validates = int(labels.bincount()[labels].min()) >= MIN_LABELS_TO_VALIDATE
    validation = torch.from_numpy(split_stratified(labels.numpy(), VALIDATION_SHARE, seed)) if validates else None
    probe = fit_probe(h, labels, classes=classes, validation=validation)
    return compute_percentage(probe.compute_logits(evaluation.test.h).argmax(dim=1) == evaluation.test.labels)


def write_verdict(scores: Sequence[Score], test_images: int) -> str:
    """Compare the first encoder with its baselines in a sentence, and name the best of all in another."""
    comparison = _compare_first(scores, test_images)
    if len(scores) == 1:
        return comparison
    by_knn = max(scores, key=lambda score: score.knn_20.top_1)
    best = f"Best of all by kNN: {_name(by_knn)}, {by_knn.knn_20.top_1:.1f} %"
    linear = {score: score.linear.top_1 for score in scores if score.linear}
    if linear:
        by_linear = max(linear, key=lambda score: linear[score])
        best += f"; by linear probe: {_name(by_linear)}, {linear[by_linear]:.1f} %"
    return f"{comparison} {best}."


def _compare_first(scores: Sequence[Score], test_images: int) -> str:
    """Compare the first encoder with the untrained one, or if it is not of a run with raw pixels, and with the best.

    Two encoders differ clearly if the 95 % interval of the gain excludes 0.
    """
    first, *others = scores
    accuracy = f"{'Linear probe' if first.linear else 'kNN'} accuracy {first.deciding.top_1:.1f} %"
    if first.representation != "trained":
        accuracy += f" ({_name(first)})"
    baselines = sorted((score for score in others if score.gain is not None), key=lambda score: -score.deciding.top_1)
    if not baselines:
        return f"{accuracy}. There is no baseline to compare it with."
    best = baselines[0]
    floor = "untrained" if first.representation == "trained" else "raw pixels"
    reference = next((score for score in baselines if score.representation == floor), best)
    better = next((score for score in baselines if (score.gain_high or 0) < 0), None)
    if better is not None:
        lead = f"{_describe_gain(reference, best)}, but " if _is_clear(reference) else ""
        return f"{accuracy}: {lead}below the {better.deciding.top_1:.1f} % of {_describe(better, best)}."
    if not _is_clear(reference):
        return (
            f"{accuracy}: no clear difference from {_describe(reference, best)} on {test_images:,} held-out images "
            f"({reference.gain:.1f} points, {_interval(reference)})."
        )
    gain = _describe_gain(reference, best)
    equal = next((score for score in baselines if not _is_clear(score)), None)
    if equal is not None:
        return f"{accuracy}: {gain}; no clear difference from {_describe(equal, best)}."
    if best is not reference:
        return f"{accuracy}: {gain}; {_describe_gain(best, best)}."
    return f"{accuracy}: {gain}."


def _is_clear(score: Score) -> bool:
    """Return whether the first encoder is clearly better than this one."""
    return (score.gain_low or 0.0) > 0


def _describe_gain(score: Score, best: Score) -> str:
    return f"{score.gain:.1f} points above {_describe(score, best)}, {_interval(score)}"


def _interval(score: Score) -> str:
    return f"95 % interval {score.gain_low:.1f} to {score.gain_high:.1f}"


def _describe(score: Score, best: Score) -> str:
    if score is best:
        return f"the best baseline ({_name(score)})"
    return f"the {_name(score)}" if score.representation in FLOORS else f"a baseline ({_name(score)})"


def _name(score: Score) -> str:
    return NAMES.get(score.representation, score.representation)


def find_label_errors(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Find rows whose label is likely wrong, by confident learning (Northcutt et al., 1911.00068).

    A label is likely wrong if another class is more probable, and at least as probable as that class is on average for
    its own rows (its threshold, section 3.1). Rows are sorted by the normalized margin: first those whose label is
    furthest below the most probable such class.

    Args:
        probabilities: (N, classes), out of fold; labels: (N,) int64.

    Returns:
        (K,) int64 row numbers.
    """
    classes = probabilities.shape[1]
    given = probabilities.gather(1, labels[:, None]).squeeze(1)  # (N,)
    counts = torch.bincount(labels, minlength=classes)
    threshold = torch.zeros(classes, device=given.device).index_add_(0, labels, given) / counts.clamp(min=1)
    threshold[counts == 0] = 2.0  # unknown without rows, so no probability reaches it
    candidates = probabilities.scatter(1, labels[:, None], -1.0).masked_fill(probabilities < threshold, -1.0)
    best = candidates.max(dim=1).values
    errors = (best > given).nonzero().squeeze(1)
    return errors[(given - best)[errors].argsort(stable=True)]
