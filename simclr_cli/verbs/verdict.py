"""Was it worth it: one sentence from the scores."""

from __future__ import annotations

from collections.abc import Sequence

from simclr_cli.results import Accuracy, Score

NAMES = {"untrained": "the untrained encoder", "raw pixels": "raw pixels", "colour histogram": "a colour histogram",
         "imagenet": "timm's ImageNet encoder"}  # fmt: skip


def deciding(score: Score) -> Accuracy:
    """By the linear probe where there is one, else by 20 neighbours."""
    return score.linear or score.knn_20


def verdict(scores: Sequence[Score], test_pictures: int) -> str:
    """What the first score is worth beside the others; differences count where their 95 % interval leaves out 0."""
    first, *others = scores
    own = deciding(first)
    how = "by the linear probe" if first.linear else "by 20 nearest neighbours"
    is_run = first.representation == "trained"
    begun = "Training" if is_run else _name(first)[0].upper() + _name(first)[1:]
    found = f"{own.top_1:.1f} % {how}"
    compared = [score for score in others if score.gain is not None]
    if not compared:
        return f"{begun}: {found}, with nothing to compare it to."
    untrained = next((score for score in compared if score.representation == "untrained"), None)
    better = [score for score in compared if _high(score) < 0]
    best = max(better, key=lambda score: deciding(score).top_1, default=None)
    if best is not None:
        text = f"{_name(best)} does better: {deciding(best).top_1:.1f} % against {found}."
        if untrained is not None and _low(untrained) > 0:
            return f"{begun} gained {_points(untrained)} over the untrained encoder, but {text}"
        return text[0].upper() + text[1:]
    if untrained is not None and not _low(untrained) > 0:
        return (
            f"{begun} made no difference that {test_pictures:,} held-out pictures could show: {found}, "
            f"{_points(untrained)} over the untrained encoder."
        )
    near = [score for score in compared if _low(score) <= 0]
    rival = max(compared, key=lambda score: deciding(score).top_1)
    against = untrained or rival
    lead = f"{begun} helped" if is_run else f"{begun} is of use"
    also = ""
    if near:
        also = f"; {_name(max(near, key=lambda score: deciding(score).top_1))} may do as well"
    elif rival is not against:
        also = f", and {_points(rival)} over {_name(rival)}, the best of the others"
    return f"{lead}: {found}, {_points(against)} over {_name(against)}{also}."


def _low(score: Score) -> float:
    return score.gain_low if score.gain_low is not None else 0.0


def _high(score: Score) -> float:
    return score.gain_high if score.gain_high is not None else 0.0


def _points(score: Score) -> str:
    return f"{score.gain:+.1f} points (95 % interval {_low(score):+.1f} to {_high(score):+.1f})"


def _name(score: Score) -> str:
    return NAMES.get(score.representation, score.representation)
