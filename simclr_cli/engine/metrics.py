"""Metrics: accuracy and its interval; alignment, uniformity, effective rank and view retrieval."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
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
    """Points by which one representation is above another on the same images, and its paired bootstrap interval.

    Args:
        first, second: (M,) bool, which images each told right.
    """
    difference = first.long() - second.long()
    return (100 * float(difference.double().mean()), *interval(difference, seed))


def interval(outcomes: Tensor, seed: int) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean, in percent.

    A bootstrap sample of outcomes that are -1, 0 or 1 is a draw from a multinomial of their shares, so that no
    resampling of images is needed.

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


def alignment(z_a: Tensor, z_b: Tensor) -> float:
    """Mean squared distance of the two views of an image (Wang & Isola 2020, 2005.10242, section 4.1, alpha = 2).

    Args:
        z_a, z_b: (N, D), normalized; row i of both is of image i.

    Returns:
        0 to 4; small is good.
    """
    return float((z_a - z_b).square().sum(dim=1).mean())


def uniformity(z: Tensor) -> float:
    """Log of the mean of exp(-2 |z_i - z_j|^2) over pairs of different images (the same, section 4.1, t = 2).

    Args:
        z: (N, D), normalized, one view of each of N > 1 images.

    Returns:
        -8 to 0; small is good, 0 where all are in one place.
    """
    distance = torch.pdist(z.double().cpu()).square()
    return float(torch.exp(-2 * distance).mean().log())


def effective_rank(rows: Tensor) -> float:
    """exp of the entropy of the singular values' shares: RankMe (Garrido et al. 2023, 2210.02885, equation 3).

    Args:
        rows: (M, D) representations as they are.

    Returns:
        1 to min(M, D): in how many dimensions they spread.
    """
    values = torch.linalg.svdvals(rows.double())
    shares = values / values.sum().clamp(min=1e-300) + 1e-7  # the paper's epsilon
    return float((-(shares * shares.log()).sum()).exp())


def found_other_view(h_a: Tensor, h_b: Tensor) -> float:
    """Percent of 2N views whose nearest other view, of all 2N - 1, is that of the same image.

    Args:
        h_a, h_b: (N, D), normalized; row i of both is of image i.
    """
    views, count = torch.cat([h_a, h_b]), len(h_a)
    similarity = (views @ views.T).fill_diagonal_(-torch.inf)
    partner = torch.arange(2 * count, device=views.device).roll(count)
    return 100 * float((similarity.argmax(dim=1) == partner).double().mean())


def similarities(z_a: Tensor, z_b: Tensor) -> tuple[float, float]:
    """Mean cosine of the two views of an image, and of the views of different images.

    Args:
        z_a, z_b: (N, D), normalized; N > 1.
    """
    count = len(z_a)
    cosine = z_a @ z_b.T
    positive = float(cosine.diagonal().mean())
    return positive, float((cosine.sum() - cosine.diagonal().sum()) / (count * (count - 1)))


def normalized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(2N, D) of first views, then second views -> each half in float32 and of length 1."""
    first, second = F.normalize(rows.float(), dim=1).chunk(2)
    return first, second
