"""Encoder f from the name of a timm model, with the stem for small images (section 2.1, appendix B.9)."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, cast

import timm
import torch
from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]
from timm.models.resnet import BasicBlock
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from simclr_cli.core.errors import SettingsError, is_out_of_memory
from simclr_cli.core.seeds import Purpose, seeded

SMALL_IMAGE_SIZE = 32  # px; up to it, the stem keeps the resolution and evaluation does not crop
EVALUATION_CROP_FRACTION = 0.875  # of the short side, above SMALL_IMAGE_SIZE


class EncoderError(SettingsError):
    """An encoder that cannot be created because of `argument`."""

    def __init__(self, problem: str, argument: Literal["architecture", "image_size", "state"]) -> None:
        super().__init__(problem, f"Change `{argument}`.")
        self.argument = argument


@dataclass(frozen=True)
class EncoderSpec:
    """Description of an encoder: everything but its weights."""

    architecture: str  # a timm name
    image_size: int  # px, square
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)  # per channel, of images in [0, 1]
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    small_stem: bool = False  # 3x3 stride-1 convolution without pooling instead of timm's stem
    model_args: Mapping[str, Any] = field(default_factory=dict, hash=False)  # more arguments of timm.create_model
    crop: float | None = None  # fraction of the short side that evaluation crops to; None: the paper's
    bits: int | None = None  # that the images of 16 bits in training used; None: there were none

    @property
    def has_normalization(self) -> bool:
        """True if images are normalized by mean and std."""
        return self.mean != (0.0, 0.0, 0.0) or self.std != (1.0, 1.0, 1.0)

    @property
    def crop_fraction(self) -> float:
        """Fraction of the short side that evaluation crops to."""
        if self.crop is not None:
            return self.crop
        return 1.0 if self.image_size <= SMALL_IMAGE_SIZE else EVALUATION_CROP_FRACTION


class Encoder(nn.Module):
    """f: a timm backbone without its classifier, for images in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, spec: EncoderSpec) -> None:
        super().__init__()
        self.memory_format = choose_memory_format(backbone, spec)
        self.backbone = backbone.to(memory_format=self.memory_format)
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)
        self.width = self._measure_width()

    def forward(self, x: Tensor) -> Tensor:
        """Compute h (M, width) of x (M, 3, S, S), floats in [0, 1]."""
        if self.spec.has_normalization:
            x = (x - self.mean) / self.std
        return cast(Tensor, self.backbone(x.contiguous(memory_format=self.memory_format)))

    def embed(self, pixels: Tensor) -> Tensor:
        """Compute h (M, width) float32 of pixels (M, 3, S, S) uint8, without gradient; call in eval mode."""
        with torch.inference_mode():
            return cast(Tensor, self(pixels.to(self.mean.device).float().div(255))).float()

    def _measure_width(self) -> int:
        """Return the width of h, measured: timm's attributes differ between families, the output does not."""
        size, training = self.spec.image_size, self.backbone.training
        device = next((p.device for p in self.backbone.parameters()), None)
        try:
            with torch.no_grad():
                h = self.backbone.eval()(torch.zeros(1, 3, size, size, device=device))
        except Exception as error:  # every family fails in its own way
            if is_out_of_memory(error):
                raise
            problem = f"{self.spec.architecture} cannot take images of {size} px ({summarize_error(error)})."
            raise EncoderError(problem, "image_size") from error
        self.backbone.train(training)
        if h.ndim != 2:
            problem = f"{self.spec.architecture} returns shape {tuple(h.shape)} instead of one vector per image."
            raise EncoderError(problem, "architecture")
        return int(h.shape[1])


def choose_memory_format(backbone: nn.Module, spec: EncoderSpec) -> torch.memory_format:
    """Choose channels_last, but contiguous for basic-block ResNets at 48 to 64 px on AVX-512 (docs/decisions/0005).

    And contiguous where Apple's GPU may be used: its convolutions have misread other weights (pytorch issue 192212).
    """
    if torch.backends.mps.is_available():
        return torch.contiguous_format
    has_basic_blocks = any(isinstance(module, BasicBlock) for module in backbone.modules())
    has_avx512 = not torch.accelerator.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    is_contiguous = has_basic_blocks and has_avx512 and 48 <= spec.image_size <= 64
    return torch.contiguous_format if is_contiguous else torch.channels_last


def check_architecture(name: str) -> None:
    """Check that timm has an architecture.

    Raises:
        SettingsError: it has not; with the closest names.
    """
    family, _, tag = name.partition(".")
    if timm.is_model(family):
        known_names = timm.list_pretrained(f"{family}.*") if tag else [name]
        if name in known_names:
            return
        closest = known_names[:3] or [family]
    else:
        closest = difflib.get_close_matches(family, timm.list_models(), n=3, cutoff=0.5)
    hint = f"The closest names are {', '.join(closest)}." if closest else "timm.list_models() lists the names."
    raise SettingsError(f"timm has no backbone named {name!r}.", hint)


@cache
def create_scratch_spec(name: str, image_size: int) -> EncoderSpec:
    """Create the spec for random weights: the small-image stem if it fits, no normalization."""
    check_architecture(name)
    spec = EncoderSpec(name, image_size, model_args=resolve_model_args(name, image_size))
    with seeded(0, Purpose.ENCODER):  # building the model must not advance the caller's random state
        return replace(spec, small_stem=image_size <= SMALL_IMAGE_SIZE and use_small_stem(create_model(spec)))


def create_trained_spec(name: str, image_size: int | None = None) -> EncoderSpec:
    """Create the spec for timm's trained weights: its stem, normalization and crop, and by default its image size.

    Raises:
        SettingsError: timm has no such architecture, or knows no normalization of it.
    """
    check_architecture(name)
    config = timm.get_pretrained_cfg(name)
    if config is None:
        raise EncoderError(f"timm has no mean and std for {name}.", "architecture")
    size = image_size or config.input_size[-1]
    return EncoderSpec(
        name, size, tuple(config.mean), tuple(config.std),
        model_args=resolve_model_args(name, size), crop=float(config.crop_pct),
    )  # fmt: skip


def resize_spec(spec: EncoderSpec, image_size: int) -> EncoderSpec:
    """Return the spec for another image size."""
    args = {**spec.model_args, **resolve_model_args(spec.architecture, image_size)}
    return replace(spec, image_size=image_size, model_args=args)


def create_encoder(spec: EncoderSpec, *, seed: int = 0) -> Encoder:
    """Create f; random weights depend only on the seed.

    Raises:
        SettingsError: unknown architecture, or an image size that it cannot take.
    """
    with seeded(seed, Purpose.ENCODER):
        return Encoder(create_model(spec), spec)


def create_encoder_from_weights(spec: EncoderSpec, state: Mapping[str, Tensor], source: str) -> Encoder:
    """Create f with the weights of `state`; a classifier among them is skipped, all others must fit exactly.

    Weights that do not fit are first converted as timm does: position embeddings to another image size, old names.

    Args:
        source: origin of the weights, for the error.

    Raises:
        SettingsError: unknown architecture, or weights of another one; raised before the encoder takes memory.
    """
    if _describe_misfit(spec, state):
        state = _convert_state(spec, state)
    if misfit := _describe_misfit(spec, state):
        raise EncoderError(f"{source} does not hold the weights of {spec.architecture}: {misfit}.", "state")
    encoder = create_encoder(spec)
    encoder.backbone.load_state_dict({key: state[key] for key in _compute_shapes(spec)})
    return encoder


def _describe_misfit(spec: EncoderSpec, state: Mapping[str, Tensor]) -> str:
    """Describe the tensors of `state` that do not fit the encoder, or return ""."""
    expected_shapes, shapes = _compute_shapes(spec), get_shapes(state)
    missing = sorted(expected_shapes.keys() - shapes.keys())
    mismatched = sorted(key for key in expected_shapes.keys() & shapes.keys() if expected_shapes[key] != shapes[key])
    classifier = timm.get_pretrained_cfg_value(spec.architecture, "classifier") or ()
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    unexpected = sorted(key for key in shapes.keys() - expected_shapes.keys() if not key.startswith(heads))
    if not (missing or mismatched or unexpected):
        return ""
    return (
        f"{len(missing)} tensors are missing, {len(mismatched)} have another shape, {len(unexpected)} are unexpected "
        f"(the first is {(missing or mismatched or unexpected)[0]})"
    )


def _convert_state(spec: EncoderSpec, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Convert weights by the function with which timm loads its own into this architecture, if it has one."""
    with seeded(0, Purpose.ENCODER), torch.device("meta"):
        model = create_model(spec)
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        return cast(Mapping[str, Tensor], convert(dict(state), model)) if convert else state
    except Exception:  # weights of another architecture, which fail in any way
        return state


@cache
def _compute_shapes(spec: EncoderSpec) -> dict[str, torch.Size]:
    """Return the shape of every tensor of an encoder, without memory for it."""
    with seeded(0, Purpose.ENCODER), torch.device("meta"):
        return get_shapes(create_model(spec).state_dict())


def get_shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Return the shape of every tensor."""
    return {name: tensor.shape for name, tensor in state.items()}


def has_batch_norm(encoder: Encoder) -> bool:
    """Return True if, in training, h of an image depends on the other images of its batch."""
    return any(isinstance(module, BatchNorm) for module in encoder.modules())


def synchronize_norms(encoder: Encoder) -> None:
    """Make batch norms use the images of all processes (torch's SyncBatchNorm: GPUs only); the weights stay."""
    encoder.backbone = convert_sync_batchnorm(encoder.backbone)  # type: ignore[no-untyped-call]


def use_small_stem(backbone: nn.Module) -> bool:
    """Make a ResNet keep the resolution of small images: 3x3 stride-1 first convolution, no max-pool (B.9).

    Returns:
        True if the backbone has such a stem now; other backbones stay unchanged.
    """
    first, pool = getattr(backbone, "conv1", None), getattr(backbone, "maxpool", None)
    if pool is None:
        return False
    if isinstance(first, nn.Conv2d):
        conv = nn.Conv2d(first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        backbone.conv1 = conv
    elif isinstance(first, nn.Sequential) and isinstance(first[0], nn.Conv2d):
        first[0].stride = (1, 1)  # a deep stem: three 3x3 convolutions, the first of stride 2
    else:
        return False
    backbone.maxpool = nn.Identity()
    return True


def resolve_model_args(name: str, image_size: int) -> dict[str, Any]:
    """Return the arguments of timm.create_model: the image size for backbones with position embeddings."""
    config = timm.get_pretrained_cfg(name)
    return {"img_size": image_size} if config is not None and config.fixed_input_size else {}


def create_model(spec: EncoderSpec, *, classes: int = 0) -> nn.Module:
    """Create timm's model with random weights, and with its classifier if there are classes."""
    check_architecture(spec.architecture)
    try:
        model = timm.create_model(spec.architecture, pretrained=False, num_classes=classes, **spec.model_args)
    except Exception as error:  # every family fails in its own way
        if is_out_of_memory(error):
            raise
        problem = f"timm cannot build {spec.architecture} with {dict(spec.model_args)} ({summarize_error(error)})."
        raise EncoderError(problem, "image_size") from error
    if spec.small_stem:
        use_small_stem(model)
    return model


def summarize_error(error: BaseException) -> str:
    """Return the first line of an error's message, shortened, or its type if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
