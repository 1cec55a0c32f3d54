"""Metrics: accuracy with its interval; alignment, uniformity, effective rank and view retrieval accuracy.

They take tensors on any device. Some, as Apple's GPUs, have no float64: what needs it is copied to the CPU first.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from simclr_cli.api import Accuracy
from simclr_cli.core.seeds import Purpose, create_numpy_generator

BOOTSTRAP_SAMPLES = 20_000
INTERVAL_PERCENTILES = (2.5, 97.5)


def compute_accuracy(scores: Tensor, labels: Tensor, seed: int = 0) -> Accuracy:
    """Compute top-1 with its bootstrap interval, top-5, and balanced accuracy.

    Args:
        scores: (M, classes), of any scale; the largest is the predicted class.
        labels: (M,) true classes. Balanced accuracy is the mean over the classes that occur.
    """
    classes = scores.shape[1]
    is_correct = scores.argmax(dim=1) == labels
    low, high = bootstrap_interval(is_correct.long(), seed)
    counts = torch.bincount(labels, minlength=classes)
    correct_counts = torch.bincount(labels[is_correct], minlength=classes)
    occurs = counts > 0
    return Accuracy(
        top_1=compute_percentage(is_correct),
        low=low,
        high=high,
        balanced=100 * float((correct_counts[occurs] / counts[occurs]).cpu().double().mean()),
        top_5=compute_percentage((scores.topk(5).indices == labels[:, None]).any(dim=1)) if classes > 5 else None,
    )


def compute_gain(first: Tensor, second: Tensor, seed: int = 0) -> tuple[float, float, float]:
    """Compute the gain in accuracy over another representation on the same images, in points.

    Args:
        first, second: (M,) bool, True for images that each classified correctly.

    Returns:
        The gain, and the low and high end of its paired bootstrap interval.
    """
    difference = first.long() - second.long()
    return (compute_percentage(difference), *bootstrap_interval(difference, seed))


def compute_mean_gain(first: Tensor, second: Tensor) -> tuple[float, float, float]:
    """Compute the gain in a mean over another representation on the same images, in points.

    Args:
        first, second: (M,) a share of each image, 0 to 1.

    Returns:
        The gain, and the low and high end of its paired 95 % interval, by the normal distribution.
    """
    difference = 100 * (first.cpu().double() - second.cpu().double())
    mean, half = float(difference.mean()), 1.96 * float(difference.std() / len(difference) ** 0.5)
    return mean, mean - half, mean + half


def bootstrap_interval(outcomes: Tensor, seed: int) -> tuple[float, float]:
    """Compute the 95 % percentile bootstrap interval of the mean, in percent.

    A bootstrap sample of outcomes in -1, 0, 1 is a draw from the multinomial of their shares, so no images need to be
    resampled.

    Args:
        outcomes: (M,) integers in -1, 0, 1.
    """
    count = len(outcomes)
    shares = [float((outcomes == value).cpu().double().mean()) for value in (-1, 0, 1)]
    samples = create_numpy_generator(seed, Purpose.BOOTSTRAP).multinomial(count, shares, size=BOOTSTRAP_SAMPLES)
    low, high = np.percentile(100 * (samples[:, 2] - samples[:, 0]) / count, INTERVAL_PERCENTILES)
    return float(low), float(high)


def compute_percentage(outcomes: Tensor) -> float:
    """Compute the percentage of True in outcomes, or 100 times the mean of integers, of any shape."""
    return 100 * float(outcomes.cpu().double().mean())


def alignment(z_a: Tensor, z_b: Tensor) -> float:
    """Compute the mean squared distance of the views of an image (Wang & Isola 2020, 2005.10242, sec. 4.1, alpha = 2).

    Args:
        z_a, z_b: (N, D), normalized; row i of both is of image i.

    Returns:
        0 to 4; lower is better.
    """
    return float((z_a - z_b).square().sum(dim=1).mean())


def uniformity(z: Tensor) -> float:
    """Compute log mean exp(-2 |z_i - z_j|^2) over pairs of different images (the same paper, sec. 4.1, t = 2).

    Args:
        z: (N, D), normalized, one view of each of N > 1 images.

    Returns:
        -8 to 0; lower is better, 0 if all z are equal.
    """
    distance = torch.pdist(z.cpu().double()).square()
    return float(torch.exp(-2 * distance).mean().log())


def effective_rank(rows: Tensor) -> float:
    """Compute RankMe: exp of the entropy of the singular values' shares (Garrido et al. 2023, 2210.02885, eq. 3).

    Args:
        rows: (M, D), not normalized.

    Returns:
        1 to min(M, D), the number of dimensions in which the rows vary.
    """
    values = torch.linalg.svdvals(rows.cpu().double())
    shares = values / values.sum().clamp(min=1e-300) + 1e-7  # the paper's epsilon
    return float((-(shares * shares.log()).sum()).exp())


def view_retrieval_accuracy(h_a: Tensor, h_b: Tensor) -> float:
    """Compute the percentage of 2N views whose nearest of the 2N - 1 others is of the same image.

    Args:
        h_a, h_b: (N, D), normalized; row i of both is of image i.
    """
    return compute_percentage(retrieve_views(h_a, h_b))


def retrieve_views(h_a: Tensor, h_b: Tensor) -> Tensor:
    """Return (2N,) bool: whether the nearest other view of each, first views first, is of the same image."""
    views, count = torch.cat([h_a, h_b]), len(h_a)
    similarity = (views @ views.T).fill_diagonal_(-torch.inf)
    other_view = torch.arange(2 * count, device=views.device).roll(count)
    return similarity.argmax(dim=1) == other_view


def chance_of_retrieval(count: int) -> float:
    """Return the view retrieval accuracy of chance on N images, in percent."""
    return 100 / (2 * count - 1)


def mean_similarities(z_a: Tensor, z_b: Tensor) -> tuple[float, float]:
    """Compute the mean cosine of the two views of an image, and of views of different images.

    Args:
        z_a, z_b: (N, D), normalized; N > 1.
    """
    count = len(z_a)
    cosine = z_a @ z_b.T
    positive = float(cosine.diagonal().mean())
    return positive, float((cosine.sum() - cosine.diagonal().sum()) / (count * (count - 1)))


def normalize_views(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Split (2N, D) into first and second views, each in float32 with rows of length 1."""
    first, second = F.normalize(rows.float(), dim=1).chunk(2)
    return first, second
