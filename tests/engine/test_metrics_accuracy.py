"""Accuracies against scikit-learn, and intervals against resampled images."""

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score
from torch import Tensor

from simclr_cli.engine.metrics import (
    bootstrap_interval,
    compute_accuracy,
    compute_gain,
    compute_mean_gain,
    compute_percentage,
)


def draw_scores(classes: int, count: int = 300, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw scores that are mostly correct, for classes of uneven size."""
    generator = torch.Generator().manual_seed(seed)
    labels = (classes * torch.rand(count, generator=generator) ** 2).long()
    scores = torch.randn(count, classes, generator=generator) + 1.5 * torch.eye(classes)[labels]
    return scores, labels


@pytest.mark.parametrize("classes", [2, 5, 6, 12])
def test_accuracies_are_scikit_learns(classes: int) -> None:
    scores, labels = draw_scores(classes)
    found = compute_accuracy(scores, labels)
    predicted = scores.argmax(1)
    assert found.top_1 == pytest.approx(100 * accuracy_score(labels, predicted))
    assert found.balanced == pytest.approx(100 * balanced_accuracy_score(labels, predicted))
    if classes <= 5:
        assert found.top_5 is None
    else:
        reference = top_k_accuracy_score(labels, scores.numpy(), k=5, labels=np.arange(classes))
        assert found.top_5 == pytest.approx(100 * reference)


def test_classes_without_held_out_images_do_not_count_in_balanced_accuracy() -> None:
    scores = torch.eye(4)[torch.tensor([0, 0, 1, 1])]
    found = compute_accuracy(scores, torch.tensor([0, 0, 0, 1]))
    assert found.balanced == pytest.approx(100 * (2 / 3 + 1) / 2)


def test_the_interval_is_that_of_resampled_images() -> None:
    scores, labels = draw_scores(4, 150)
    right = (scores.argmax(1) == labels).numpy()
    generator = np.random.default_rng(0)
    means = [100 * generator.choice(right, len(right)).mean() for _ in range(20_000)]
    found = compute_accuracy(scores, labels)
    assert (found.low, found.high) == pytest.approx(np.percentile(means, (2.5, 97.5)), abs=0.7)  # 1 image is 0.67


def test_the_interval_of_gains_and_losses_is_that_of_resampling() -> None:
    outcomes = torch.tensor([-1] * 30 + [0] * 50 + [1] * 20)
    drawn = np.random.default_rng(1).choice(outcomes.numpy(), (5_000, 100)).mean(axis=1)
    assert bootstrap_interval(outcomes, 0) == pytest.approx(tuple(np.percentile(100 * drawn, [2.5, 97.5])), abs=1.5)


def test_the_gain_is_paired_by_image() -> None:
    generator = np.random.default_rng(1)
    first = torch.from_numpy(generator.random(200) < 0.8)
    second = first & torch.from_numpy(generator.random(200) < 0.9)  # never right where the first is wrong
    gain, low, high = compute_gain(first, second)
    difference = first.long() - second.long()
    assert gain == pytest.approx(100 * float(difference.double().mean()))
    means = [100 * generator.choice(difference.numpy(), 200).mean() for _ in range(20_000)]
    assert (low, high) == pytest.approx(np.percentile(means, (2.5, 97.5)), abs=0.6)
    assert low > 0


def test_equal_outcomes_have_no_gain_and_all_correct_is_certain() -> None:
    right = torch.tensor([True, False, True])
    assert compute_gain(right, right) == (0.0, 0.0, 0.0)
    assert bootstrap_interval(torch.ones(9, dtype=torch.long), 0) == (100.0, 100.0)
    assert compute_percentage(right) == pytest.approx(200 / 3)


def test_intervals_follow_from_the_seed() -> None:
    outcomes = torch.tensor([1, 0, 1, 1, 0, -1, 1, 0, 1, 1] * 9)
    assert bootstrap_interval(outcomes, 3) == bootstrap_interval(outcomes, 3)


def test_mean_gain_and_its_interval() -> None:
    """Against scipy's paired t interval, which is as wide for many images."""
    draw = np.random.default_rng(0)
    first, second = draw.random(2000), draw.random(2000)
    gain, low, high = compute_mean_gain(torch.from_numpy(first), torch.from_numpy(second))
    interval = scipy.stats.ttest_rel(first, second).confidence_interval()
    assert gain == pytest.approx(100 * (first - second).mean())
    assert (low, high) == pytest.approx((100 * interval.low, 100 * interval.high), abs=0.01)
