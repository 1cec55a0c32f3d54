"""f and a linear classifier as one timm model with its head filled, and such a model taken apart again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from simclr_cli.core.errors import SettingsError
from simclr_cli.core.seeds import Purpose, seeded
from simclr_cli.engine.encoder import Encoder, EncoderSpec, create_encoder, create_model, shapes


def join_classifier(encoder: Encoder, linear: nn.Linear) -> nn.Module:
    """The timm model of the encoder's architecture with its own head, which holds the weights of both.

    Args:
        encoder, linear: on the CPU; width -> classes.

    Returns:
        In eval mode: images as the backbone takes them -> logits (M, classes).

    Raises:
        SettingsError: the architecture's head is something else than one linear layer on h.
    """
    model, head = _with_head(encoder.spec, linear.out_features)
    own, state = model.state_dict(), encoder.backbone.state_dict()
    added = len(own) - len(state)  # the head's weight and bias
    if head.in_features != linear.in_features or added != 2 or not own.keys() > state.keys():
        raise _unlike(encoder.spec)
    model.load_state_dict({**own, **state})
    head.load_state_dict(linear.state_dict())
    return model.eval()


def split_classifier(spec: EncoderSpec, classes: int, state: Mapping[str, Tensor]) -> tuple[Encoder, nn.Linear]:
    """f and the classifier out of the weights of a whole model, both in eval mode on the CPU.

    Raises:
        SettingsError: the weights are not those of such a model.
    """
    with seeded(0, Purpose.ENCODER), torch.device("meta"):  # no memory is taken for what may not fit
        model, head = _with_head(spec, classes)
    if shapes(model.state_dict()) != shapes(state):
        raise SettingsError(
            f"The weights are not those of a {spec.architecture} with {classes} classes.",
            "Restore the classifier from a copy, or train it again.",
        )
    model.load_state_dict(dict(state), assign=True)
    encoder = create_encoder(spec)
    encoder.backbone.load_state_dict({name: state[name] for name in encoder.backbone.state_dict()})
    return encoder.eval(), head.eval()


def check_joinable(encoder: Encoder) -> None:
    """Check that the joined model will compute what the two do, before anything is trained.

    Raises:
        SettingsError: its head does more than one linear layer on h.
    """
    spec, device = encoder.spec, encoder.mean.device
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(encoder.width, 2)
    x = torch.rand(2, 3, spec.image_size, spec.image_size, generator=generator)
    with torch.no_grad():
        linear.weight.normal_(generator=generator)
        linear.bias.normal_(generator=generator)
        twin = join_classifier(encoder.cpu(), linear)
        expected = linear(encoder(x))
        found = twin((x - encoder.mean) / encoder.std)
    encoder.to(device)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise _unlike(spec)


def _with_head(spec: EncoderSpec, classes: int) -> tuple[nn.Module, nn.Linear]:
    model = create_model(spec, classes=classes)
    head = cast(Any, model).get_classifier()
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise _unlike(spec)
    return model, head


def _unlike(spec: EncoderSpec) -> SettingsError:
    return SettingsError(
        f"The classifier of {spec.architecture} in timm is not one linear layer on h.",
        "Choose an encoder of another architecture.",
    )
