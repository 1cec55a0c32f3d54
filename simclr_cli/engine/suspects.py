"""Which labels are likely wrong: by what a probe says of pictures that it was not fitted on."""

from __future__ import annotations

import torch
from torch import Tensor


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
