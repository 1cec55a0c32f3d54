"""How well frozen representations tell classes apart: weighted nearest neighbours and the linear probe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Transfer protocol (appendix B.8.1): 45 values, log-spaced, chosen on a validation split.
L2_VALUES = tuple(10.0 ** (-6 + 11 * i / 44) for i in range(45))
# Once so many weaker ones have done worse than the best, the rest are not tried: they are slow to fit, and overfit the
# more.
L2_PATIENCE = 10
L2_UNCHOSEN = 1.0  # where there are too few labels to choose one: scikit-learn's default
STEPS, SEARCH_STEPS = 100, 50  # of L-BFGS; to choose l2 each fit goes on from the one before
CHUNK = 1024  # test rows compared at once


def knn_votes(
    train: Tensor, labels: Tensor, test: Tensor, *, neighbours: Sequence[int], temperature: float, classes: int
) -> list[Tensor]:
    """The votes of the k nearest rows by cosine, each with the weight exp(similarity / temperature).

    The weighting is that of Wu et al. 2018 (1805.01978, section 3.4). k is at most the number of train rows.

    Args:
        train: (N, D); labels: (N,) int64 in 0..classes-1; test: (M, D). Of any scale.
        neighbours: values of k.

    Returns:
        For each k (M, classes) float32 votes, of any scale; the largest is the class predicted.
    """
    train, test = F.normalize(train.float(), dim=1), F.normalize(test.float(), dim=1)
    most = min(max(neighbours), len(train))
    votes = [torch.zeros(len(test), classes, device=test.device) for _ in neighbours]
    for start in range(0, len(test), CHUNK):
        rows = slice(start, start + CHUNK)
        similarity, nearest = (test[rows] @ train.T).topk(most, dim=1)  # (m, most), nearest first
        weight = torch.exp((similarity - 1) / temperature)  # - 1: no overflow, and the same winner
        voted = labels[nearest]
        for k, counted in zip(neighbours, votes, strict=True):
            counted[rows].scatter_add_(1, voted[:, :k], weight[:, :k])
    return votes


@dataclass(frozen=True)
class LinearProbe:
    """Multinomial logistic regression on standardised columns."""

    mean: Tensor  # (D,)
    std: Tensor  # (D,)
    weights: Tensor  # (classes, D + 1), the intercept in the last column
    l2: float

    def scores(self, x: Tensor) -> Tensor:
        """(M, D) -> (M, classes) logits."""
        return _scores(self.weights, (x - self.mean) / self.std)


def fit_probe(
    train: Tensor, labels: Tensor, *, classes: int, validation: Tensor | None = None, l2: float | None = None
) -> LinearProbe:
    """Multinomial logistic regression by L-BFGS; l2 chosen on a validation split, then refitted on all train rows.

    Columns are standardised by the train rows' statistics first (not in the paper: without it the raw scale of h,
    which differs between encoders, would decide which l2 values are sensible).

    Args:
        train: (N, D) h; labels: (N,) int64.
        validation: (N,) bool, the train rows that choose l2, if it is not given; where there are none, it is
            L2_UNCHOSEN.
    """
    mean, std = train.mean(dim=0), train.std(dim=0, correction=min(1, len(train) - 1)).clamp(min=1e-6)
    x = (train - mean) / std
    if l2 is None and validation is not None and validation.any():
        l2 = choose_l2(x, labels, validation, classes)
    l2 = L2_UNCHOSEN if l2 is None else l2
    nothing = torch.zeros(classes, x.shape[1] + 1, device=x.device)
    return LinearProbe(mean, std, fit_logistic(x, labels, l2=l2, start=nothing), l2)


def choose_l2(x: Tensor, labels: Tensor, validation: Tensor, classes: int) -> float:
    """The l2 that does best on the validation rows, the strongest of equals; as in fit_probe."""
    fitting = ~validation
    best_l2: float = L2_VALUES[-1]
    best_accuracy, in_vain = -math.inf, 0
    weights = torch.zeros(classes, x.shape[1] + 1, device=x.device)
    for l2 in reversed(L2_VALUES):  # from the strongest: each fit is a good start for the next
        weights = fit_logistic(x[fitting], labels[fitting], l2=l2, start=weights, steps=SEARCH_STEPS)
        predicted = _scores(weights, x[validation]).argmax(dim=1)
        accuracy = float((predicted == labels[validation]).float().mean())
        if accuracy > best_accuracy:
            best_l2, best_accuracy, in_vain = l2, accuracy, 0
        elif accuracy < best_accuracy:  # a tie is no failure: the strongest ones all predict the largest class
            in_vain += 1
        if in_vain == L2_PATIENCE:
            break
    return best_l2


def fit_logistic(x: Tensor, labels: Tensor, *, l2: float, start: Tensor, steps: int = STEPS) -> Tensor:
    """Minimise sum of cross entropies + l2 / 2 |W|^2 (the intercept is free) by L-BFGS.

    Args:
        x: (N, D); labels: (N,) int64; start: (C, D + 1) weights with the intercept in the last column.

    Returns:
        (C, D + 1) weights.
    """
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = 0.5 * l2 * weights[:, :-1].square().sum() / len(x)
        loss = F.cross_entropy(_scores(weights, x), labels) + penalty
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call, unused-ignore]
    return weights.detach()


def _scores(weights: Tensor, x: Tensor) -> Tensor:
    return F.linear(x, weights[:, :-1], weights[:, -1])
