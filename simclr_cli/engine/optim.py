"""Parameter groups, optimizers, and the learning rate of every step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from simclr_cli.engine.lars import Lars

OptimizerName = Literal["lars", "sgd", "adamw"]
LearningRateRule = Literal["linear", "sqrt", "none"]


def peak_learning_rate(base: float, rule: LearningRateRule, batch_size: int) -> float:
    """The learning rate after warm-up (section 2.2 and appendix B.1).

    linear: base * B / 256 (the paper's base is 0.3); sqrt: base * sqrt(B) (0.075, not scaled from 256: better at
    small batches and few epochs); none: base as it stands.
    """
    if rule == "linear":
        return base * batch_size / 256
    if rule == "sqrt":
        return base * math.sqrt(batch_size)
    return base


@dataclass(frozen=True)
class Schedule:
    """The learning rate of every step: linear from 0 over the warm-up, then cosine to 0 without restarts."""

    peak: float
    total_steps: int
    warmup_steps: int = 0

    def __call__(self, step: int) -> float:
        """Return the rate of a step, 0 for the first. At step 0 of a warm-up it is 0, as in the paper's code."""
        if step < self.warmup_steps:
            return self.peak * step / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weights, which decay; norms' gains and biases, which do not (and are not adapted by LARS).

    By number of dimensions, not by names: gains and biases have at most one, in every framework.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def create_optimizer(
    model: nn.Module, name: OptimizerName, *, weight_decay: float, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """LARS, SGD or AdamW over the model's two parameter groups; the rate is set every step.

    All of them in few kernels: torch's fused ones where it has them for the device, LARS by torch's _foreach functions.
    """
    groups = parameter_groups(model, weight_decay)
    fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
    optimizer: torch.optim.Optimizer
    if name == "lars":
        groups[1]["adapt"] = False
        optimizer = Lars(groups, momentum=momentum)
    elif name == "sgd":
        optimizer = torch.optim.SGD(groups, lr=0.0, momentum=momentum, fused=fused)
    else:
        optimizer = torch.optim.AdamW(groups, lr=0.0, fused=fused)
    optimizer.register_load_state_dict_post_hook(_lay_out_as_weights)
    return optimizer


def _lay_out_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give what was loaded the memory layout of its weight: fused kernels pair the two by place, not by index."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                state[name] = torch.empty_like(weight).copy_(value)
