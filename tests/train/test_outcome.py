"""What came of a training, in a word and in sentences."""

import dataclasses
import math
from typing import Any

import pytest

from simclr_cli.core.events import ValidationMetrics
from simclr_cli.train.outcome import outcome

WELL = ValidationMetrics(0.3, -2.5, 40.0, 20.0, 72.0, 0.85, 0.1, 100, True)
NOTHING = math.log(127)  # of a batch of 64


def rows(losses: list[float], health: ValidationMetrics | None = WELL) -> list[dict[str, Any]]:
    told = None if health is None else dataclasses.asdict(health)
    return [{"loss": loss, "validation": told if i + 1 == len(losses) else None} for i, loss in enumerate(losses)]


def falling(*, until: int, epochs: int = 20) -> list[float]:
    """Falls until an epoch, and then rests."""
    return [NOTHING - 2 * min(1, (i + 1) / until) for i in range(epochs)]


def test_a_loss_that_rests_has_learned() -> None:
    found = outcome(rows(falling(until=10)), 64, 1000)
    assert found.state == "learning"
    assert found.words == (
        "It has learned (of two views each of 100 images kept out of training, 72 % find their other one, by chance "
        "0.5 %; h spreads over 40 dimensions), and had come to rest by the end."
    )


def test_a_loss_that_still_falls_asks_for_more_epochs() -> None:
    found = outcome(rows(falling(until=20)), 64, 1000)
    assert found.state == "improving"
    assert "the last quarter of the epochs brought 25 % of all" in found.words and "--epochs 40" in found.words


def test_few_epochs_say_nothing_about_going_on() -> None:
    found = outcome(rows(falling(until=3, epochs=3)), 64, 1000)
    assert found.state == "learning" and "cannot be told from so few epochs" in found.words


def test_a_loss_that_tells_nothing_apart_is_unchanged() -> None:
    found = outcome(rows([NOTHING, NOTHING - 0.01, NOTHING - 0.02]), 64, 1000)
    assert found.state == "unchanged" and "that of telling nothing apart 4.84" in found.words


@pytest.mark.parametrize("change", [{"negative_similarity": 0.995}, {"rank_h": 1.2}])
def test_one_vector_for_all_and_nothing_told_apart_is_a_collapse(change: dict[str, float]) -> None:
    health = dataclasses.replace(WELL, **change)
    assert outcome(rows(falling(until=10), health), 64, 1000).state == "learning"  # the loss says otherwise
    found = outcome(rows([5.2, NOTHING], health), 64, 1000)
    assert found.state == "collapsed"
    assert outcome(rows([5.2, NOTHING], health), 64, 49).state == "unchanged"  # it has barely begun
    what, remedy = found.words.split(". ", 1)
    assert what.startswith("The encoder has collapsed") and remedy.startswith("Train under another --run")


def test_health_on_images_that_were_trained_on_says_so() -> None:
    health = dataclasses.replace(WELL, held_out=False)
    assert "images that it was trained on" in outcome(rows(falling(until=10), health), 64, 1000).words


def test_without_health_the_loss_speaks_alone() -> None:
    assert outcome(rows(falling(until=10), None), 64, 1000).words == "It has learned, and had come to rest by the end."
