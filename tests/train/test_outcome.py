"""The outcome of a training: judged by the gain over its start, in a word and in sentences."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simclr_cli.core.events import ValidationMetrics
from simclr_cli.store.run import RunFolder
from simclr_cli.train.outcome import Gain, Scores, compare, describe_caution, judge_training

WELL = ValidationMetrics(0.3, -2.5, 40.0, 20.0, 72.0, 0.85, 0.1, 100, True)
NOTHING = math.log(127)  # of a batch of 64
UP = Gain("view retrieval accuracy", 100, 20.0, 72.0, 42.0, 62.0, 0.5)
FLAT = dataclasses.replace(UP, end=22.0, low=-6.0, high=10.0)
DOWN = dataclasses.replace(UP, end=8.0, low=-18.0, high=-6.0)


def rows(losses: list[float], health: ValidationMetrics | None = WELL) -> list[dict[str, Any]]:
    told = None if health is None else dataclasses.asdict(health)
    return [{"loss": loss, "validation": told if i + 1 == len(losses) else None} for i, loss in enumerate(losses)]


def falling(*, until: int, epochs: int = 20) -> list[float]:
    """Falls until an epoch, and then rests."""
    return [NOTHING - 2 * min(1, (i + 1) / until) for i in range(epochs)]


def judge(losses: list[float], *gains: Gain, health: ValidationMetrics | None = WELL, steps: int = 1000) -> Any:
    return judge_training(rows(losses, health), gains, 64, steps)


def test_a_clear_gain_and_a_loss_that_has_plateaued_has_learned() -> None:
    found = judge(falling(until=10), UP)
    assert found.state == "learning" and found.gains == (UP,)
    assert found.words == (
        "The encoder is better than the untrained encoder: on 100 held-out images view retrieval accuracy changed from "
        "20 to 72 % (95 % interval +42 to +62 points; chance 0.5 %). It had plateaued by the end."
    )


def test_a_loss_that_still_falls_asks_for_more_epochs() -> None:
    found = judge(falling(until=20), UP)
    assert found.state == "improving"
    assert "25 % of the decrease of the loss came in the last quarter" in found.words and "--epochs 40" in found.words


def test_few_epochs_do_not_tell_whether_training_has_plateaued() -> None:
    found = judge(falling(until=3, epochs=3), UP)
    assert found.state == "learning" and "too few epochs to tell" in found.words


@pytest.mark.parametrize("loss", [NOTHING - 0.01, NOTHING + 1.04, NOTHING - 2])
def test_the_loss_does_not_decide(loss: float) -> None:
    """At a temperature of 0.1 the loss of an encoder that a linear probe rates 14 points higher was 5.88, not 4.84."""
    losses = [loss + 0.1, loss]
    assert judge(losses, UP).state == "learning"
    found = judge(losses, FLAT)
    assert found.state == "unchanged" and found.words.startswith("No clear gain over the untrained encoder: on 100")


@pytest.mark.parametrize(
    ("retrieval", "knn", "state"),
    [(UP, FLAT, "learning"), (FLAT, UP, "learning"), (UP, DOWN, "unchanged"), (DOWN, UP, "learning"),
     (FLAT, FLAT, "unchanged")],
)  # fmt: skip
def test_classes_decide_where_they_are_clear(retrieval: Gain, knn: Gain, state: str) -> None:
    found = judge(falling(until=10), retrieval, dataclasses.replace(knn, metric="kNN accuracy", images=30))
    assert found.state == state and "on 30 images kNN accuracy changed" in found.words


def test_an_accuracy_that_was_high_at_the_start_is_no_sign_of_nothing() -> None:
    easy = dataclasses.replace(UP, start=99.0, end=99.0, low=-1.0, high=1.0)
    found = judge(falling(until=10), easy)
    assert found.state == "learning" and "too easy to tell whether the encoder is better" in found.words
    assert judge(falling(until=10), dataclasses.replace(easy, end=70.0, low=-35.0, high=-20.0)).state == "unchanged"


@pytest.mark.parametrize("change", [{"negative_similarity": 0.995}, {"rank_h": 1.2}])
def test_one_vector_for_all_and_nothing_told_apart_is_a_collapse(change: dict[str, float]) -> None:
    health = dataclasses.replace(WELL, **change)
    assert judge(falling(until=10), FLAT, health=health).state == "unchanged"  # the loss says otherwise
    assert judge([5.2, NOTHING], UP, health=health).state == "learning"  # the gain does
    found = judge([5.2, NOTHING], DOWN, health=health)
    assert found.state == "collapsed"
    assert judge([5.2, NOTHING], DOWN, health=health, steps=49).state == "unchanged"  # it has barely begun
    what, remedy = found.words.split(". ", 1)
    assert what.startswith("The encoder has collapsed") and remedy.startswith("Train under another --run")


def test_metrics_of_training_images_are_named_so() -> None:
    health = dataclasses.replace(WELL, held_out=False)
    assert "on 100 training images" in judge(falling(until=10), UP, health=health).words


def test_without_metrics_nothing_is_claimed() -> None:
    found = judge(falling(until=10), health=None)
    assert found.state == "unchanged" and "could not be measured" in found.words


def test_a_gain_is_the_paired_one_of_each_image() -> None:
    """The interval by bootstrap over the images, which must be paired: unpaired it would be three times as wide."""
    generator = np.random.default_rng(0)
    before = generator.random(400) < 0.5
    after = before | (generator.random(400) < 0.1)
    scores = [Scores(torch.from_numpy(values).double(), 0.5) for values in (before, after)]
    (gain,) = compare(*scores)
    assert (gain.start, gain.end) == pytest.approx((100 * before.mean(), 100 * after.mean()))
    difference = 100 * (after.astype(float) - before)
    means = generator.choice(difference, (4000, 400)).mean(axis=1)
    assert (gain.low, gain.high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.5)


def test_a_clear_loss_is_said() -> None:
    assert judge(falling(until=10), DOWN).words.startswith("The encoder is worse than the untrained encoder: on 100")


@pytest.mark.parametrize(("images", "gains"), [(1, 0), (5, 0), (6, 1)])
def test_a_few_images_tell_nothing_even_if_all_of_them_change(images: int, gains: int) -> None:
    assert len(compare(Scores(torch.zeros(images), 10.0), Scores(torch.ones(images), 10.0))) == gains


@pytest.mark.parametrize(
    ("state", "kept", "gain", "cautious"),
    [("unchanged", None, None, True), ("collapsed", None, None, True), ("learning", None, None, False),
     ("unchanged", "start", None, False), ("unchanged", None, (3.0, 9.0), False),
     ("learning", None, (-9.0, -3.0), True), ("unchanged", None, (-2.0, 4.0), True),
     ("learning", None, (-2.0, 4.0), False)],
)  # fmt: skip
def test_results_of_a_poor_encoder_are_shown_with_caution(
    tmp_path: Path, state: str, kept: str | None, gain: tuple[float, float] | None, cautious: bool
) -> None:
    run = RunFolder(tmp_path / "birds")
    run.probe_folder.mkdir(parents=True)
    run.outcome_file.write_text(json.dumps({"state": state, "words": "", "kept": kept}))
    if gain:
        scores = [{"representation": "trained", "gain_low": None},
                  {"representation": "untrained", "gain_low": gain[0], "gain_high": gain[1]}]  # fmt: skip
        (run.probe_folder / "probe.json").write_text(json.dumps({"scores": scores}))
    assert bool(describe_caution(run)) == cautious
    assert not cautious or "the encoder of birds is not clearly better" in describe_caution(run)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"scores": [{}]}', '{"scores": 3}', '"x"'])
def test_damaged_files_cause_no_caution(tmp_path: Path, content: str) -> None:
    run = RunFolder(tmp_path)
    run.probe_folder.mkdir()
    for file in (run.outcome_file, run.probe_folder / "probe.json"):
        file.write_text(content)
    assert describe_caution(run) == ""
