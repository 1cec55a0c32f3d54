"""How many were told right: accuracies, and what chance would make of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from simclr_cli.api import Accuracy
from simclr_cli.core.seeds import Purpose, numpy_generator

DRAWS = 20_000  # bootstrap samples
INTERVAL = (2.5, 97.5)  # percentiles


def accuracy_of(scores: Tensor, labels: Tensor, seed: int = 0) -> Accuracy:
    """Top-1 with its bootstrap interval, top-5, and balanced accuracy.

    Args:
        scores: (M, classes), of any scale; the largest is the class predicted.
        labels: (M,) the true ones. Balanced accuracy is the mean over those that occur.
    """
    classes = scores.shape[1]
    right = scores.argmax(dim=1) == labels
    low, high = interval(right.long(), seed)
    of_class = torch.bincount(labels, minlength=classes)
    told = torch.bincount(labels[right], minlength=classes)
    occurs = of_class > 0
    return Accuracy(
        top_1=percent(right),
        low=low,
        high=high,
        balanced=100 * float((told[occurs] / of_class[occurs]).double().mean()),
        top_5=percent((scores.topk(5).indices == labels[:, None]).any(dim=1)) if classes > 5 else None,
    )


def gain_of(first: Tensor, second: Tensor, seed: int = 0) -> tuple[float, float, float]:
    """Points by which one representation is above another on the same pictures, and its paired bootstrap interval.

    Args:
        first, second: (M,) bool, which pictures each told right.
    """
    difference = first.long() - second.long()
    return (100 * float(difference.double().mean()), *interval(difference, seed))


def interval(outcomes: Tensor, seed: int) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean, in percent.

    A bootstrap sample of outcomes that are -1, 0 or 1 is a draw from a multinomial of their shares, so that no
    resampling of pictures is needed.

    Args:
        outcomes: (M,) integers in -1, 0, 1.
    """
    count = len(outcomes)
    shares = [float((outcomes == value).double().mean()) for value in (-1, 0, 1)]
    drawn = numpy_generator(seed, Purpose.BOOTSTRAP).multinomial(count, shares, size=DRAWS)
    low, high = np.percentile(100 * (drawn[:, 2] - drawn[:, 0]) / count, INTERVAL)
    return float(low), float(high)


def percent(right: Tensor) -> float:
    """The share of what is true, in percent."""
    return 100 * float(right.double().mean())
