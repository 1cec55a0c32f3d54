"""Adaptation of trained weights: the part of f that is trained, distillation from the start, and interpolation with it.

Sources: SEED (2101.04731) on distillation, FixRes (1906.06423) on image sizes, WiSE-FT (2109.01903) on interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from simclr_cli.engine.encoder import Encoder

TrainedPart = Literal["all", "norms", "last", "head"]
PERPLEXITY_ROWS = 512
TEMPERATURES = (0.005, 1.0)  # that are searched
MASKED = -1e4  # a logit whose probability is 0; -inf would give inf * 0 in the divergence
NORMS = (BatchNorm, nn.LayerNorm, nn.GroupNorm)


def select_trained_part(encoder: Encoder, part: TrainedPart) -> None:
    """Let gradients reach a part of f only: all, its norms, its last stage, or nothing (then g alone is trained)."""
    if part == "all":
        return
    names = FINDERS[part](encoder.backbone)
    for name, parameter in encoder.backbone.named_parameters():
        parameter.requires_grad_(name in names)


def _find_norm_parameters(backbone: nn.Module) -> set[str]:
    """Return the names of gains and shifts."""
    norms = [(name, module) for name, module in backbone.named_modules() if isinstance(module, NORMS)]
    return {f"{name}.{parameter}" for name, module in norms for parameter, _ in module.named_parameters(recurse=False)}


def _find_last_stage(backbone: nn.Module) -> set[str]:
    """Return the names of timm's last group of parameters that has weights, and of norms behind it."""
    groups = group_parameters(backbone, backbone.group_matcher(coarse=True))  # type: ignore[operator]
    sizes = {name: parameter.ndim for name, parameter in backbone.named_parameters()}
    names: set[str] = set()
    for group in sorted(groups, reverse=True):
        names |= set(groups[group])
        if any(sizes[name] > 1 for name in groups[group]):
            break
    return names


FINDERS: dict[TrainedPart, Callable[[nn.Module], set[str]]] = {
    "norms": _find_norm_parameters,
    "last": _find_last_stage,
    "head": lambda _: set(),
}


def distillation_loss(
    h: Tensor, anchors: Tensor, targets: Tensor, target_anchors: Tensor, own_anchors: Tensor, temperature: float
) -> Tensor:
    """Compute how far the similarities of h to other images are from those that a teacher finds.

    The mean over rows of the KL divergence from softmax(targets target_anchors^T / tau) to softmax(h anchors^T / tau),
    as SEED (Fang et al., 2101.04731), where each side has its own embeddings of the anchors.

    Args:
        h: (M, width), not normalized.
        anchors: (A, width) embeddings of the images to compare with, in the space of h; rows of length 1.
        targets: (M, D) embeddings of the images of h by the teacher, rows of length 1.
        target_anchors: (A, D) embeddings of the anchors by the teacher, rows of length 1.
        own_anchors: (M,) the row of `anchors` that is of the same image, or -1; it is excluded.
        temperature: tau.
    """
    is_own = own_anchors[:, None] == torch.arange(len(anchors), device=anchors.device)

    def compute_logits(rows: Tensor, others: Tensor) -> Tensor:
        return (rows @ others.T).div_(temperature).masked_fill_(is_own, MASKED)  # in place: (M, A) may be large

    similar = compute_logits(F.normalize(h.float(), dim=1), anchors).log_softmax(dim=1)
    wanted = compute_logits(targets, target_anchors).softmax(dim=1)
    return F.kl_div(similar, wanted, reduction="batchmean")


def find_temperature(rows: Tensor, perplexity: float) -> float:
    """Find tau at which softmax(rows rows^T / tau), without a row itself, has a median perplexity, as t-SNE does.

    Args:
        rows: (A, width), of length 1; the median is over the first PERPLEXITY_ROWS.
        perplexity: below A - 1.
    """
    similarity = rows[:PERPLEXITY_ROWS] @ rows.T
    similarity.fill_diagonal_(MASKED)
    low, high = TEMPERATURES
    for _ in range(30):
        middle = math.sqrt(low * high)
        entropy = torch.special.entr((similarity / middle).softmax(dim=1)).sum(dim=1)
        low, high = (middle, high) if float(entropy.exp().median()) < perplexity else (low, middle)
    return high


def interpolate_weights(start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return start + share * (end - start) of each tensor of floats, and the end's of others.

    Source: WiSE-FT (2109.01903), equation 1.
    """
    return {
        name: torch.lerp(start[name].to(value), value, share) if value.is_floating_point() else value
        for name, value in end.items()
    }
