"""Which labels are likely wrong: by what a probe says of pictures that it was not fitted on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

FOLDS = 5


def out_of_fold(h: Tensor, labels: Tensor, folds: Tensor, fit: Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]
                ) -> Tensor:  # fmt: skip
    """Probabilities of each row's classes by a probe that was fitted without its fold.

    Args:
        h: (N, D); labels: (N,) int64; folds: (N,) int64, which fold a row is in.
        fit: from rows and labels to a function that gives logits (M, classes).

    Returns:
        (N, classes).
    """
    parts = []
    for fold in torch.unique(folds):
        out = folds == fold
        parts.append((out, fit(h[~out], labels[~out])(h[out]).softmax(dim=1)))
    probabilities = torch.zeros(len(h), parts[0][1].shape[1], device=h.device)
    for out, found in parts:
        probabilities[out] = found
    return probabilities


def suspects(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Rows whose label is likely wrong, the most suspect first: confident learning (Northcutt et al., 1911.00068).

    A row is one if some other class has at least the probability that this class has, on average, for its own rows
    (section 3.1: its threshold), and more than the row's label has. Most suspect is where the label's probability is
    furthest below that of the likeliest such class (normalised margin).

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
