"""How well frozen representations tell classes apart: weighted nearest neighbors and the linear probe.

And which labels are likely wrong, by what a probe says of images that it was not fitted on.
"""

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

# Transfer protocol (appendix B.8.1): 45 values, log-spaced, chosen on a validation split.
L2_VALUES = tuple(10.0 ** (-6 + 11 * i / 44) for i in range(45))
# Once so many weaker ones have done worse than the best, the rest are not tried: they are slow to fit, and overfit the
# more.
L2_PATIENCE = 10
L2_UNCHOSEN = 1.0  # where there are too few labels to choose one: scikit-learn's default
STEPS, SEARCH_STEPS = 100, 50  # of L-BFGS; to choose l2 each fit goes on from the one before
TOLERANCE = 1e-6  # of the largest entry of the gradient, over the rows
CHUNK = 1024  # test rows compared at once


def knn_votes(
    train: Tensor, labels: Tensor, test: Tensor, *, neighbors: Sequence[int], temperature: float, classes: int
) -> list[Tensor]:
    """The votes of the k nearest rows by cosine, each with the weight exp(similarity / temperature).

    The weighting is that of Wu et al. 2018 (1805.01978, section 3.4). k is at most the number of train rows.

    Args:
        train: (N, D); labels: (N,) int64 in 0..classes-1; test: (M, D). Of any scale.
        neighbors: values of k.

    Returns:
        For each k (M, classes) float32 votes, of any scale; the largest is the class predicted.
    """
    train, test = F.normalize(train.float(), dim=1), F.normalize(test.float(), dim=1)
    most = min(max(neighbors), len(train))
    votes = [torch.zeros(len(test), classes, device=test.device) for _ in neighbors]
    for start in range(0, len(test), CHUNK):
        rows = slice(start, start + CHUNK)
        similarity, nearest = (test[rows] @ train.T).topk(most, dim=1)  # (m, most), nearest first
        weight = torch.exp((similarity - 1) / temperature)  # - 1: no overflow, and the same winner
        voted = labels[nearest]
        for k, counted in zip(neighbors, votes, strict=True):
            counted[rows].scatter_add_(1, voted[:, :k], weight[:, :k])
    return votes


@dataclass(frozen=True)
class LinearProbe:
    """Multinomial logistic regression on standardized columns."""

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
    """Fit multinomial logistic regression; l2 is chosen on a validation split, then all train rows are fitted.

    Columns are standardized by the train rows' statistics first (not in the paper: without it the raw scale of h,
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
    return LinearProbe(mean, std, fit_logistic(regression(STEPS), x, labels, l2=l2, classes=classes), l2)


def choose_l2(x: Tensor, labels: Tensor, validation: Tensor, classes: int) -> float:
    """Choose the l2 that does best on the validation rows, the strongest of equals; as in fit_probe."""
    fitting = ~validation
    best_l2: float = L2_VALUES[-1]
    best_accuracy, in_vain = -math.inf, 0
    model = regression(SEARCH_STEPS)
    for l2 in reversed(L2_VALUES):  # from the strongest: each fit is a good start for the next
        weights = fit_logistic(model, x[fitting], labels[fitting], l2=l2, classes=classes)
        predicted = _scores(weights, x[validation]).argmax(dim=1)
        accuracy = float((predicted == labels[validation]).float().mean())
        if accuracy > best_accuracy:
            best_l2, best_accuracy, in_vain = l2, accuracy, 0
        elif accuracy < best_accuracy:  # a tie is no failure: the strongest ones all predict the largest class
            in_vain += 1
        if in_vain == L2_PATIENCE:
            break
    return best_l2


def regression(steps: int) -> LogisticRegression:
    """Return what is fitted, by L-BFGS; each fit begins where the last one ended."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(tol=TOLERANCE, max_iter=steps, warm_start=True)


def fit_logistic(model: LogisticRegression, x: Tensor, labels: Tensor, *, l2: float, classes: int) -> Tensor:
    """Minimize sum of cross entropies + l2 / 2 |W|^2 (the intercept is free).

    Args:
        model: as `regression` gives it.
        x: (N, D); labels: (N,) int64.

    Returns:
        (classes, D + 1) weights with the intercept in the last column.
    """
    absent = torch.arange(max(classes, 2))
    absent = absent[~torch.isin(absent, labels)]  # of each a row that weighs nothing, so that it has weights too
    rows = torch.cat([x, x.new_zeros(len(absent), x.shape[1])]).numpy()
    weight = np.repeat([1.0, 0.0], [len(x), len(absent)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "lbfgs failed to converge")  # as many steps as wanted
        model.set_params(C=(1 if classes > 2 else 2) / l2)
        model.fit(rows, torch.cat([labels, absent]).numpy(), weight)
    weights = np.column_stack([model.coef_, model.intercept_])
    if classes <= 2:  # scikit-learn has weights for the second class only, those of the first being 0
        weights = np.concatenate([-weights, weights])[:classes] / 2
    return torch.from_numpy(np.ascontiguousarray(weights, np.float32))


def _scores(weights: Tensor, x: Tensor) -> Tensor:
    return F.linear(x, weights[:, :-1], weights[:, -1])


def suspects(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Rows whose label is likely wrong, the most suspect first: confident learning (Northcutt et al., 1911.00068).

    A row is one if some other class has at least the probability that this class has, on average, for its own rows
    (section 3.1: its threshold), and more than the row's label has. Most suspect is where the label's probability is
    furthest below that of the likeliest such class (normalized margin).

    Args:
        probabilities: (N, classes), out of fold; labels: (N,) int64.

    Returns:
        (K,) int64 row numbers.
    """
    classes = probabilities.shape[1]
    own = probabilities.gather(1, labels[:, None]).squeeze(1)  # (N,)
    counts = torch.bincount(labels, minlength=classes)
    threshold = torch.zeros(classes, device=own.device).index_add_(0, labels, own) / counts.clamp(min=1)
    threshold[counts == 0] = 2.0  # of a class without rows none is known
    others = probabilities.scatter(1, labels[:, None], -1.0).masked_fill(probabilities < threshold, -1.0)
    best = others.max(dim=1).values
    found = (best > own).nonzero().squeeze(1)
    return found[(own - best)[found].argsort(stable=True)]
