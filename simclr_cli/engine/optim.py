"""Parameter groups, optimizers, and the learning rate of every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

OptimizerName = Literal["lars", "sgd", "adamw"]
LearningRateRule = Literal["linear", "sqrt", "none"]


def peak_learning_rate(base: float, rule: LearningRateRule, batch_size: int) -> float:
    """The learning rate after warm-up (section 2.2 and appendix B.1).

    linear: base * B / 256 (the paper's base is 0.3); sqrt: base * sqrt(B) (0.075, not scaled from 256: better at
    small batches and few epochs); none: base as it stands.
    """
    return base * {"linear": batch_size / 256, "sqrt": math.sqrt(batch_size), "none": 1.0}[rule]


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


def create_optimizer(model: nn.Module, name: OptimizerName, *, weight_decay: float) -> torch.optim.Optimizer:
    """Create LARS, SGD or AdamW over two parameter groups; the rate is set every step.

    Weights decay; norms' gains and biases do not, and are not adapted by LARS. They are told apart by number of
    dimensions, not by names: gains and biases have at most one, in every framework.

    All of them in few kernels: torch's fused ones where it has them for the device, LARS by torch's _foreach functions.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in trained)
    optimizer: torch.optim.Optimizer
    if name == "lars":
        groups[1]["adapt"] = False
        optimizer = Lars(groups)
    elif name == "sgd":
        optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, fused=fused)
    else:
        optimizer = torch.optim.AdamW(groups, lr=0.0, fused=fused)
    optimizer.register_load_state_dict_post_hook(_lay_out_as_weights)
    return optimizer


class Lars(torch.optim.Optimizer):
    """LARS, layer-wise adaptive rate scaling (You et al. 2017), as the paper's code has it, in few kernels.

    g = g + decay w; trust = eta |w| / |g|, or 1 where a norm is 0; v = m v + rate trust g; w = w - v.

    That is: decay enters before the norms, the rate is inside the momentum, and there is no Nesterov step. A group with
    `adapt` False (gains and biases) has trust 1. All tensors of a group go through each operation together.

    Args:
        groups: dicts of params, weight_decay and adapt.
    """

    def __init__(self, groups: list[dict[str, Any]], *, momentum: float = 0.9, eta: float = 0.001) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "eta": eta, "weight_decay": 0.0, "adapt": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the weights once; closures are not supported."""
        assert closure is None
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            gradients: list[Tensor] = [weight.grad for weight in weights]
            if group["weight_decay"]:
                gradients = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
            if group["adapt"]:
                sizes, slopes = (torch.stack(torch._foreach_norm(x)) for x in (weights, gradients))
                trust = torch.where((sizes > 0) & (slopes > 0), group["eta"] * sizes / slopes, 1)
                steps = torch._foreach_mul(gradients, list((group["lr"] * trust).unbind()))
            else:
                steps = torch._foreach_mul(gradients, group["lr"])
            for weight in weights:
                if "momentum" not in self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
            momenta = [self.state[weight]["momentum"] for weight in weights]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, steps)
            torch._foreach_sub_(weights, momenta)


def _lay_out_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give what was loaded the memory layout of its weight: fused kernels pair the two by place, not by index."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                state[name] = torch.empty_like(weight).copy_(value)
