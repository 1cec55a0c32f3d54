"""Agreement of a device with the CPU: both compute the parts of a training step, from the same numbers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr_cli.core.seeds import Purpose, create_torch_generator
from simclr_cli.engine.augment import TwoViews, ViewRecipe
from simclr_cli.engine.encoder import EncoderSpec, create_encoder
from simclr_cli.engine.loss import contrastive_loss

CPU = torch.device("cpu")
IMAGES, STORED_SIDE = 16, 48  # pixels
# Residual blocks with batch norm, small. Smooth activations: of ReLU's, rounding would flip those near zero, and a
# gradient that sums few of them would differ by a fifth.
SPEC = EncoderSpec("test_resnet", 32, small_stem=True, model_args={"zero_init_last": False, "act_layer": "gelu"})
# Of the largest value. With inputs rounded to TF32, whose products a GPU may use, no part differed by over 1 % in 20
# seeds (emulated on a CPU); what is computed wrongly differs by about as much as the values themselves.
TOLERANCE = 0.05


def compare_with_cpu(device: torch.device) -> str:
    """Compare views, h, their gradient, and the loss with its gradient; return the first that differs, or "".

    Each part starts from the CPU's numbers, so that errors do not grow from part to part. It takes about a second.

    Raises:
        RuntimeError, and other errors of torch: the device cannot compute.
    """
    expected = list(_compute_parts(CPU))
    _, views = expected[0]
    for (name, right), (_, computed) in zip(expected, _compute_parts(device, views), strict=True):
        difference = float((computed - right).abs().max() / right.abs().max())
        if not difference <= TOLERANCE:  # NaN as well
            return f"its {name} differs from the CPU's by {100 * difference:.0f} %"
    return ""


def _compute_parts(device: torch.device, views: Tensor | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield the parts by name, on the CPU. `views`: to encode; None: those of this device."""
    draw = create_torch_generator(0, Purpose.VIEWS)
    sizes = torch.full((IMAGES, 2), STORED_SIDE)
    smooth = F.interpolate(torch.rand(IMAGES, 3, 8, 8, generator=draw), STORED_SIDE, mode="bilinear")
    two_views = TwoViews(SPEC.image_size, ViewRecipe(rotate=1.0))
    parameters = two_views.draw(sizes, draw)
    made = two_views.make((255 * smooth).byte().to(device), sizes, parameters).cpu()
    yield "image processing", made
    encoder = create_encoder(SPEC).to(device).train()
    h = encoder((made if views is None else views).to(device))
    yield "encoder", h.detach().cpu()
    (h * torch.randn(h.shape, generator=draw).to(device)).sum().backward()
    for p in encoder.parameters():
        assert p.grad is not None
        yield "encoder's gradient", p.grad.cpu()
    x, weight = (torch.randn(2 * IMAGES, 64, generator=draw).to(device) for _ in range(2))
    loss = contrastive_loss(F.linear(x, weight.requires_grad_()), temperature=0.5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    yield "loss", loss.detach().cpu()
    yield "loss's gradient", weight.grad.cpu()
