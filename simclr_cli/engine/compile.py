"""Faster forward passes: torch.compile for training, folded batch norms for inference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from simclr_cli.engine.encoder import Encoder, summarize_error

Forward = Callable[[Tensor], Tensor]


def compile_model(
    model: nn.Module, example: Tensor, autocast: contextlib.AbstractContextManager[None]
) -> tuple[Forward, str]:
    """Compile a model with torch.compile and try it forward and backward on `example`; its state stays unchanged.

    Returns:
        The compiled forward and "". Without a working compiler: the model and the reason in a few words.
    """
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        forward: Forward = torch.compile(model)
        with autocast:
            h = forward(example)
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
        one computes something else.
    """
    spec = encoder.spec
    x = torch.rand(2, 3, spec.image_size, spec.image_size, generator=torch.Generator().manual_seed(0))
    x = x.to(encoder.mean.device)
    try:
        folded = Encoder(fuse(encoder.backbone), spec).eval().to(x.device)
        with torch.inference_mode():
            expected, h = encoder(x), folded(x)
            is_close = torch.allclose(h, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    except Exception:  # tracing an arbitrary forward may raise anything
        return encoder
    return folded if is_close else encoder
