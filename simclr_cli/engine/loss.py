"""NT-Xent, the normalised temperature-scaled cross entropy (section 2.1, equation 1, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Similarities held at a time, all of them or a block of rows: what a CPU's caches can follow, what keeps a GPU busy.
AT_ONCE_CPU, AT_ONCE_GPU = 2**22, 2**27  # 16 MiB (N = 1,024), 512 MiB (N = 5,792)


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """NT-Xent over 2N views: a view's positive is its picture's other view, the other 2N - 2 are negatives.

    Small batches by the (2N, 2N) similarities as they are written in the paper; large ones in blocks of rows, which
    gives the same loss and gradient in memory that grows with N, not with its square.

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
    at_once = AT_ONCE_CPU if z.device.type == "cpu" else AT_ONCE_GPU
    if views**2 <= at_once:
        return plain_nt_xent(z, temperature)
    return cast(Tensor, BlockwiseNTXent.apply(z, temperature, max(1, at_once // views)))


def plain_nt_xent(z: Tensor, temperature: float) -> Tensor:
    """NT-Xent of (2N, D) rows of length 1, all similarities at once."""
    views = z.shape[0]
    similarity = z @ z.T / temperature  # (2N, 2N), cosine / tau
    similarity = similarity.masked_fill(torch.eye(views, dtype=torch.bool, device=z.device), -torch.inf)
    positive = torch.arange(views, device=z.device).roll(views // 2)
    return F.cross_entropy(similarity, positive)  # by log-sum-exp: finite at any tau


class BlockwiseNTXent(torch.autograd.Function):
    """NT-Xent of (2N, D) rows of length 1, a block of rows of the similarities at a time, and those again in backward.

    With s_ij = z_i . z_j / tau, p(i) the positive of i, and l_i = log sum_{j != i} exp(s_ij - s_ip(i)), the loss is
    mean_i l_i. As s is symmetric, its gradient is 1 / (2N tau) (sum_j (w_ij + w_ji) z_j - 2 z_p(i)) with
    w_ij = exp(s_ij - s_ip(i) - l_i), and one row of similarities gives one row of it. The positive's similarity is
    taken off first, and not in a sum with l_i: at a small tau both are large, and their difference is what counts.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, temperature: float, rows: int) -> Tensor:
        """rows: how many of the 2N rows a block has."""
        ctx.temperature, ctx.rows = temperature, rows
        positives = (z * z.roll(len(z) // 2, dims=0)).sum(dim=1) / temperature
        losses = [
            block.sub_(positives[part, None]).logsumexp(dim=1)
            for part, block in _blocks(z, positives, temperature, rows)
        ]
        ctx.save_for_backward(z, positives, torch.cat(losses))
        return torch.cat(losses).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        z, positives, losses = ctx.saved_tensors
        out = -2 * z.roll(len(z) // 2, dims=0)
        for part, block in _blocks(z, positives, ctx.temperature, ctx.rows):
            weights = (block - positives[part, None]).sub_(losses[part, None]).exp_()
            weights.add_(block.sub_(positives).sub_(losses).exp_())
            out[part] += weights @ z
        return out * (gradient / (len(z) * ctx.temperature)), None, None


def _blocks(z: Tensor, positives: Tensor, temperature: float, rows: int) -> Iterator[tuple[slice, Tensor]]:
    """(which rows, their (rows, 2N) cosines / tau with -inf for a view's own), one block after the other.

    The positives' are those given, to the last bit, so that they cancel where they are taken off.
    """
    for start in range(0, len(z), rows):
        part = slice(start, min(start + rows, len(z)))
        block = (z[part] / temperature) @ z.T
        block.diagonal(offset=start).fill_(-torch.inf)
        places = torch.arange(start, part.stop, device=z.device).add_(len(z) // 2).remainder_(len(z))
        yield part, block.scatter_(1, places[:, None], positives[part, None])
