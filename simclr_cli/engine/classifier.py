"""Joining f and a linear classifier into one timm model, and splitting such a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from simclr_cli.core.errors import SettingsError
from simclr_cli.core.seeds import Purpose, seeded
from simclr_cli.engine.encoder import Encoder, EncoderSpec, create_encoder, create_model, get_shapes


def join_classifier(encoder: Encoder, linear: nn.Linear) -> nn.Module:
    """Join f and a linear classifier into the timm model of the architecture with its head.

    Args:
        encoder, linear: on the CPU; width -> classes.

    Returns:
        In eval mode: images, normalized as the backbone expects them -> logits (M, classes).

    Raises:
        SettingsError: the head of the architecture is not one linear layer on h.
    """
    model, head = _create_with_head(encoder.spec, linear.out_features)
    model_state, state = model.state_dict(), encoder.backbone.state_dict()
    added = len(model_state) - len(state)  # weight and bias of the head
    if head.in_features != linear.in_features or added != 2 or not model_state.keys() > state.keys():
        raise _head_error(encoder.spec)
    model.load_state_dict({**model_state, **state})
    head.load_state_dict(linear.state_dict())
    return model.eval()


def split_classifier(spec: EncoderSpec, classes: int, state: Mapping[str, Tensor]) -> tuple[Encoder, nn.Linear]:
    """Split the weights of a joined model into f and the classifier, both in eval mode on the CPU.

    Raises:
        SettingsError: the weights do not belong to such a model.
    """
    with seeded(0, Purpose.ENCODER), torch.device("meta"):  # no memory for weights that may not fit
        model, head = _create_with_head(spec, classes)
    if get_shapes(model.state_dict()) != get_shapes(state):
        raise SettingsError(
            f"The weights are not those of a {spec.architecture} with {classes} classes.",
            "Restore the classifier from a copy, or train it again.",
        )
    model.load_state_dict(dict(state), assign=True)
    encoder = create_encoder(spec)
    encoder.backbone.load_state_dict({name: state[name] for name in encoder.backbone.state_dict()})
    return encoder.eval(), head.eval()


def check_joinable(encoder: Encoder) -> None:
    """Check before training that the joined model will compute the same as f and a linear layer.

    Raises:
        SettingsError: the head of the architecture is more than one linear layer on h.
    """
    spec, device = encoder.spec, encoder.mean.device
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(encoder.width, 2)
    x = torch.rand(2, 3, spec.image_size, spec.image_size, generator=generator)
    with torch.no_grad():
        linear.weight.normal_(generator=generator)
        linear.bias.normal_(generator=generator)
        model = join_classifier(encoder.cpu(), linear)
        expected = linear(encoder(x))
        logits = model((x - encoder.mean) / encoder.std)
    encoder.to(device)
    if not torch.allclose(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise _head_error(spec)


def _create_with_head(spec: EncoderSpec, classes: int) -> tuple[nn.Module, nn.Linear]:
    model = create_model(spec, classes=classes)
    head = cast(Any, model).get_classifier()
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise _head_error(spec)
    return model, head


def _head_error(spec: EncoderSpec) -> SettingsError:
    return SettingsError(
        f"The classifier of {spec.architecture} in timm is not one linear layer on h.",
        "Use an encoder of another architecture.",
    )
