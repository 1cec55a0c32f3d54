"""Apple's GPUs, emulated: what an encoder computes is on a device without float64, until it is copied to the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from simclr_cli.api import PretrainResult
from simclr_cli.engine import metrics
from simclr_cli.engine.encoder import Encoder

COPIES = (Tensor.cpu, Tensor.item, Tensor.tolist)
MISSING = (torch.pdist, torch.linalg.svdvals, torch.linalg.eigh, torch.linalg.lstsq)


class OnGpu(Tensor):
    """A tensor on an Apple GPU, and all that is computed from it."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.numpy or func in MISSING:
            raise TypeError(f"{func} is not for tensors on the GPU")
        result = super().__torch_function__(func, types, args, kwargs or {})
        if func in COPIES or (func is Tensor.to and args[1:] == ("cpu",)):
            return result.as_subclass(Tensor) if isinstance(result, Tensor) else result
        if any(isinstance(x, Tensor) and x.dtype == torch.float64 for x in tree_leaves(result)):
            raise TypeError(f"Cannot convert a MPS Tensor to float64 ({func})")
        return result


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoders compute on the emulated GPU."""
    compute = Encoder.forward
    monkeypatch.setattr(Encoder, "forward", lambda encoder, x: compute(encoder, x).as_subclass(OnGpu))


def test_metrics_take_tensors_on_a_gpu_without_float64() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.rand(40, 8, generator=draw) for _ in range(2))
    labels, first, second = torch.arange(40) % 8, a[:, 0] > 0.5, b[:, 0] > 0.5
    cases: list[tuple[Callable[..., object], tuple[Tensor, ...]]] = [
        (metrics.compute_accuracy, (a, labels)), (metrics.compute_gain, (first, second)),
        (metrics.compute_mean_gain, (a[:, 0], b[:, 0])), (metrics.alignment, (a, b)), (metrics.uniformity, (a,)),
        (metrics.effective_rank, (a,)), (metrics.view_retrieval_accuracy, (a, b)), (metrics.mean_similarities, (a, b)),
    ]  # fmt: skip
    for function, arguments in cases:
        expected = function(*arguments)
        assert function(*(x.as_subclass(OnGpu) for x in arguments)) == expected
    with pytest.raises(TypeError, match="float64"):
        a.as_subclass(OnGpu).double()


def test_a_training_needs_no_float64(on_gpu: None, train: Callable[..., PretrainResult], images: Path) -> None:
    assert train(images, judged=True).epochs == 1
