"""One sentence for every way that a comparison can end."""

import pytest

from simclr_cli.api import Accuracy, Score
from simclr_cli.evaluate.analysis import verdict


def score(name: str, top_1: float, gain: tuple[float, float, float] | None = None, linear: bool = True) -> Score:
    found = Accuracy(top_1, top_1 - 2, top_1 + 2, top_1)
    return Score(name, found, found, found if linear else None, *(gain or (None, None, None)))


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        (
            [score("untrained", 40, (20, 16, 24)), score("raw pixels", 30, (30, 26, 34))],
            "Training helped: 60.0 % by the linear probe, +20.0 points (95 % interval +16.0 to +24.0) over the "
            "untrained encoder.",
        ),
        (
            [score("untrained", 40, (20, 16, 24)), score("imagenet", 55, (5, 1, 9))],
            "Training helped: 60.0 % by the linear probe, +20.0 points (95 % interval +16.0 to +24.0) over the "
            "untrained encoder, and +5.0 points (95 % interval +1.0 to +9.0) over timm's ImageNet encoder, the best of "
            "the others.",
        ),
        (
            [score("untrained", 40, (20, 16, 24)), score("runs/b", 59, (1, -2, 4))],
            "Training helped: 60.0 % by the linear probe, +20.0 points (95 % interval +16.0 to +24.0) over the "
            "untrained encoder; runs/b may do as well.",
        ),
        (
            [score("untrained", 40, (20, 16, 24)), score("imagenet", 80, (-20, -25, -15))],
            "Training gained +20.0 points (95 % interval +16.0 to +24.0) over the untrained encoder, but timm's "
            "ImageNet encoder does better: 80.0 % against 60.0 % by the linear probe.",
        ),
        (
            [score("untrained", 61, (-1, -4, 2)), score("raw pixels", 30, (30, 26, 34))],
            "Training made no difference that 500 held-out images could show: 60.0 % by the linear probe, -1.0 "
            "points (95 % interval -4.0 to +2.0) over the untrained encoder.",
        ),
        (
            [score("untrained", 70, (-10, -14, -6))],
            "The untrained encoder does better: 70.0 % against 60.0 % by the linear probe.",
        ),
        ([], "Training: 60.0 % by the linear probe, with nothing to compare it to."),
    ],
)
def test_verdicts(others: list[Score], expected: str) -> None:
    assert verdict([score("trained", 60), *others], 500) == expected


def test_without_a_linear_probe_neighbors_decide() -> None:
    scores = [score("trained", 60, linear=False), score("untrained", 40, (20, 16, 24), linear=False)]
    assert verdict(scores, 500).startswith("Training helped: 60.0 % by 20 nearest neighbors, +20.0 points")


def test_an_encoder_that_was_not_trained_here_is_not_said_to_be() -> None:
    text = verdict([score("untrained", 60), score("raw pixels", 30, (30, 26, 34))], 500)
    assert text == (
        "The untrained encoder is of use: 60.0 % by the linear probe, +30.0 points (95 % interval +26.0 to +34.0) "
        "over raw pixels."
    )
