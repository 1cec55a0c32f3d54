"""LARS, layer-wise adaptive rate scaling (You et al. 2017), as the paper's code has it, in few kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Lars(torch.optim.Optimizer):
    """g = g + decay w; trust = eta |w| / |g|, or 1 where a norm is 0; v = m v + rate trust g; w = w - v.

    That is: decay enters before the norms, the rate is inside the momentum, and there is no Nesterov step. A group with
    `adapt` False (gains and biases) has trust 1. All tensors of a group go through each operation together.

    Args:
        groups: dicts of params, weight_decay and adapt.
    """

    def __init__(self, groups: list[dict[str, Any]], *, momentum: float = 0.9, eta: float = 0.001) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "eta": eta, "weight_decay": 0.0, "adapt": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; closures are not taken."""
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
            momenta = [self._momentum(weight) for weight in weights]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, steps)
            torch._foreach_sub_(weights, momenta)

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        found: Tensor = state["momentum"]
        return found
