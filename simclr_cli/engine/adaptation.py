"""Adaptation of trained weights: the part of f that is trained, distillation from the start, and interpolation with it.

Sources: SEED (2101.04731) on distillation, FixRes (1906.06423) on image sizes, WiSE-FT (2109.01903) on interpolation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from simclr_cli.engine.encoder import Encoder

TrainedPart = Literal["all", "norms", "last", "head"]
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


def distillation_loss(h: Tensor, targets: Tensor, anchors: Tensor, own_anchors: Tensor, temperature: float) -> Tensor:
    """Compute how far the similarities of h to other images are from those of the teacher's embeddings.

    The mean over rows of the KL divergence from softmax(targets anchors^T / tau) to softmax(h anchors^T / tau), as SEED
    (Fang et al., 2101.04731). The teacher is the start itself at a larger image size, so h stays in its space.

    Args:
        h: (M, width), not normalized.
        targets: (M, width) embeddings of the same images by the teacher, rows of length 1.
        anchors: (A, width) embeddings of the images to compare with, by the teacher, rows of length 1.
        own_anchors: (M,) the row of `anchors` that is of the same image, or -1; it is excluded.
        temperature: tau.
    """
    is_own = own_anchors[:, None] == torch.arange(len(anchors), device=anchors.device)
    logits = [F.normalize(rows.float(), dim=1) @ anchors.T / temperature for rows in (h, targets)]
    similar, wanted = (values.masked_fill(is_own, MASKED) for values in logits)
    return F.kl_div(similar.log_softmax(dim=1), wanted.softmax(dim=1), reduction="batchmean")


def interpolate_weights(start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return start + share * (end - start) of each tensor of floats, and the end's of others.

    Source: WiSE-FT (2109.01903), equation 1.
    """
    return {
        name: torch.lerp(start[name].to(value), value, share) if value.is_floating_point() else value
        for name, value in end.items()
    }
