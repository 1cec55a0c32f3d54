"""A joined model: its logits, and the two parts after it is split."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from simclr_cli.core.errors import SettingsError
from simclr_cli.engine.classifier import check_joinable, join_classifier, split_classifier
from simclr_cli.engine.encoder import Encoder, EncoderSpec, create_encoder, create_scratch_spec, create_trained_spec

SPECS = {
    "deep small stem": ("resnet10t", 32, False),
    "plain small stem": ("resnet18", 24, False),
    "plain stem": ("resnet18", 40, False),
    "normalized": ("test_resnet", 64, True),
    "transformer": ("test_vit", 48, False),
    "efficientnet": ("test_efficientnet", 32, False),
    "convnext": ("test_convnext", 64, False),
}


def made(name: str) -> tuple[Encoder, nn.Linear]:
    architecture, size, normalized = SPECS[name]
    spec = create_trained_spec(architecture, size) if normalized else create_scratch_spec(architecture, size)
    encoder = create_encoder(spec, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for norm in encoder.modules():
            if isinstance(norm, nn.BatchNorm2d):  # as training leaves them
                norm.running_mean.normal_(0, 0.1, generator=generator)
                norm.weight.add_(0.1)
        linear = nn.Linear(encoder.width, 7)
        linear.weight.normal_(generator=generator)
        linear.bias.normal_(generator=generator)
    return encoder, linear


@pytest.mark.parametrize("name", SPECS)
def test_joined_model_gives_the_logits_of_both(name: str) -> None:
    encoder, linear = made(name)
    check_joinable(encoder)
    model = join_classifier(encoder, linear)
    size = encoder.spec.image_size
    x = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = linear(encoder(x))
        found = model((x - encoder.mean) / encoder.std)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        again, head = split_classifier(encoder.spec, 7, model.state_dict())
        torch.testing.assert_close(head(again(x)), expected, rtol=1e-4, atol=1e-4)
    assert found.std() > 0.01
    assert torch.equal(head.weight, linear.weight) and torch.equal(head.bias, linear.bias)
    for key, tensor in encoder.backbone.state_dict().items():
        assert torch.equal(again.backbone.state_dict()[key], tensor), key


def test_head_of_another_kind_is_an_error() -> None:
    """DeiT with distillation has two heads, one for each of its tokens."""
    encoder = create_encoder(EncoderSpec("deit_tiny_distilled_patch16_224", 32, model_args={"img_size": 32}))
    with pytest.raises(SettingsError, match="is not one linear layer on h"):
        check_joinable(encoder.eval())


def test_weights_of_another_model_are_an_error() -> None:
    encoder, linear = made("plain stem")
    state = join_classifier(encoder, linear).state_dict()
    with pytest.raises(SettingsError, match="not those of a resnet18 with 8 classes"):
        split_classifier(encoder.spec, 8, state)
