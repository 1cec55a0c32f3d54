"""The verdict of `probe`, for every outcome of a comparison."""

import pytest

from simclr_cli.api import Accuracy, Score
from simclr_cli.evaluate.analysis import write_verdict


def score(
    name: str, top_1: float, gain: tuple[float, float, float] | None = None, linear: bool = True, knn: float = 50
) -> Score:
    by_knn, by_linear = (Accuracy(value, value - 2, value + 2, value) for value in (knn, top_1))
    return Score(name, by_knn, by_knn, by_linear if linear else None, *(gain or (None, None, None)))


UNTRAINED = score("untrained", 40, (20, 16, 24), knn=30)
PIXELS = score("raw pixels", 30, (30, 26, 34), knn=20)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        (
            [UNTRAINED, PIXELS],
            "Linear probe accuracy 60.0 %: 20.0 points above the best baseline (untrained encoder), "
            "95 % interval 16.0 to 24.0.",
        ),
        (
            [UNTRAINED, score("resnet50.a1_in1k", 55, (5, 1, 9))],
            "Linear probe accuracy 60.0 %: 20.0 points above the untrained encoder, 95 % interval 16.0 to 24.0; "
            "5.0 points above the best baseline (resnet50.a1_in1k), 95 % interval 1.0 to 9.0.",
        ),
        (
            [UNTRAINED, score("runs/b", 59, (1, -2, 4))],
            "Linear probe accuracy 60.0 %: 20.0 points above the untrained encoder, 95 % interval 16.0 to 24.0; "
            "no clear difference from the best baseline (runs/b).",
        ),
        (
            [UNTRAINED, score("resnet50.a1_in1k", 80, (-20, -25, -15))],
            "Linear probe accuracy 60.0 %: 20.0 points above the untrained encoder, 95 % interval 16.0 to 24.0, "
            "but below the 80.0 % of the best baseline (resnet50.a1_in1k).",
        ),
        (
            [score("untrained", 61, (-1, -4, 2)), PIXELS],
            "Linear probe accuracy 60.0 %: no clear difference from the best baseline (untrained encoder) on 500 "
            "held-out images (-1.0 points, 95 % interval -4.0 to 2.0).",
        ),
        (
            [score("untrained", 70, (-10, -14, -6))],
            "Linear probe accuracy 60.0 %: below the 70.0 % of the best baseline (untrained encoder).",
        ),
    ],
)
def test_verdict_on_a_run(others: list[Score], expected: str) -> None:
    """Compared with the untrained encoder, and with the best baseline if that is another one."""
    comparison, _, best = write_verdict([score("trained", 60), *others], 500).partition(" Best of all ")
    assert comparison == expected and best


def test_without_baselines_nothing_is_compared() -> None:
    text = write_verdict([score("trained", 60)], 500)
    assert text == "Linear probe accuracy 60.0 %. There is no baseline to compare it with."


def test_without_a_linear_probe_the_knn_accuracy_counts() -> None:
    scores = [score("trained", 0, linear=False, knn=60), score("untrained", 0, (20, 16, 24), linear=False, knn=40)]
    assert write_verdict(scores, 500) == (
        "kNN accuracy 60.0 %: 20.0 points above the best baseline (untrained encoder), 95 % interval 16.0 to 24.0. "
        "Best of all by kNN: the run, 60.0 %."
    )


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([UNTRAINED, PIXELS], "by kNN: the run, 50.0 %; by linear probe: the run, 60.0 %."),
        (
            [score("untrained", 40, (20, 16, 24), knn=51.26), PIXELS],
            "by kNN: untrained encoder, 51.3 %; by linear probe: the run, 60.0 %.",
        ),
        (
            [UNTRAINED, score("vit", 80, (-20, -25, -15), knn=49), score("runs/b", 70, (-10, -15, -5), knn=90)],
            "by kNN: runs/b, 90.0 %; by linear probe: vit, 80.0 %.",
        ),
        # The paper's protocol has no linear probe of raw pixels.
        ([PIXELS, score("color histogram", 0, linear=False, knn=70)],
         "by kNN: color histogram, 70.0 %; by linear probe: the run, 60.0 %."),
    ],
)  # fmt: skip
def test_the_second_sentence_names_the_best_of_all(others: list[Score], expected: str) -> None:
    """The probed encoder among them; the two measures may have different ones."""
    assert write_verdict([score("trained", 60), *others], 500).partition(" Best of all ")[2] == expected


@pytest.mark.parametrize(
    ("name", "others", "expected"),
    [
        (
            "untrained",
            [PIXELS],
            "Linear probe accuracy 60.0 % (untrained encoder): 30.0 points above the best baseline (raw pixels), "
            "95 % interval 26.0 to 34.0. Best of all by kNN: untrained encoder, 50.0 %; "
            "by linear probe: untrained encoder, 60.0 %.",
        ),
        (
            "resnet50.a1_in1k",
            [UNTRAINED, PIXELS],
            "Linear probe accuracy 60.0 % (resnet50.a1_in1k): 30.0 points above the raw pixels, "
            "95 % interval 26.0 to 34.0; 20.0 points above the best baseline (untrained encoder), "
            "95 % interval 16.0 to 24.0. Best of all by kNN: resnet50.a1_in1k, 50.0 %; "
            "by linear probe: resnet50.a1_in1k, 60.0 %.",
        ),
        (
            "resnet50.a1_in1k",
            [UNTRAINED, score("raw pixels", 61, (-1, -4, 2))],
            "Linear probe accuracy 60.0 % (resnet50.a1_in1k): no clear difference from the best baseline (raw pixels) "
            "on 500 held-out images (-1.0 points, 95 % interval -4.0 to 2.0). "
            "Best of all by kNN: resnet50.a1_in1k, 50.0 %; by linear probe: raw pixels, 61.0 %.",
        ),
    ],
)
def test_an_encoder_that_is_not_of_a_run_is_named_and_compared_with_raw_pixels(
    name: str, others: list[Score], expected: str
) -> None:
    assert write_verdict([score(name, 60), *others], 500) == expected
