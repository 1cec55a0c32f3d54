"""Probes of frozen embeddings: weighted nearest neighbors, and the linear probe."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

L2_VALUES = tuple(10.0 ** (-6 + 11 * i / 44) for i in range(45))  # 45, log-spaced (appendix B.8.1)
L2_PATIENCE = 10  # weaker values below the best accuracy, before the search ends: the rest fit slowly and overfit
FEW_ROWS, COARSE_STEP = 50, 4  # validation rows below which the search takes every fourth value: accuracy is as coarse
DEFAULT_L2 = 1.0  # scikit-learn's, without a validation split
FIT_STEPS, SEARCH_STEPS = 100, 50  # of L-BFGS; in the search, each fit continues from the last one
TOLERANCE = 1e-6  # of the largest entry of the gradient, divided by the number of rows
CHUNK_ROWS = 1024  # test rows compared at a time


def knn_votes(
    train: Tensor, labels: Tensor, test: Tensor, *, neighbors: Sequence[int], temperature: float, classes: int
) -> list[Tensor]:
    """Count the votes of the k nearest rows by cosine, each with the weight exp(similarity / temperature).

    The weights are those of Wu et al. 2018 (1805.01978, section 3.4). k is at most the number of train rows.

    Args:
        train: (N, D); labels: (N,) int64 in 0..classes-1; test: (M, D). Of any scale.
        neighbors: values of k.

    Returns:
        For each k, (M, classes) float32 votes of any scale; the largest is the predicted class.
    """
    train, test = F.normalize(train.float(), dim=1), F.normalize(test.float(), dim=1)
    max_neighbors = min(max(neighbors), len(train))
    votes = [torch.zeros(len(test), classes, device=test.device) for _ in neighbors]
    for start in range(0, len(test), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        similarity, nearest = (test[rows] @ train.T).topk(max_neighbors, dim=1)  # (m, max_neighbors), nearest first
        weight = torch.exp((similarity - 1) / temperature)  # - 1: no overflow, same result
        classes_voted = labels[nearest]
        for k, total in zip(neighbors, votes, strict=True):
            total[rows].scatter_add_(1, classes_voted[:, :k], weight[:, :k])
    return votes


@dataclass(frozen=True)
class LinearProbe:
    """Multinomial logistic regression on standardized columns."""

    mean: Tensor  # (D,)
    std: Tensor  # (D,)
    weights: Tensor  # (classes, D + 1), the intercept in the last column
    l2: float

    def compute_logits(self, x: Tensor) -> Tensor:
        """Compute (M, classes) logits of x (M, D)."""
        return _compute_logits(self.weights, (x - self.mean) / self.std)


def fit_probe(
    train: Tensor, labels: Tensor, *, classes: int, validation: Tensor | None = None, l2: float | None = None
) -> LinearProbe:
    """Fit multinomial logistic regression to all train rows, with an l2 chosen on a validation split.

    Columns are first standardized by the statistics of the train rows. This is not in the paper: without it, the
    useful values of l2 would depend on the scale of h, which differs between encoders.

    Args:
        train: (N, D) h; labels: (N,) int64.
        validation: (N,) bool, train rows that choose l2 unless it is set; without such rows, it is DEFAULT_L2.
    """
    mean, std = train.mean(dim=0), train.std(dim=0, correction=min(1, len(train) - 1)).clamp(min=1e-6)
    x = (train - mean) / std
    if l2 is None and validation is not None and validation.any():
        l2 = choose_l2(x, labels, validation, classes)
    l2 = DEFAULT_L2 if l2 is None else l2
    return LinearProbe(mean, std, fit_logistic(create_regression(FIT_STEPS), x, labels, l2=l2, classes=classes), l2)


def choose_l2(x: Tensor, labels: Tensor, validation: Tensor, classes: int) -> float:
    """Choose the l2 with the best validation accuracy, of equal ones the strongest; arguments as in fit_probe."""
    train = ~validation
    best_l2: float = L2_VALUES[-1]
    best_accuracy, worse_fits = -math.inf, 0
    model = create_regression(SEARCH_STEPS)
    values = L2_VALUES[::-1] if int(validation.sum()) >= FEW_ROWS else L2_VALUES[::-COARSE_STEP]
    for l2 in values:  # from the strongest: each fit is a good start of the next
        weights = fit_logistic(model, x[train], labels[train], l2=l2, classes=classes)
        predicted = _compute_logits(weights, x[validation]).argmax(dim=1)
        accuracy = float((predicted == labels[validation]).float().mean())
        if accuracy > best_accuracy:
            best_l2, best_accuracy, worse_fits = l2, accuracy, 0
        elif accuracy < best_accuracy:  # ties do not count: the strongest values all predict the largest class
            worse_fits += 1
        if worse_fits == L2_PATIENCE or best_accuracy == 1:
            break
    return best_l2


def create_regression(steps: int) -> LogisticRegression:
    """Create a logistic regression by L-BFGS whose fits each continue from the last one."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(tol=TOLERANCE, max_iter=steps, warm_start=True)


def fit_logistic(model: LogisticRegression, x: Tensor, labels: Tensor, *, l2: float, classes: int) -> Tensor:
    """Minimize sum of cross entropies + l2 / 2 |W|^2 (the intercept is free).

    Args:
        model: from `create_regression`.
        x: (N, D); labels: (N,) int64.

    Returns:
        (classes, D + 1) weights with the intercept in the last column.
    """
    absent = torch.arange(max(classes, 2))
    absent = absent[~torch.isin(absent, labels)]  # one row of sample weight 0 each, so that they have weights
    rows = torch.cat([x, x.new_zeros(len(absent), x.shape[1])]).numpy()
    sample_weight = np.repeat([1.0, 0.0], [len(x), len(absent)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "lbfgs failed to converge")  # the number of steps is limited on purpose
        model.set_params(C=(1 if classes > 2 else 2) / l2)
        model.fit(rows, torch.cat([labels, absent]).numpy(), sample_weight)
    weights = np.column_stack([model.coef_, model.intercept_])
    if classes <= 2:  # scikit-learn has weights of the second class only; those of the first are 0
        weights = np.concatenate([-weights, weights])[:classes] / 2
    return torch.from_numpy(np.ascontiguousarray(weights, np.float32))


def _compute_logits(weights: Tensor, x: Tensor) -> Tensor:
    return F.linear(x, weights[:, :-1], weights[:, -1])
