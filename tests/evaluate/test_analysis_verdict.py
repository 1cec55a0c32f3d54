"""The verdict of `probe`, for every outcome of a comparison."""

import pytest

from simclr_cli.api import Accuracy, Score
from simclr_cli.evaluate.analysis import write_verdict


def score(name: str, top_1: float, gain: tuple[float, float, float] | None = None, linear: bool = True) -> Score:
    accuracy = Accuracy(top_1, top_1 - 2, top_1 + 2, top_1)
    return Score(name, accuracy, accuracy, accuracy if linear else None, *(gain or (None, None, None)))


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        (
            [score("untrained", 40, (20, 16, 24)), score("raw pixels", 30, (30, 26, 34))],
            "Linear probe accuracy 60.0 %: 20.0 points above the best baseline (untrained encoder), "
            "95 % interval 16.0 to 24.0.",
        ),
        (
            [score("untrained", 40, (20, 16, 24)), score("imagenet", 55, (5, 1, 9))],
            "Linear probe accuracy 60.0 %: 20.0 points above the untrained encoder, 95 % interval 16.0 to 24.0; "
            "5.0 points above the best baseline (timm's ImageNet encoder), 95 % interval 1.0 to 9.0.",
        ),
        (
            [score("untrained", 40, (20, 16, 24)), score("runs/b", 59, (1, -2, 4))],
            "Linear probe accuracy 60.0 %: 20.0 points above the untrained encoder, 95 % interval 16.0 to 24.0; "
            "no clear difference from the best baseline (runs/b).",
        ),
        (
            [score("untrained", 40, (20, 16, 24)), score("imagenet", 80, (-20, -25, -15))],
            "Linear probe accuracy 60.0 %: 20.0 points above the untrained encoder, 95 % interval 16.0 to 24.0, "
            "but below the 80.0 % of the best baseline (timm's ImageNet encoder).",
        ),
        (
            [score("untrained", 61, (-1, -4, 2)), score("raw pixels", 30, (30, 26, 34))],
            "Linear probe accuracy 60.0 %: no clear difference from the best baseline (untrained encoder) on 500 "
            "held-out images (-1.0 points, 95 % interval -4.0 to 2.0).",
        ),
        (
            [score("untrained", 70, (-10, -14, -6))],
            "Linear probe accuracy 60.0 %: below the 70.0 % of the best baseline (untrained encoder).",
        ),
        ([], "Linear probe accuracy 60.0 %. There is no baseline to compare it with."),
    ],
)
def test_verdicts(others: list[Score], expected: str) -> None:
    assert write_verdict([score("trained", 60), *others], 500) == expected


def test_without_a_linear_probe_the_knn_accuracy_counts() -> None:
    scores = [score("trained", 60, linear=False), score("untrained", 40, (20, 16, 24), linear=False)]
    assert write_verdict(scores, 500).startswith("kNN accuracy 60.0 %: 20.0 points above the best baseline (untrained")


def test_an_encoder_that_is_not_of_a_run_is_named() -> None:
    text = write_verdict([score("untrained", 60), score("raw pixels", 30, (30, 26, 34))], 500)
    assert text == (
        "Linear probe accuracy 60.0 % (untrained encoder): 30.0 points above the best baseline (raw pixels), "
        "95 % interval 26.0 to 34.0."
    )
