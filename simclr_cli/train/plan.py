"""The plan: every automatic setting of `pretrain` resolved once, each with its reason."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from simclr_cli.api import PreviewSettings, ResolvedSettings
from simclr_cli.api.views import MAX_AUTO_SIZE_ON_CPU, MAX_AUTO_SIZE_ON_GPU, PRESETS, ResolvedPreview, ResolvedViews
from simclr_cli.core.errors import InputError, SettingsError
from simclr_cli.core.events import Choice
from simclr_cli.core.text import format_gigabytes
from simclr_cli.engine.encoder import SMALL_IMAGE_SIZE
from simclr_cli.engine.optim import peak_learning_rate
from simclr_cli.images.threads import count_workers

IMAGE_SIZES = (32, 48, 64, 96, 128, 160, 224)  # px
LEARNING_RATE_BASES = {"linear": 0.3, "sqrt": 0.075, "none": 0.002}
MEMORY_SHARE = 0.6  # of the free memory, that the images of a micro-batch may take
PEAK_OVER_KEPT = 1.5  # the peak memory of a step, over what it keeps from forward to backward
MIN_SECONDS_TO_COMPILE = 600  # of training: its minute pays from there on, at a gain of a tenth
MIN_IMAGES_TO_HOLD_OUT, HELD_OUT_ONE_IN, MAX_HELD_OUT = 640, 25, 256  # images
PAPER_SMALL = f"the paper's at {SMALL_IMAGE_SIZE} px and below (CIFAR-10)"
PAPER_LARGE = f"the paper's above {SMALL_IMAGE_SIZE} px (ImageNet)"
UNITS = {"image_size": " px", "batch_size": " images", "held_out": " images"}


@dataclass(frozen=True)
class Circumstances:
    """The images and the machine, which the choices depend on."""

    images: int
    short_side: int  # the images' median, px
    device: torch.device
    processes: int = 1  # of the training
    memory: int = sys.maxsize  # free bytes for each of them

    @property
    def is_gpu(self) -> bool:
        """Return whether the device is not the CPU."""
        return self.device.type != "cpu"

    @property
    def kind(self) -> str:
        """Return the kind of device for a reason: a GPU, a CPU."""
        return "a GPU" if self.is_gpu else "a CPU"


V = TypeVar("V", bound=ResolvedViews)
Chosen = tuple[Any, str]  # a value and its reason


def _choose_view_setting(name: str, settings: ResolvedViews, here: Circumstances) -> Chosen:
    """Choose a setting of the views."""
    if name == "workers":
        return count_workers(), "one per core"
    if name == "image_size":
        largest = MAX_AUTO_SIZE_ON_GPU if here.is_gpu else MAX_AUTO_SIZE_ON_CPU
        fitting = [side for side in IMAGE_SIZES if side <= min(largest, 1.25 * here.short_side)]
        size = max(fitting, default=IMAGE_SIZES[0])
        limit = f"; {largest} px is the largest that {here.kind} trains in reasonable time"
        is_limited = size == largest < here.short_side
        return size, f"the images' median short side is {here.short_side} px{limit if is_limited else ''}"
    if settings.preset is not None:
        value, reason = PRESETS[settings.preset][name]
        return value, f"the preset {settings.preset}: {reason}"
    is_small = settings.image_size <= SMALL_IMAGE_SIZE
    value = PRESETS["small" if is_small else "photo"][name][0]
    if name == "rotate":
        return value, "the paper does not rotate; presets for images without an up and a down do"
    if name not in ("color_strength", "blur"):  # the same at every size
        return value, "the paper's (appendix A)"
    return value, PAPER_SMALL if is_small else PAPER_LARGE


def _choose_device(_: ResolvedSettings, here: Circumstances) -> Chosen:
    return str(here.device), "the first GPU" if here.is_gpu else "no GPU found"


def _choose_backbone(settings: ResolvedSettings, here: Circumstances) -> Chosen:
    if here.is_gpu and here.images >= 50_000 and settings.image_size >= 128:
        return "resnet50", f"{here.images:,} large images, and a GPU"
    return "resnet18", f"enough for {here.images:,} images on {here.kind}"


def _choose_batch_size(_: ResolvedSettings, here: Circumstances) -> Chosen:
    if here.images < 16:
        return here.images, "all images"
    # The paper uses thousands. In few epochs on a CPU more steps count for more (docs/decisions/0004).
    largest = 512 if here.is_gpu else 64
    size = min(largest, 2 ** ((here.images // 4).bit_length() - 1))
    return size, f"a power of two, at most a quarter of the images and {largest} on {here.kind}"


def _choose_held_out(settings: ResolvedSettings, here: Circumstances) -> Chosen:
    count = min(MAX_HELD_OUT, here.images // HELD_OUT_ONE_IN)
    if here.images < MIN_IMAGES_TO_HOLD_OUT or here.images - count < settings.batch_size:
        return 0, "too few images to hold some out"
    return count, f"one in {HELD_OUT_ONE_IN}, at most {MAX_HELD_OUT}, to validate on images that are not trained on"


def _choose_epochs(_: ResolvedSettings, here: Circumstances) -> Chosen:
    seen, least, most = (20_000_000, 100, 800) if here.is_gpu else (150_000, 10, 100)
    epochs = max(least, min(most, round(seen / here.images)))
    return epochs, f"to see about {seen:,} images, within {least} to {most} epochs on {here.kind}"


def _choose_warmup_epochs(settings: ResolvedSettings, _: Circumstances) -> Chosen:
    return min(10, settings.epochs // 10), "the paper's 10, but at most a tenth of the epochs"


def _choose_temperature(settings: ResolvedSettings, _: Circumstances) -> Chosen:
    return (0.5, PAPER_SMALL) if settings.image_size <= SMALL_IMAGE_SIZE else (0.1, PAPER_LARGE)


def _choose_optimizer(settings: ResolvedSettings, _: Circumstances) -> Chosen:
    if settings.batch_size >= 1024:
        return "lars", "the paper's, made for large batches"
    return "adamw", "learns faster in few steps; lars, the paper's, pays from batches of 1,024 on"


def _choose_learning_rate_rule(settings: ResolvedSettings, _: Circumstances) -> Chosen:
    if settings.optimizer == "adamw":
        return "none", "adamw's rate does not depend on the batch size"
    return "sqrt", "better than linear at small batches and few epochs (table B.1), equal at 4,096"


def _choose_learning_rate(settings: ResolvedSettings, _: Circumstances) -> Chosen:
    base = LEARNING_RATE_BASES[settings.lr_rule]
    peak = peak_learning_rate(base, settings.lr_rule, settings.batch_size)
    return base, f"the base of the rule {settings.lr_rule}; the peak is {peak:.4g}"


def _choose_weight_decay(settings: ResolvedSettings, _: Circumstances) -> Chosen:
    return (0.01, "torch's for adamw") if settings.optimizer == "adamw" else (1e-6, "the paper's")


def _choose_precision(_: ResolvedSettings, here: Circumstances) -> Chosen:
    if here.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16", "this GPU computes it faster; the loss stays in float32"
    return "float32", f"the safe choice on {here.kind} without fast bfloat16"


# The settings that have a rule, in order: a rule sees what was chosen before it.
VIEW_RULES: dict[str, Callable[[Any, Circumstances], Chosen]] = {
    name: functools.partial(_choose_view_setting, name)
    for name in ("image_size", "crop_min", "color_strength", "grayscale", "flip", "rotate", "blur", "workers")
}
RULES: dict[str, Callable[[Any, Circumstances], Chosen]] = {
    "device": _choose_device,
    "image_size": VIEW_RULES["image_size"],
    "backbone": _choose_backbone,
    "batch_size": _choose_batch_size,
    "held_out": _choose_held_out,
    "epochs": _choose_epochs,
    "warmup_epochs": _choose_warmup_epochs,
    "temperature": _choose_temperature,
    "optimizer": _choose_optimizer,
    "lr_rule": _choose_learning_rate_rule,
    "learning_rate": _choose_learning_rate,
    "weight_decay": _choose_weight_decay,
    "precision": _choose_precision,
    **VIEW_RULES,
}


def resolve(settings: ResolvedSettings, here: Circumstances) -> tuple[ResolvedSettings, tuple[Choice, ...]]:
    """Choose every setting that is open.

    Raises:
        InputError: fewer than two images.
        SettingsError: settings that cannot work together.
    """
    if here.images < 2:
        raise InputError(
            "There are fewer than two images, and SimCLR learns to tell images apart.",
            "Use a folder of at least 2; a few hundred are a sensible minimum.",
        )
    settings, choices = _apply_rules(settings, RULES, here)
    if here.images - settings.held_out < settings.batch_size and settings.held_out:
        raise SettingsError(
            f"--held-out {settings.held_out} of {here.images} images leaves no batch of {settings.batch_size}.",
            "Set one of the two smaller.",
        )
    if settings.batch_size < here.processes:
        raise SettingsError(
            f"A batch of {settings.batch_size} images is too small for {here.processes} processes.",
            "Set a larger --batch-size, or fewer --devices.",
        )
    return settings, choices


def fit_to_decoded_images(
    settings: ResolvedSettings, decoded: int, *, held_out_is_fixed: bool
) -> tuple[ResolvedSettings, list[Choice]]:
    """Fit the settings to the images that could be decoded: hold none out, then make the batch smaller.

    Args:
        held_out_is_fixed: their number was set, or is that of a resumed run.

    Returns:
        The settings, and the lines of the plan that change.

    Raises:
        InputError: as many as asked for cannot be held out.
    """
    changed: dict[str, Any] = {}
    if settings.held_out and decoded - settings.held_out < settings.batch_size:
        if held_out_is_fixed:
            raise InputError(
                f"--held-out {settings.held_out} of the {decoded} images that could be decoded leaves less than a "
                f"batch of {settings.batch_size}.",
                "Set a smaller --held-out or --batch-size, or repair the images.",
            )
        changed["held_out"] = 0
    if decoded < settings.batch_size:
        changed["batch_size"] = decoded
    reason = f"only {decoded} images could be decoded"
    choices = [_describe(name, new, f"not {getattr(settings, name)}: {reason}") for name, new in changed.items()]
    return dataclasses.replace(settings, **changed), choices


def resolve_views(settings: PreviewSettings, here: Circumstances) -> tuple[ResolvedPreview, tuple[Choice, ...]]:
    """Choose every setting of the views that is open, by the same rules."""
    return _apply_rules(ResolvedPreview(**vars(settings)), VIEW_RULES, here)


def _apply_rules(
    settings: V, rules: Mapping[str, Callable[[Any, Circumstances], Chosen]], here: Circumstances
) -> tuple[V, tuple[Choice, ...]]:
    """Choose every open setting by its rule, in order; return the settings and all choices with their reasons."""
    choices = []
    for name, rule in rules.items():
        value = getattr(settings, name)
        value, reason = rule(settings, here) if value is None else (value, "as set")
        if name == "batch_size" and value > here.images:
            value, reason = here.images, f"reduced from {value}: there are no more images"
        settings = dataclasses.replace(settings, **{name: value})
        choices.append(_describe(name, value, reason))
    return settings, tuple(choices)


def _describe(name: str, value: Any, reason: str) -> Choice:
    return Choice(name.replace("_", " "), f"{value}{UNITS.get(name, '')}", reason)


def choose_micro_batch(
    settings: ResolvedSettings, here: Circumstances, bytes_per_image: int, has_batch_norm: bool
) -> tuple[ResolvedSettings, Choice]:
    """Choose the images that a process computes at once: its whole part of the batch, if the memory holds it.

    Args:
        bytes_per_image: kept between forward and backward.
        has_batch_norm: whether f has it, which then sees a micro-batch and not the batch.
    """
    part = -(-settings.batch_size // here.processes)
    peak = max(1, int(bytes_per_image * PEAK_OVER_KEPT))
    fitting = max(1, int(MEMORY_SHARE * here.memory / peak))
    if settings.micro_batch is not None:
        value, reason = min(settings.micro_batch, part), "as set"
    elif part <= fitting:
        value, reason = part, f"all at once, in about {format_gigabytes(part * peak)}"
    else:
        value = 2 ** (fitting.bit_length() - 1)
        reason = f"all {part} would need {format_gigabytes(part * peak)}; {format_gigabytes(here.memory)} is free"
    if value < part:
        reason += f"; {-(-part // value)} make the batch, and all but one are computed twice"
        reason += f"; batch norm sees {value} images at a time" if has_batch_norm else ""
    return dataclasses.replace(settings, micro_batch=value), Choice("micro batch", f"{value} images", reason)


def choose_compile(settings: ResolvedSettings, here: Circumstances, seconds: float) -> tuple[ResolvedSettings, Choice]:
    """Choose whether to use torch.compile in a training of about `seconds`: the last choice of the plan."""
    value, reason = settings.compile, "as set"
    if value is None and here.device.type != "cuda":
        value, reason = "off", f"no gain on {here.kind}, and compiling takes a minute"
    elif value is None:
        value = "on" if seconds >= MIN_SECONDS_TO_COMPILE else "off"
        reason = f"compiling takes about a minute, which {'pays' if value == 'on' else 'does not pay'} within this run"
    return dataclasses.replace(settings, compile=value), Choice("compile", str(value), reason)
