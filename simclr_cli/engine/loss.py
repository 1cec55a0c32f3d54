"""NT-Xent, the normalized temperature-scaled cross entropy (section 2.1, equation 1, Algorithm 1), and its kin.

All of them are, for a view i with the positives P(i) and the denominator D(i),

    l_i = log sum_{j in D(i)} exp(s_ij) - mean_{p in P(i)} s_ip,    s_ij = z_i . z_j / (|z_i| |z_j| tau)

and differ in what P and D are. The loss is the mean of l_i over all 2N views.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from simclr_cli.api import Loss
from simclr_cli.core.distributed import Ranks
from simclr_cli.engine.image_ops import upload

# Similarities held at a time, all of them or a block of rows: what a CPU's caches can follow, what keeps a GPU busy.
AT_ONCE_CPU, AT_ONCE_GPU = 2**22, 2**27  # 16 MiB (N = 1,024), 512 MiB (N = 5,792)


def contrastive_loss(
    z: Tensor, temperature: float, kind: Loss = "nt-xent", groups: Tensor | None = None, ranks: Ranks | None = None
) -> Tensor:
    """NT-Xent or one of its kin, over 2N views.

    nt-xent  P(i) is the image's other view, D(i) all views but i itself (equation 1).
    dcl      P(i) the same, D(i) without it: decoupled contrastive learning (Yeh et al., arXiv 2110.06848, equation 6,
             its L_DC with a mean for the sum). A view without any negative counts 0.
    supcon   P(i) all other views of i's class, D(i) all views but i: supervised contrastive learning (Khosla et al.,
             arXiv 2004.11362, equation 2, its L_out with a mean for the sum).

    Small batches by the (2N, 2N) similarities as they are written in the paper; large ones in blocks of rows, which
    gives the same loss and gradient in memory that grows with N, not with its square.

    Args:
        z: (2N, D) projections of any scale; row i and row i + N are the two views of image i.
        temperature: tau > 0.
        groups: (N,) integers on the CPU. For supcon the images' classes. For the others images of one
            group are not one another's negatives: they are left out of D (but the positive of nt-xent is not).
        ranks: if there are several processes, all of which have the same z: each computes a part of the rows of
            similarities, and gets the whole loss and the whole gradient.

    Returns:
        Scalar: the mean over all 2N views. The paper's code sums the means of the two halves, which is twice this
        (and twice Algorithm 1's own 1/2N). NT-Xent is log(2N - 1) when all z are equal.
    """
    views = z.shape[0]
    if views % 2 or views < 4:
        raise ValueError(f"the loss needs the two views of at least 2 images, got {tuple(z.shape)}")
    z = z if z.dtype == torch.float64 else z.float()  # half precision is not enough for sums of exp(1 / tau)
    z = F.normalize(z, dim=1)
    if kind == "supcon" and groups is None:
        raise ValueError("supcon needs the images' classes")
    pairs = Pairs.of(kind, groups, z.device)
    at_once = AT_ONCE_CPU if z.device.type == "cpu" else AT_ONCE_GPU
    ranks = ranks or Ranks()
    if views**2 <= at_once and ranks.alone:
        return plain_loss(z, temperature, pairs)
    return cast(Tensor, BlockwiseLoss.apply(z, temperature, pairs, max(1, at_once // views), ranks))


@dataclass(frozen=True)
class Pairs:
    """Which views are one another's positives, and which are in the denominator."""

    kind: Loss = "nt-xent"
    ids: Tensor | None = None  # (2N,) each view's group, from 0; None: each image is one
    sizes: Tensor | None = None  # (2N,) how many views its group has

    @staticmethod
    def of(kind: Loss, groups: Tensor | None, device: torch.device) -> Pairs:
        """groups: (N,) any integers, on the CPU."""
        if groups is None:
            return Pairs(kind)
        _, ids, sizes = torch.unique(groups.repeat(2), return_inverse=True, return_counts=True)
        return Pairs(kind, upload(ids, device), upload(sizes[ids], device))

    def targets(self, z: Tensor) -> Tensor:
        """(2N, D): the mean of each view's positives; 0 where the view does not count."""
        views = len(z)
        if self.kind == "supcon":
            assert self.ids is not None and self.sizes is not None
            sums = torch.zeros_like(z).index_add_(0, self.ids, z)
            return (sums[self.ids] - z) / (self.sizes[:, None] - 1)
        targets = z.roll(views // 2, dims=0)
        return targets if self.kind == "nt-xent" or self.sizes is None else targets * (self.sizes < views)[:, None]

    def mask(self, similarity: Tensor, positives: Tensor, start: int) -> Tensor:
        """Similarities with -inf for whatever is not in the denominator, in place.

        Args:
            similarity: (rows, 2N) of the views from `start` on.
            positives: (rows,) what the similarity to the positive is where that is in it: given, not computed again,
                so that to the last bit it is what is taken off elsewhere.
        """
        rows, views = similarity.shape
        own = torch.arange(start, start + rows, device=similarity.device)
        if self.ids is not None and self.kind != "supcon":
            similarity.masked_fill_(self.ids[own, None] == self.ids, -torch.inf)
        similarity.diagonal(offset=start).fill_(-torch.inf)
        if self.kind == "supcon":
            return similarity
        others = own.add(views // 2).remainder_(views)[:, None]
        return similarity.scatter_(1, others, positives[:, None] if self.kind == "nt-xent" else -torch.inf)


def plain_loss(z: Tensor, temperature: float, pairs: Pairs) -> Tensor:
    """The loss of (2N, D) rows of length 1, all similarities at once."""
    views = z.shape[0]
    similarity = z @ z.T / temperature  # (2N, 2N), cosine / tau
    if pairs.kind == "nt-xent" and pairs.ids is None:
        similarity = similarity.masked_fill(torch.eye(views, dtype=torch.bool, device=z.device), -torch.inf)
        positive = torch.arange(views, device=z.device).roll(views // 2)
        return F.cross_entropy(similarity, positive)  # by log-sum-exp: finite at any tau
    with torch.no_grad():
        kept = pairs.mask(torch.zeros_like(similarity), similarity.new_zeros(views), 0) == 0
        counted = kept.any(dim=1)  # under dcl there may be views without negatives
    positives = (z * pairs.targets(z)).sum(dim=1) / temperature
    losses = similarity.where(kept, -torch.inf)[counted].logsumexp(dim=1) - positives[counted]
    return losses.sum() / views


class BlockwiseLoss(torch.autograd.Function):
    """The loss of (2N, D) rows of length 1, a block of rows of the similarities at a time, and those again in backward.

    With t_i the mean of i's positives and l_i = log sum_{j in D(i)} exp(s_ij - z_i . t_i / tau), the loss is the mean
    of l_i. As s, D and P are symmetric, its gradient is 1 / (2N tau) (sum_j (w_ij + w_ji) z_j - 2 t_i) with
    w_ij = exp(s_ij - z_i . t_i / tau - l_i), and one row of similarities gives one row of it. The positives'
    similarity is taken off first, and not in a sum with l_i: at a small tau both are large, and their difference is
    what counts.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, temperature: float, pairs: Pairs, rows: int, ranks: Ranks) -> Tensor:
        """rows: how many of the 2N rows a block has."""
        ctx.temperature, ctx.pairs, ctx.rows, ctx.ranks = temperature, pairs, rows, ranks
        positives = (z * pairs.targets(z)).sum(dim=1) / temperature
        own = [block.sub_(positives[part, None]).logsumexp(dim=1) for part, block in _blocks(z, positives, ctx)]
        losses = ranks.gather(torch.cat(own), len(z))
        if pairs.kind == "dcl":
            losses = losses.masked_fill(losses == -torch.inf, 0)
        ctx.save_for_backward(z, positives, losses)
        return losses.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        z, positives, losses = ctx.saved_tensors
        own = []
        for part, block in _blocks(z, positives, ctx):
            weights = (block - positives[part, None]).sub_(losses[part, None]).exp_()
            weights.add_(block.sub_(positives).sub_(losses).exp_())
            own.append(weights @ z)
        out = ctx.ranks.gather(torch.cat(own), len(z)) - 2 * ctx.pairs.targets(z)
        return out * (gradient / (len(z) * ctx.temperature)), None, None, None, None


def _blocks(z: Tensor, positives: Tensor, ctx: Any) -> Iterator[tuple[slice, Tensor]]:
    """(which rows, their (rows, 2N) cosines / tau, -inf outside D), a block of this process's part at a time."""
    mine = ctx.ranks.part(len(z))
    for start in range(mine.start, mine.stop, ctx.rows):
        part = slice(start, min(start + ctx.rows, mine.stop))
        block = (z[part] / ctx.temperature) @ z.T
        yield part, ctx.pairs.mask(block, positives[part], start)
