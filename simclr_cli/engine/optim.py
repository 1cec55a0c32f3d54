"""Optimizers, their parameter groups, and the learning rate of every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]  # it lacks __all__
from torch import Tensor, nn

OptimizerName = Literal["lars", "sgd", "adamw"]
LearningRateRule = Literal["linear", "sqrt", "none"]


def peak_learning_rate(base: float, rule: LearningRateRule, batch_size: int) -> float:
    """Compute the learning rate after the warm-up for batches of B (section 2.2 and appendix B.1).

    linear: base * B / 256 (the paper's base is 0.3). sqrt: base * sqrt(B) (0.075, not scaled from 256; better with
    small batches and few epochs). none: base.
    """
    return base * {"linear": batch_size / 256, "sqrt": math.sqrt(batch_size), "none": 1.0}[rule]


@dataclass(frozen=True)
class Schedule:
    """Learning rate of every step: linear warm-up from 0, then cosine decay to 0 without restarts."""

    peak: float
    total_steps: int
    warmup_steps: int = 0

    def __call__(self, step: int) -> float:
        """Return the rate of a step, counted from 0. The first rate of a warm-up is 0, as in the paper's code."""
        if step < self.warmup_steps:
            return self.peak * step / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of all parameter groups; of those with an lr_scale, scaled by it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def create_optimizer(
    model: nn.Module, name: OptimizerName, *, weight_decay: float, layer_decay: float = 1.0
) -> torch.optim.Optimizer:
    """Create LARS, SGD or AdamW with two parameter groups; the rate is set every step.

    Weights decay. Gains of norms and biases, the parameters with at most one dimension, do not, and LARS does not
    adapt their rate.

    Each step needs few kernels: torch's fused ones if it has them for the device, and torch's _foreach functions in
    LARS.

    Args:
        layer_decay: factor of the rate from each layer of `model.encoder.backbone` to the one before it (BEiT,
            2106.08254); then the layers have groups of their own.
    """
    scaled: list[dict[str, Any]] = []
    if layer_decay < 1:
        backbone = model.get_submodule("encoder.backbone")
        undecayed: Any = getattr(backbone, "no_weight_decay", set)
        scaled = param_groups_layer_decay(backbone, weight_decay, undecayed(), layer_decay=layer_decay)
    in_scaled = {p for group in scaled for p in group["params"]}
    trained = [p for p in model.parameters() if p.requires_grad and p not in in_scaled]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        *scaled,
    ]
    # None, elsewhere: torch chooses. False would also rule out its _foreach functions.
    fused = True if all(p.device.type in ("cpu", "cuda") for p in model.parameters()) else None
    optimizer: torch.optim.Optimizer
    if name == "lars":
        for group in groups:
            group["adapt"] = all(p.ndim > 1 for p in group["params"])
        optimizer = Lars(groups)
    elif name == "sgd":
        optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, fused=fused)
    else:
        optimizer = torch.optim.AdamW(groups, lr=0.0, fused=fused)
    optimizer.register_load_state_dict_pre_hook(_keep_implementation)
    optimizer.register_load_state_dict_post_hook(_match_memory_format)
    return optimizer


def allocate_state(optimizer: torch.optim.Optimizer) -> None:
    """Allocate the state of an optimizer of create_optimizer for every weight with a gradient, before any is changed.

    torch allocates it group by group within the first update. Out of memory there, some weights are updated and some
    states lack a tensor, so that a retry fails or differs. After this, fused updates and LARS need no more memory once
    the first weight has changed.

    Raises:
        RuntimeError: out of memory; every weight has its whole state or none.
    """
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is None or optimizer.state.get(weight):
                continue
            if isinstance(optimizer, torch.optim.AdamW):
                step = torch.zeros((), device=weight.device if group["fused"] else "cpu")
                state = {"step": step, "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
            else:
                name = "momentum" if isinstance(optimizer, Lars) else "momentum_buffer"
                state = {name: torch.zeros_like(weight)}
            optimizer.state[weight] = state


class Lars(torch.optim.Optimizer):
    """LARS, layer-wise adaptive rate scaling (You et al. 2017), as in the paper's code.

    g = g + decay w; trust = eta |w| / |g|, or 1 if a norm is 0; v = m v + rate trust g; w = w - v.

    Decay is added before the norms, the rate is inside the momentum, and there is no Nesterov step. A group with
    `adapt` False (gains and biases) has trust 1. Each operation processes all tensors of a group at once.
    Everything that needs memory is computed before the first weight changes.

    Args:
        groups: dicts of params, weight_decay and adapt.
    """

    def __init__(self, groups: list[dict[str, Any]], *, momentum: float = 0.9, eta: float = 0.001) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "eta": eta, "weight_decay": 0.0, "adapt": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the weights once; closures are not supported."""
        assert closure is None
        allocate_state(self)
        trained = [(group, [w for w in group["params"] if w.grad is not None]) for group in self.param_groups]
        trained = [(group, weights) for group, weights in trained if weights]
        steps_of_groups = [self._compute_steps(group, weights) for group, weights in trained]
        for (group, weights), steps in zip(trained, steps_of_groups, strict=True):
            momenta = [self.state[weight]["momentum"] for weight in weights]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, steps)
            torch._foreach_sub_(weights, momenta)

    @staticmethod
    def _compute_steps(group: dict[str, Any], weights: list[Tensor]) -> list[Tensor]:
        """Return rate trust g of each weight of a group."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
        if not group["adapt"]:
            return list(torch._foreach_mul(gradients, group["lr"]))
        weight_norms, gradient_norms = (torch.stack(torch._foreach_norm(x)) for x in (weights, gradients))
        is_positive = (weight_norms > 0) & (gradient_norms > 0)
        trust = torch.where(is_positive, group["eta"] * weight_norms / gradient_norms, 1)
        return list(torch._foreach_mul(gradients, list((group["lr"] * trust).unbind())))


def _keep_implementation(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Choose kernels for this device, as at creation, and not those of the device where the state was saved."""
    own = {name: value for name, value in optimizer.defaults.items() if name == "fused"}
    return state | {"param_groups": [group | own for group in state["param_groups"]]}


def _match_memory_format(optimizer: torch.optim.Optimizer) -> None:
    """Copy loaded state to the memory format of its weight: fused kernels pair the two by offset, not by index."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                state[name] = torch.empty_like(weight).copy_(value)
