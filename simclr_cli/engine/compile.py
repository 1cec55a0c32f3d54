"""Faster forward passes: torch.compile for training, folded batch norms for inference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from simclr_cli.engine.encoder import Encoder, summarize_error

Forward = Callable[[Tensor], Tensor]


def compile_model(
    model: nn.Module, examples: Iterable[Tensor], autocast: contextlib.AbstractContextManager[None]
) -> tuple[Forward, str]:
    """Compile a model with torch.compile and try it forward and backward on each example; its state stays unchanged.

    It is compiled once for each shape, with a graph for the backward pass. A forward pass without gradients would be
    compiled once more.

    Returns:
        The compiled forward and "". Without a working compiler: the model and the reason in a few words.
    """
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        forward: Forward = torch.compile(model, dynamic=False)
        for example in examples:
            with autocast:
                h = forward(example)
            if h.requires_grad:  # else the model is not trained
                h.float().sum().backward()  # type: ignore[no-untyped-call]
        return forward, ""
    except Exception as error:  # every backend and every missing tool raises its own type
        return model, summarize_error(error)
    finally:
        model.zero_grad()
        model.load_state_dict(state)


def fold_batch_norm(encoder: Encoder) -> Encoder:
    """Fold each batch norm that follows a convolution into its weights, for inference only.

    Args:
        encoder: in eval mode; stays unchanged.

    Returns:
        An encoder with the same h up to rounding. `encoder` itself if its backbone cannot be traced, or if the folded
        one computes something else in float32.
    """
    spec = encoder.spec
    x = torch.rand(2, 3, spec.image_size, spec.image_size, generator=torch.Generator().manual_seed(0))
    x = x.to(encoder.mean.device)
    try:
        folded = Encoder(fuse(encoder.backbone), spec).eval().to(x.device)
        with torch.inference_mode(), _without_tf32():
            expected, h = encoder(x), folded(x)
            is_close = torch.allclose(h, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    except Exception:  # tracing an arbitrary forward may raise anything
        return encoder
    return folded if is_close else encoder


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """Compute float32 exactly: NVIDIA's convolutions round their inputs to TF32 by default, with errors of 1e-3."""
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    allowed = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, value in zip(backends, allowed, strict=True):
            backend.allow_tf32 = value
