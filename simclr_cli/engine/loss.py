"""NT-Xent, the normalised temperature-scaled cross entropy (section 2.1, equation 1, Algorithm 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """NT-Xent over 2N views: a view's positive is its picture's other view, the other 2N - 2 are negatives.

    Args:
        z: (2N, D) projections of any scale; row i and row i + N are the two views of picture i.
        temperature: tau > 0.

    Returns:
        Scalar: the mean over all 2N views of -log softmax of the positive. The paper's code sums the means of the
        two halves, which is twice this (and twice Algorithm 1's own 1/2N). log(2N - 1) when all z are equal.
    """
    views = z.shape[0]
    if views % 2 or views < 4:
        raise ValueError(f"nt_xent needs the two views of at least 2 pictures, got {tuple(z.shape)}")
    z = z if z.dtype == torch.float64 else z.float()  # half precision is not enough for sums of exp(1 / tau)
    z = F.normalize(z, dim=1)
    similarity = z @ z.T / temperature  # (2N, 2N), cosine / tau
    similarity = similarity.masked_fill(torch.eye(views, dtype=torch.bool, device=z.device), -torch.inf)
    positive = torch.arange(views, device=z.device).roll(views // 2)
    return F.cross_entropy(similarity, positive)  # by log-sum-exp: finite at any tau
