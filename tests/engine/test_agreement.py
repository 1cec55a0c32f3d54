"""Agreement with the CPU: rounding to TF32 passes, and each part that is computed wrongly is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from simclr_cli.engine import agreement
from simclr_cli.engine.agreement import CPU, compare_with_cpu

PRODUCTS = ("convolution", "mm", "bmm", "addmm", "baddbmm")


def round_to_tf32(x: Tensor) -> Tensor:
    """Round float32 to 10 bits of mantissa."""
    return ((x.clone().view(torch.int32) + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)


class Tf32(TorchDispatchMode):
    """Products of rounded matrices, as by the tensor cores of a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in PRODUCTS):
            args = tree_map_only(Tensor, lambda x: round_to_tf32(x) if x.dtype == torch.float32 else x, args)
        return func(*args, **(kwargs or {}))


def test_the_cpu_agrees_with_itself_and_with_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = list(agreement._compute_parts(CPU))
    assert {name for name, _ in expected} >= {"image processing", "encoder", "encoder's gradient", "loss's gradient"}
    assert all(part.isfinite().all() and part.abs().max() > 0 for _, part in expected)
    with Tf32():
        rounded = list(agreement._compute_parts(CPU, expected[0][1]))
    errors = [float((a - b).abs().max() / a.abs().max()) for (_, a), (_, b) in zip(expected, rounded, strict=True)]
    assert 1e-4 < max(errors) < agreement.TOLERANCE / 2

    def answer(wrong: str, spoil: Tensor) -> str:
        def compute(device: torch.device, views: Tensor | None = None) -> Iterator[tuple[str, Tensor]]:
            for name, part in expected if views is None else rounded:
                yield name, part + (spoil * part.abs().max() if name == wrong and views is not None else 0)

        monkeypatch.setattr(agreement, "_compute_parts", compute)
        return compare_with_cpu(CPU)

    assert answer("", torch.zeros(())) == ""
    for name in dict(expected):
        assert answer(name, torch.tensor(0.5)).startswith(f"its {name} differs from the CPU's by ")
        assert answer(name, torch.tensor(torch.nan)) == f"its {name} differs from the CPU's by nan %"
