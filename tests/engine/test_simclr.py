"""The projection head of the paper's code, and SimCLR as f, then g, in one pass."""

import pytest
import torch
from torch import nn

from simclr_cli.engine.encoder import create_encoder, create_scratch_spec
from simclr_cli.engine.simclr import ProjectionHead, SimCLR

HIDDEN = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
LAST = [nn.Linear, nn.BatchNorm1d]


@pytest.mark.parametrize(("layers", "expected"), [(1, LAST), (2, HIDDEN + LAST), (3, HIDDEN + HIDDEN + LAST)])
def test_layers_are_dense_norm_relu_and_the_last_has_no_activation(layers: int, expected: list[type]) -> None:
    """Section 2.1 and the code: Dense, BN, ReLU, Dense, BN; v2 has three layers."""
    head = ProjectionHead(24, layers=layers, dimensions=10)
    assert [type(module) for module in head.layers] == expected
    linears = [module for module in head.layers if isinstance(module, nn.Linear)]
    assert [(linear.in_features, linear.out_features) for linear in linears] == [(24, 24)] * (layers - 1) + [(24, 10)]


@pytest.mark.parametrize("layers", [2, 3])
def test_no_linear_has_a_bias_and_the_last_norm_does_not_shift(layers: int) -> None:
    head = ProjectionHead(8, layers=layers, dimensions=4)
    assert all(module.bias is None for module in head.layers if isinstance(module, nn.Linear))
    *hidden, last = (module for module in head.layers if isinstance(module, nn.BatchNorm1d))
    assert not last.bias.requires_grad and not last.bias.any() and last.weight.requires_grad
    assert all(norm.bias.requires_grad and norm.weight.requires_grad for norm in hidden)


def test_training_leaves_the_shift_of_the_last_norm_at_zero() -> None:
    head = ProjectionHead(8, layers=2, dimensions=4)
    optimizer = torch.optim.SGD([p for p in head.parameters() if p.requires_grad], lr=0.1)
    (head(torch.randn(16, 8)) - 1).square().mean().backward()
    optimizer.step()
    assert not head.layers[-1].bias.any()


def test_projections_are_centered_and_have_both_signs() -> None:
    """The head ends with batch norm without shift: a ReLU would remove negative numbers, a shift the center."""
    z = ProjectionHead(16, layers=2, dimensions=6)(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(z.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    assert (z < 0).any(0).all() and (z > 0).any(0).all()


def test_h_comes_from_the_encoder_and_z_from_h() -> None:
    encoder = create_encoder(create_scratch_spec("test_resnet", 32)).eval()
    model = SimCLR(encoder, ProjectionHead(encoder.width, layers=2, dimensions=12)).eval()
    x = torch.rand(3, 3, 32, 32)
    h, z = model(x)
    assert h.shape == (3, encoder.width) and z.shape == (3, 12)
    assert torch.equal(h, encoder(x)) and torch.equal(z, model.head(h))
