"""A timm name -> encoder f and the width of h; the small-image stem (section 2.1, appendix B.9)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, cast

import timm
import torch
from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]
from timm.models.resnet import BasicBlock
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from simclr_cli.core.errors import MachineError, SettingsError
from simclr_cli.core.seeds import Purpose, seeded

SMALL_IMAGE = 32  # px; at and below it the stem keeps the resolution, and evaluation does not crop
EVALUATION_CROP = 0.875  # share of the short side that evaluation keeps above SMALL_IMAGE


@dataclass(frozen=True)
class EncoderSpec:
    """All that is needed to build an encoder again, but its weights."""

    architecture: str  # a timm name
    image_size: int  # px, square
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)  # per channel, of images in [0, 1]
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    small_stem: bool = False  # 3x3 stride-1 convolution without pooling in place of timm's own stem
    model_args: Mapping[str, Any] = field(default_factory=dict, hash=False)  # further arguments to timm.create_model

    @property
    def normalizes(self) -> bool:
        """Whether the weights came with statistics."""
        return self.mean != (0.0, 0.0, 0.0) or self.std != (1.0, 1.0, 1.0)

    @property
    def crop(self) -> float:
        """Share of the short side that evaluation keeps."""
        return 1.0 if self.image_size <= SMALL_IMAGE else EVALUATION_CROP


class Encoder(nn.Module):
    """f: a timm backbone without its classifier, fed images in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, spec: EncoderSpec) -> None:
        super().__init__()
        self.layout = fastest_layout(backbone, spec)
        self.backbone = backbone.to(memory_format=self.layout)
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)
        self.width = self._measure_width()

    def forward(self, x: Tensor) -> Tensor:
        """(M, 3, S, S) floats in [0, 1] -> h (M, width)."""
        if self.spec.normalizes:
            x = (x - self.mean) / self.std
        return cast(Tensor, self.backbone(x.contiguous(memory_format=self.layout)))

    def represent(self, pixels: Tensor) -> Tensor:
        """(M, 3, S, S) uint8 -> h (M, width) float32, without gradient; call in eval mode."""
        with torch.inference_mode():
            return cast(Tensor, self(pixels.to(self.mean.device).float().div(255))).float()

    def _measure_width(self) -> int:
        """The width of h as it comes out: timm's attributes differ between families, the output does not."""
        size, training = self.spec.image_size, self.backbone.training
        device = next((p.device for p in self.backbone.parameters()), None)
        try:
            with torch.no_grad():
                h = self.backbone.eval()(torch.zeros(1, 3, size, size, device=device))
        except Exception as error:  # each family has its own way to fail at a size
            raise SettingsError(
                f"{self.spec.architecture} cannot take images of {size} px ({first_line(error)}).",
                "Choose another --image-size (many transformers want a multiple of 16 or 32) or --backbone.",
            ) from error
        self.backbone.train(training)
        if h.ndim != 2:
            raise SettingsError(
                f"{self.spec.architecture} gives {tuple(h.shape)} instead of one vector an image.",
                "Choose another --backbone.",
            )
        return int(h.shape[1])


def fastest_layout(backbone: nn.Module, spec: EncoderSpec) -> torch.memory_format:
    """channels_last, but for basic-block ResNets at 48 to 64 px on an AVX-512 processor (docs/decisions/0005-cpu-layout-threads-and-memory.md)."""
    basic = any(isinstance(module, BasicBlock) for module in backbone.modules())
    cpu = not torch.accelerator.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    contiguous = basic and cpu and 48 <= spec.image_size <= 64
    return torch.contiguous_format if contiguous else torch.channels_last


def check_name(name: str) -> None:
    """Raise SettingsError with the closest names if timm does not know this one."""
    plain, _, tag = name.partition(".")
    if timm.is_model(plain):
        known = timm.list_pretrained(f"{plain}.*") if tag else [name]
        if name in known:
            return
        close = known[:3] or [plain]
    else:
        close = difflib.get_close_matches(plain, timm.list_models(), n=3, cutoff=0.5)
    hint = f"The closest names are {', '.join(close)}." if close else "timm.list_models() lists the names."
    raise SettingsError(f"timm has no backbone named {name!r}.", hint)


@cache
def scratch_spec(name: str, image_size: int) -> EncoderSpec:
    """The spec of an encoder that starts from random weights: small-image stem where it fits, no normalization."""
    check_name(name)
    spec = EncoderSpec(name, image_size, model_args=image_size_args(name, image_size))
    with seeded(0, Purpose.ENCODER):  # a look only: no random number of anyone's is used up
        return replace(spec, small_stem=image_size <= SMALL_IMAGE and use_small_stem(create_model(spec)))


def pretrained_spec(name: str, image_size: int) -> EncoderSpec:
    """The spec of an encoder that starts from trained weights: timm's own stem, mean and std."""
    check_name(name)
    config = timm.get_pretrained_cfg(name)
    if config is None:
        raise SettingsError(f"timm has no mean and std for {name}.", "Use --weights none, or another --backbone.")
    return EncoderSpec(
        name, image_size, tuple(config.mean), tuple(config.std), model_args=image_size_args(name, image_size)
    )


def create_encoder(spec: EncoderSpec, *, seed: int = 0, imagenet: bool = False) -> Encoder:
    """Build f; random weights are a function of the seed alone.

    Raises:
        SettingsError: unknown name, or a size that it cannot take.
        MachineError: `imagenet` weights that are neither on this machine nor to be had.
    """
    with seeded(seed, Purpose.ENCODER):
        return Encoder(_create_pretrained(spec) if imagenet else create_model(spec), spec)


def create_encoder_of(spec: EncoderSpec, state: Mapping[str, Tensor], source: str) -> Encoder:
    """Build f with given weights; a classifier among them is skipped, anything else must fit exactly.

    Raises:
        SettingsError: unknown name, or the weights belong to another architecture; no memory has been taken for it.
    """
    own, given = _shapes_of(spec), shapes(state)
    missing = sorted(own.keys() - state.keys())
    odd = sorted(key for key in own.keys() & state.keys() if own[key] != given[key])
    classifier = timm.get_pretrained_cfg_value(spec.architecture, "classifier") or ()
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    surplus = sorted(key for key in state.keys() - own.keys() if not key.startswith(heads))
    if missing or odd or surplus:
        raise SettingsError(
            f"{source} does not hold the weights of {spec.architecture}: {len(missing)} tensors are missing, "
            f"{len(odd)} have another shape, {len(surplus)} are too many ({(missing or odd or surplus)[0]}, for one).",
            "Name the architecture that they belong to with --backbone.",
        )
    encoder = create_encoder(spec)
    encoder.backbone.load_state_dict({key: state[key] for key in own})
    return encoder


@cache
def _shapes_of(spec: EncoderSpec) -> dict[str, torch.Size]:
    """Of every tensor of an encoder, without memory for it."""
    with seeded(0, Purpose.ENCODER), torch.device("meta"):
        return shapes(create_model(spec).state_dict())


def shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Of every tensor."""
    return {name: tensor.shape for name, tensor in state.items()}


def has_batch_norm(encoder: Encoder) -> bool:
    """Whether what f makes of an image in training depends on the others beside it."""
    return any(isinstance(module, BatchNorm) for module in encoder.modules())


def synchronize_norms(encoder: Encoder) -> None:
    """Let batch norms see the images of all processes (torch's SyncBatchNorm: GPUs only); the weights stay."""
    encoder.backbone = convert_sync_batchnorm(encoder.backbone)  # type: ignore[no-untyped-call]


def use_small_stem(backbone: nn.Module) -> bool:
    """Let a ResNet keep the resolution of small images: 3x3 stride-1 first convolution, no max-pool (B.9).

    Returns:
        Whether the backbone has such a stem; others are left as they are.
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


def image_size_args(name: str, image_size: int) -> dict[str, Any]:
    """Backbones with position embeddings must be told the size of the images."""
    config = timm.get_pretrained_cfg(name)
    return {"img_size": image_size} if config is not None and config.fixed_input_size else {}


def create_model(spec: EncoderSpec, *, classes: int = 0) -> nn.Module:
    """Create timm's model with random weights, and with a classifier of its own if there are classes."""
    check_name(spec.architecture)
    try:
        model = timm.create_model(spec.architecture, pretrained=False, num_classes=classes, **spec.model_args)
    except Exception as error:  # each family has its own way to fail at a size
        raise SettingsError(
            f"timm cannot build {spec.architecture} with {dict(spec.model_args)} ({first_line(error)}).",
            "Choose another --image-size or --backbone.",
        ) from error
    if spec.small_stem:
        use_small_stem(model)
    return model


def _create_pretrained(spec: EncoderSpec) -> nn.Module:
    if spec.architecture.split(".")[0] not in {name.split(".")[0] for name in timm.list_pretrained()}:
        raise SettingsError(
            f"timm has no trained weights for {spec.architecture}.", "Use --weights none, or another --backbone."
        )
    try:
        return timm.create_model(spec.architecture, pretrained=True, num_classes=0, **spec.model_args)
    except Exception as error:  # the hub's client raises its own and its libraries' kinds
        raise MachineError(
            f"The trained weights of {spec.architecture} are not on this machine and could not be downloaded "
            f"({first_line(error)}).",
            "Connect to the network (they are kept for later), or pass them as --weights FILE.safetensors.",
        ) from error


def first_line(error: BaseException) -> str:
    """Return what an error says in its first line, cut short; its kind, if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
