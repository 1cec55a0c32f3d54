"""The SimCLR model: encoder f and projection head g (section 2.1)."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from simclr_cli.engine.encoder import Encoder


class ProjectionHead(nn.Module):
    """g: linear layers without bias, each with batch norm and ReLU; the last has no ReLU, and its norm no shift.

    This is the head of the paper's code (section 2.1 draws it without norms). 2 layers are SimCLR v1, 3 are v2.
    """

    def __init__(self, width: int, *, layers: int, dimensions: int) -> None:
        super().__init__()
        stack: list[nn.Module] = []
        for _ in range(layers - 1):
            stack += [nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        last_norm = nn.BatchNorm1d(dimensions)
        last_norm.bias.requires_grad_(False)  # scale, no shift
        stack += [nn.Linear(width, dimensions, bias=False), last_norm]
        self.layers = nn.Sequential(*stack)

    def forward(self, h: Tensor) -> Tensor:
        """Project h (M, width) to z (M, dimensions), not normalized."""
        return cast(Tensor, self.layers(h))


class SimCLR(nn.Module):
    """The model x -> h = f(x) -> z = g(h). Everything downstream uses h, never z."""

    def __init__(self, encoder: Encoder, head: ProjectionHead, *, freeze_batch_norm: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.freeze_batch_norm = freeze_batch_norm  # of f: its statistics stay, its gains and shifts are trained

    def train(self, mode: bool = True) -> SimCLR:
        """Set training mode, but for batch norms of f that are frozen."""
        super().train(mode)
        if self.freeze_batch_norm:
            for module in self.encoder.modules():
                if isinstance(module, BatchNorm):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute h (2N, width) and z (2N, dimensions) of x (2N, 3, S, S), floats in [0, 1].

        Both views go through in one pass, because batch norm must see both at once.
        """
        h = self.encoder(x)
        return h, self.head(h)
