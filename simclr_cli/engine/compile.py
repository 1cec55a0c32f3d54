"""torch.compile where it can be had, and f with its norms folded in where nothing is trained any more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from simclr_cli.engine.encoder import Encoder, first_line

Forward = Callable[[Tensor], Tensor]


def compiled(
    model: nn.Module, example: Tensor, autocast: contextlib.AbstractContextManager[None]
) -> tuple[Forward, str]:
    """The model by torch.compile, tried forward and backward on `example`; its state stays as it was.

    Returns:
        What computes like the model, and ""; where no compiler is, the model itself, and why in a few words.
    """
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        forward: Forward = torch.compile(model)
        with autocast:
            out = forward(example)
        out.float().sum().backward()  # type: ignore[no-untyped-call]
        return forward, ""
    except Exception as error:  # each backend, and each missing tool, has its own kind
        return model, first_line(error)
    finally:
        model.zero_grad()
        model.load_state_dict(before)


def folded(encoder: Encoder) -> Encoder:
    """f for inference only: each batch norm that follows a convolution folded into its weights, where that is possible.

    Args:
        encoder: in eval mode; left as it is.

    Returns:
        An encoder that gives the same h up to rounding; `encoder` itself where its backbone cannot be traced, or would
        compute other things.
    """
    spec = encoder.spec
    x = torch.rand(2, 3, spec.image_size, spec.image_size, generator=torch.Generator().manual_seed(0))
    x = x.to(encoder.mean.device)
    try:
        twin = Encoder(fuse(encoder.backbone), spec).eval().to(x.device)
        with torch.inference_mode():
            expected, found = encoder(x), twin(x)
            same = torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    except Exception:  # what tracing meets in a stranger's forward is of any kind
        return encoder
    return twin if same else encoder
