"""The outcome of a training, in a word and in sentences."""

import dataclasses
import math
from typing import Any

import pytest

from simclr_cli.core.events import ValidationMetrics
from simclr_cli.train.monitor import judge_training

WELL = ValidationMetrics(0.3, -2.5, 40.0, 20.0, 72.0, 0.85, 0.1, 100, True)
NOTHING = math.log(127)  # of a batch of 64


def rows(losses: list[float], health: ValidationMetrics | None = WELL) -> list[dict[str, Any]]:
    told = None if health is None else dataclasses.asdict(health)
    return [{"loss": loss, "validation": told if i + 1 == len(losses) else None} for i, loss in enumerate(losses)]


def falling(*, until: int, epochs: int = 20) -> list[float]:
    """Falls until an epoch, and then rests."""
    return [NOTHING - 2 * min(1, (i + 1) / until) for i in range(epochs)]


def test_a_loss_that_has_plateaued_has_learned() -> None:
    found = judge_training(rows(falling(until=10)), 64, 1000)
    assert found.state == "learning"
    assert found.words == (
        "The encoder has learned (on 100 held-out images: view retrieval accuracy 72 %, chance 0.5 %; h spreads over "
        "40 dimensions), and had plateaued by the end."
    )


def test_a_loss_that_still_falls_asks_for_more_epochs() -> None:
    found = judge_training(rows(falling(until=20)), 64, 1000)
    assert found.state == "improving"
    assert "25 % of the decrease of the loss came in the last quarter" in found.words and "--epochs 40" in found.words


def test_few_epochs_do_not_tell_whether_training_has_plateaued() -> None:
    found = judge_training(rows(falling(until=3, epochs=3)), 64, 1000)
    assert found.state == "learning" and "too few epochs to tell" in found.words


def test_a_loss_that_tells_nothing_apart_is_unchanged() -> None:
    found = judge_training(rows([NOTHING, NOTHING - 0.01, NOTHING - 0.02]), 64, 1000)
    assert found.state == "unchanged" and "4.84 for a model that tells no images apart" in found.words


@pytest.mark.parametrize("change", [{"negative_similarity": 0.995}, {"rank_h": 1.2}])
def test_one_vector_for_all_and_nothing_told_apart_is_a_collapse(change: dict[str, float]) -> None:
    health = dataclasses.replace(WELL, **change)
    assert judge_training(rows(falling(until=10), health), 64, 1000).state == "learning"  # the loss says otherwise
    found = judge_training(rows([5.2, NOTHING], health), 64, 1000)
    assert found.state == "collapsed"
    assert judge_training(rows([5.2, NOTHING], health), 64, 49).state == "unchanged"  # it has barely begun
    what, remedy = found.words.split(". ", 1)
    assert what.startswith("The encoder has collapsed") and remedy.startswith("Train under another --run")


def test_metrics_of_training_images_are_named_so() -> None:
    health = dataclasses.replace(WELL, held_out=False)
    assert "on 100 training images" in judge_training(rows(falling(until=10), health), 64, 1000).words


def test_without_validation_metrics_only_the_loss_counts() -> None:
    words = judge_training(rows(falling(until=10), None), 64, 1000).words
    assert words == "The encoder has learned, and had plateaued by the end."
