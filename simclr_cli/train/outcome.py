"""The outcome of a training: the one place that judges it, by the gain in validation metrics over its start."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from simclr_cli.core.events import ValidationMetrics
from simclr_cli.core.safe_read import read_json
from simclr_cli.engine.metrics import compute_mean_gain
from simclr_cli.store.run import RunFolder

COLLAPSED_SIMILARITY = 0.98  # mean cosine of the z of different images from which on they count as equal
COLLAPSED_RANK = 1.5  # effective rank of h below which all images lie on a line
UNTRAINED_SHARE = 0.98  # of log(2N - 1), the loss of a model that tells no images apart
MIN_STEPS_TO_JUDGE = 50  # any model sees all images as about equal before
IMPROVING_SHARE = 0.05  # of the whole decrease of the loss, within the last quarter: still improving
MIN_EPOCHS_TO_JUDGE = 8  # a quarter of fewer says little
SATURATED = 90.0  # percent at the start, from which on an accuracy can hardly show a gain
MIN_IMAGES = 6  # with fewer, even the same change of all of them may be chance

BETTER, WORSE = "The encoder is better than", "The encoder is worse than"
UNCLEAR, TOO_EASY = "No clear gain over", "These views are too easy to tell whether the encoder is better than"

POOR_ENCODER = (
    "Results may mean little: the encoder of {name} is not clearly better than an untrained one. See its report."
)

State = Literal["learning", "improving", "unchanged", "collapsed"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a training: a word for scripts, and sentences with what to do next, if anything."""

    state: State
    words: str
    kept: Literal["adapted", "interpolated", "start"] | None = None  # weights, of a training from trained ones
    candidates: Mapping[str, Any] = field(default_factory=dict)  # measures of each
    gains: tuple[Gain, ...] = ()  # over the start


@dataclass(frozen=True)
class Scores:
    """Scores of each measured image by one model, in [0, 1]."""

    retrieval: Tensor  # (n,) share of its two views that are matched to each other
    retrieval_chance: float  # percent
    knn: Tensor | None = None  # (m,) whether its neighbors tell its class; None without classes
    knn_chance: float = 0.0  # percent: always the largest class


@dataclass(frozen=True)
class Gain:
    """An accuracy at the start and at the end of a training, with the paired 95 % interval of the change."""

    metric: str
    images: int
    start: float  # percent
    end: float  # percent
    low: float  # points
    high: float  # points
    chance: float  # percent

    def __str__(self) -> str:
        return (
            f"{self.metric} changed from {self.start:.0f} to {self.end:.0f} % "
            f"(95 % interval {self.low:+.0f} to {self.high:+.0f} points; chance {self.chance:.1f} %)"
        )


def compare(start: Scores, end: Scores) -> tuple[Gain, ...]:
    """Compare the scores of two models on the same images: view retrieval, then kNN where there are classes."""
    pairs = [("view retrieval accuracy", start.retrieval, end.retrieval, end.retrieval_chance)]
    if start.knn is not None and end.knn is not None:
        pairs.append(("kNN accuracy", start.knn, end.knn, end.knn_chance))
    gains = []
    for name, before, after, chance in pairs:
        if len(after) < MIN_IMAGES:
            continue
        _, low, high = compute_mean_gain(after, before)
        percentages = [100 * float(scores.double().mean()) for scores in (before, after)]
        gains.append(Gain(name, len(after), percentages[0], percentages[1], low, high, chance))
    return tuple(gains)


def judge_distillation(rows: Sequence[Mapping[str, Any]]) -> Outcome:
    """Judge a training by distillation, whose loss has no value of a model that knows nothing."""
    first, last = rows[0]["loss"], rows[-1]["loss"]
    if len(rows) == 1:
        return Outcome("learning", f"The mean loss of the distillation was {last:.3f}.")
    return Outcome("learning", f"The loss of the distillation went from {first:.3f} to {last:.3f}.")


def judge_training(
    rows: Sequence[Mapping[str, Any]],
    gains: Sequence[Gain],
    batch_size: int,
    steps: int,
    *,
    of_untrained: bool = True,
) -> Outcome:
    """Judge a training by its gains over the start. The loss only tells whether it is still falling.

    The loss alone does not tell how much was learned: at a low temperature it may be above that of chance.

    Args:
        rows: one per epoch (see EpochDone).
        gains: see `compare`; empty if they could not be measured.
        batch_size: N; a model that tells no images apart has the loss log(2N - 1).
        steps: of all epochs.
        of_untrained: whether the start has random weights.
    """
    measured = [row for row in rows if row.get("validation")]
    validation = ValidationMetrics(**measured[-1]["validation"]) if measured else None
    verdict = _compare_with_start(gains)
    is_late, is_poor = steps >= MIN_STEPS_TO_JUDGE, verdict in (WORSE, UNCLEAR)
    if validation is not None and is_late and is_poor and _is_collapsed(validation, rows, batch_size):
        return Outcome(
            "collapsed",
            "The encoder has collapsed: the z of different images have a mean cosine of "
            f"{validation.negative_similarity:.2f}, and h spreads over {validation.rank_h:.1f} dimensions. "
            "Train under another --run with a lower --learning-rate, or a larger batch or temperature.",
            gains=tuple(gains),
        )
    start = "the untrained encoder" if of_untrained else "the weights that it started from"
    figures = _describe_gains(gains, is_held_out=validation is not None and validation.held_out)
    longer, plateau = _describe_progress([row["loss"] for row in rows], batch_size)
    advice = longer or ("Train longer, or with another --learning-rate." if is_poor else plateau)
    state: State = "unchanged" if is_poor else "improving" if longer else "learning"
    return Outcome(state, f"{verdict} {start}{figures}. {advice}", gains=tuple(gains))


def _compare_with_start(gains: Sequence[Gain]) -> str:
    """Return the beginning of a sentence about the encoder and its start; classes decide, where they are clear."""
    for gain in reversed(gains):
        if gain.low > 0 or gain.high < 0:
            return BETTER if gain.low > 0 else WORSE
    is_easy = bool(gains) and min(gains[0].start, gains[0].end) >= SATURATED
    return TOO_EASY if is_easy else UNCLEAR


def _is_collapsed(validation: ValidationMetrics, rows: Sequence[Mapping[str, Any]], batch_size: int) -> bool:
    """Return whether h or z are about equal for all images, which the loss confirms."""
    are_equal = validation.negative_similarity > COLLAPSED_SIMILARITY or validation.rank_h < COLLAPSED_RANK
    return are_equal and rows[-1]["loss"] > UNTRAINED_SHARE * math.log(2 * batch_size - 1)


def _describe_gains(gains: Sequence[Gain], *, is_held_out: bool) -> str:
    if not gains:
        return ", which could not be measured"
    first = f"on {gains[0].images:,} {'held-out' if is_held_out else 'training'} images {gains[0]}"
    others = "".join(f", and on {gain.images:,} images {gain}" for gain in gains[1:])
    return f": {first}{others}"


def _describe_progress(losses: Sequence[float], batch_size: int) -> tuple[str, str]:
    """Return advice to train longer, or "" if the loss does not tell that it helps; and a sentence on the plateau."""
    if len(losses) < MIN_EPOCHS_TO_JUDGE:
        return "", "There were too few epochs to tell whether it plateaued."
    start = max(losses[0], math.log(2 * batch_size - 1))  # before the decrease, which the first epoch's mean hides
    decrease = start - losses[-1]
    late_share = (losses[-1 - len(losses) // 4] - losses[-1]) / decrease if decrease > 0 else 0.0
    if late_share > IMPROVING_SHARE:
        return (
            f"It was still improving: {100 * late_share:.0f} % of the decrease of the loss came in the last quarter of "
            f"the epochs. Train longer: --resume --epochs {2 * len(losses)}."
        ), ""
    return "", "It had plateaued by the end."


def describe_caution(run: RunFolder) -> str:
    """Return a sentence to show with results of the encoder of a run that has learned little, else "".

    The probe of the run, which compares with its untrained encoder by labels, overrules the outcome where it is clear.
    """
    is_better = read_probe_gain(run)
    if is_better is None:
        try:
            is_better = not has_learned_little(read_json(run.outcome_file))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # usually missing
            is_better = True
    return "" if is_better else POOR_ENCODER.format(name=run.path.name)


def has_learned_little(outcome: Mapping[str, Any]) -> bool:
    """Return whether the content of outcome.json says that random weights have learned little."""
    return outcome["state"] in ("unchanged", "collapsed") and outcome.get("kept") is None


def read_probe_gain(run: RunFolder) -> bool | None:
    """Return whether the probe of a run found its encoder better than an untrained one; None if that is not clear."""
    try:
        scores = read_json(run.probe_folder / "probe.json")["scores"]
        untrained = next(score for score in scores if score["representation"] == "untrained")
        is_clear = untrained["gain_low"] > 0 or untrained["gain_high"] < 0
        return bool(untrained["gain_low"] > 0) if is_clear else None
    except (OSError, ValueError, KeyError, TypeError, StopIteration):  # usually missing
        return None
