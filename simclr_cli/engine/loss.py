"""NT-Xent, the normalized temperature-scaled cross entropy (section 2.1, equation 1, Algorithm 1), and two variants.

For a view i with the positives P(i) and the denominator D(i), each of them is

    l_i = log sum_{j in D(i)} exp(s_ij) - mean_{p in P(i)} s_ip,    s_ij = z_i . z_j / (|z_i| |z_j| tau)

They differ in P and D. The loss is the mean of l_i over all 2N views.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from simclr_cli.core.distributed import ProcessGroup
from simclr_cli.engine.image_ops import upload

LossName = Literal["nt-xent", "dcl", "supcon"]

# Similarities of a block: few enough for the caches of a CPU, enough to keep a GPU busy.
MAX_SIMILARITIES_CPU, MAX_SIMILARITIES_GPU = 2**22, 2**25  # 16 MiB (N = 1,024), 128 MiB (N = 2,896)
PEAK_MATRICES, PEAK_PROJECTIONS = 3.3, 4  # blocks, and tensors of the size of z, in memory at a time


def contrastive_loss(
    z: Tensor,
    temperature: float,
    kind: LossName = "nt-xent",
    groups: Tensor | None = None,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Compute NT-Xent or one of its variants over 2N views.

    nt-xent  P(i) is the other view of the image, D(i) all views except i (equation 1).
    dcl      The same P(i), D(i) without it: decoupled contrastive learning (Yeh et al., arXiv 2110.06848, equation 6,
             L_DC with a mean instead of the sum). A view without negatives counts 0.
    supcon   P(i) all other views of the class of i, D(i) all views except i: supervised contrastive learning
             (Khosla et al., arXiv 2004.11362, equation 2, L_out with a mean instead of the sum).

    NT-Xent of small batches uses the (2N, 2N) similarities as in the paper. Large batches and the variants use blocks
    of rows: the same loss and gradient, in memory that grows with N instead of its square.

    Args:
        z: (2N, D) projections of any scale; row i and row i + N are the two views of image i.
        temperature: tau > 0.
        groups: (N,) integers on the CPU. For supcon, the classes of the images. Otherwise, images of one group are
            excluded from one another's D as negatives (the positive of nt-xent stays in it).
        process_group: several processes with the same z. Each computes a part of the rows of similarities, and all
            get the whole loss and gradient.

    Returns:
        Scalar: the mean over all 2N views, as in Algorithm 1. The paper's code sums the means of the two halves,
        which is twice this. NT-Xent is log(2N - 1) when all z are equal.
    """
    views = z.shape[0]
    if views % 2 or views < 4:
        raise ValueError(f"the loss requires two views of at least 2 images, got {tuple(z.shape)}")
    z = z if z.dtype == torch.float64 else z.float()  # half precision is not enough for sums of exp(1 / tau)
    z = F.normalize(z, dim=1)
    if kind == "supcon" and groups is None:
        raise ValueError("supcon requires the classes of the images")
    pairs = Pairs.from_groups(kind, groups, z.device)
    max_similarities = get_max_similarities(z.device)
    process_group = process_group or ProcessGroup()
    if kind == "nt-xent" and groups is None and views**2 <= max_similarities and process_group.is_single:
        return full_matrix_loss(z, temperature)
    return cast(Tensor, BlockwiseLoss.apply(z, temperature, pairs, max(1, max_similarities // views), process_group))


def get_max_similarities(device: torch.device) -> int:
    """Return how many similarities a block may have on a device."""
    return MAX_SIMILARITIES_CPU if device.type == "cpu" else MAX_SIMILARITIES_GPU


def estimate_loss_bytes(views: int, dimensions: int, device: torch.device) -> int:
    """Estimate the most memory that the loss of 2N views and its gradient take in float32, at most 1.7 times too much.

    It is measured in tests/engine/test_loss.py.
    """
    matrix = min(views**2, max(views, get_max_similarities(device)))
    return 4 * int(PEAK_MATRICES * matrix + PEAK_PROJECTIONS * views * dimensions)


@dataclass(frozen=True)
class Pairs:
    """Positives P and denominators D of 2N views."""

    kind: LossName = "nt-xent"
    ids: Tensor | None = None  # (2N,) group of each view, from 0; None: every image is a group
    sizes: Tensor | None = None  # (2N,) number of views in its group

    @staticmethod
    def from_groups(kind: LossName, groups: Tensor | None, device: torch.device) -> Pairs:
        """Create the pairs from the group of each image; groups: (N,) any integers, on the CPU."""
        if groups is None:
            return Pairs(kind)
        _, ids, sizes = torch.unique(groups.repeat(2), return_inverse=True, return_counts=True)
        return Pairs(kind, upload(ids, device), upload(sizes[ids], device))

    def mean_positives(self, z: Tensor) -> Tensor:
        """Return (2N, D) the mean of the positives of each view; 0 for a view that does not count."""
        views = len(z)
        if self.kind == "supcon":
            assert self.ids is not None and self.sizes is not None
            sums = torch.zeros_like(z).index_add_(0, self.ids, z)
            return (sums[self.ids] - z) / (self.sizes[:, None] - 1)
        positives = z.roll(views // 2, dims=0)
        return positives if self.kind == "nt-xent" or self.sizes is None else positives * (self.sizes < views)[:, None]

    def mask(self, similarity: Tensor, positives: Tensor, start: int) -> Tensor:
        """Set similarities outside the denominator to -inf, in place.

        Args:
            similarity: (rows, 2N) of the views from `start` on.
            positives: (rows,) similarity to the positive, written where the denominator contains it: bit for bit the
                value that is subtracted elsewhere.
        """
        rows, views = similarity.shape
        view = torch.arange(start, start + rows, device=similarity.device)
        if self.ids is not None and self.kind != "supcon":
            similarity.masked_fill_(self.ids[view, None] == self.ids, -torch.inf)
        similarity.diagonal(offset=start).fill_(-torch.inf)
        if self.kind == "supcon":
            return similarity
        other_view = view.add(views // 2).remainder_(views)[:, None]
        return similarity.scatter_(1, other_view, positives[:, None] if self.kind == "nt-xent" else -torch.inf)


def full_matrix_loss(z: Tensor, temperature: float) -> Tensor:
    """Compute NT-Xent of (2N, D) rows of length 1 from the whole matrix of similarities."""
    views = z.shape[0]
    similarity = (z @ z.T).div_(temperature).fill_diagonal_(-torch.inf)  # (2N, 2N), cosine / tau
    positive = torch.arange(views, device=z.device).roll(views // 2)
    return F.cross_entropy(similarity, positive)  # by log-sum-exp: finite at any tau


class BlockwiseLoss(torch.autograd.Function):
    """Loss of (2N, D) rows of length 1 by blocks of rows of the similarities, computed again in backward.

    With t_i the mean of the positives of i and l_i = log sum_{j in D(i)} exp(s_ij - z_i . t_i / tau), the loss is the
    mean of l_i. As s, D and P are symmetric, its gradient is 1 / (2N tau) (sum_j (w_ij + w_ji) z_j - 2 t_i) with
    w_ij = exp(s_ij - z_i . t_i / tau - l_i), and one row of similarities yields one row of it. The similarity of the
    positives is subtracted first, not in a sum with l_i: at a small tau both are large, and only their difference
    counts.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, temperature: float, pairs: Pairs, rows: int, process_group: ProcessGroup
    ) -> Tensor:
        """Compute the loss by blocks of at most `rows` of the 2N rows."""
        ctx.temperature, ctx.pairs, ctx.rows, ctx.process_group = temperature, pairs, rows, process_group
        positives = (z * pairs.mean_positives(z)).sum(dim=1) / temperature
        local = [
            _compute_block(z, positives, part, ctx).sub_(positives[part, None]).logsumexp(dim=1)
            for part in _split_rows(z, ctx)
        ]
        losses = process_group.all_gather(torch.cat(local), len(z))
        if pairs.kind == "dcl":
            losses = losses.masked_fill(losses == -torch.inf, 0)
        ctx.save_for_backward(z, positives, losses)
        return losses.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        z, positives, losses = ctx.saved_tensors

        def sum_weighted(part: slice) -> Tensor:  # a function: one block is freed before the next one is computed
            block = _compute_block(z, positives, part, ctx)
            weights = (block - positives[part, None]).sub_(losses[part, None]).exp_()
            rows: Tensor = weights.add_(block.sub_(positives).sub_(losses).exp_()) @ z
            return rows

        local = torch.cat([sum_weighted(part) for part in _split_rows(z, ctx)])
        total = ctx.process_group.all_gather(local, len(z)) - 2 * ctx.pairs.mean_positives(z)
        return total * (gradient / (len(z) * ctx.temperature)), None, None, None, None


def _split_rows(z: Tensor, ctx: Any) -> list[slice]:
    """Split the rows of this process into blocks."""
    shard = ctx.process_group.shard(len(z))
    return [slice(start, min(start + ctx.rows, shard.stop)) for start in range(shard.start, shard.stop, ctx.rows)]


def _compute_block(z: Tensor, positives: Tensor, part: slice, ctx: Any) -> Tensor:
    """Compute the (rows, 2N) cosines / tau of a part of the views, -inf outside D."""
    block = (z[part] / ctx.temperature) @ z.T
    pairs: Pairs = ctx.pairs
    return pairs.mask(block, positives[part], part.start)
