"""The plan: every automatic setting of `pretrain` resolved once, each with its reason."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from simclr_cli.api import PreviewSettings, ResolvedSettings
from simclr_cli.api.views import LARGEST_ON_CPU, LARGEST_ON_GPU, PRESETS, ResolvedPreview, ResolvedViews
from simclr_cli.core.errors import InputError, SettingsError
from simclr_cli.core.events import Choice, gigabytes
from simclr_cli.engine.encoder import SMALL_IMAGE
from simclr_cli.engine.optim import peak_learning_rate
from simclr_cli.images.threads import count_workers

IMAGE_SIZES = (32, 48, 64, 96, 128, 160, 224)  # px
LEARNING_RATE_BASES = {"linear": 0.3, "sqrt": 0.075, "none": 0.002}
MEMORY_SHARE = 0.6  # of what is free, that the images of a micro-batch may take
TAKEN_OVER_KEPT = 1.5  # of a step: all that it takes, over what it keeps from forward to backward
COMPILE_PAYS = 600  # seconds of training from which on torch.compile's minute pays, at a gain of a tenth
HELD_OUT_FROM, HELD_OUT_ONE_IN, HELD_OUT_MOST = 640, 25, 256  # images
OF_SMALL = f"the paper's at {SMALL_IMAGE} px and below (CIFAR-10)"
OF_LARGE = f"the paper's above {SMALL_IMAGE} px (ImageNet)"
UNITS = {"image_size": " px", "batch_size": " images", "held_out": " images"}


@dataclass(frozen=True)
class Circumstances:
    """What the choices depend on."""

    images: int
    short_side: int  # the images' median, px
    device: torch.device
    processes: int = 1  # that work as one
    memory: int = sys.maxsize  # bytes that are free for each of them

    @property
    def gpu(self) -> bool:
        return self.device.type != "cpu"

    @property
    def place(self) -> str:
        return "a GPU" if self.gpu else "a CPU"


V = TypeVar("V", bound=ResolvedViews)

# The settings that have a rule, in order: a rule sees what was chosen before it.
VIEW_RULES = ("image_size", "crop_min", "color_strength", "grayscale", "flip", "rotate", "blur", "workers")
RULES = (
    "device", "image_size", "backbone", "batch_size", "held_out", "epochs", "warmup_epochs", "temperature",
    "optimizer", "lr_rule", "learning_rate", "weight_decay", "precision", *VIEW_RULES[1:],
)  # fmt: skip


def _view_rule(name: str, chosen: ResolvedViews, here: Circumstances) -> tuple[Any, str]:
    """Choose a setting of the views, and say why."""
    if name == "workers":
        return count_workers(), "one a core"
    if name == "image_size":
        most = LARGEST_ON_GPU if here.gpu else LARGEST_ON_CPU
        fitting = [side for side in IMAGE_SIZES if side <= min(most, 1.25 * here.short_side)]
        size = max(fitting, default=IMAGE_SIZES[0])
        limit = f", and {most} is what {here.place} trains in good time" if size == most < here.short_side else ""
        return size, f"the images' median short side is {here.short_side} px{limit}"
    if chosen.preset is not None:
        value, reason = PRESETS[chosen.preset][name]
        return value, f"the preset {chosen.preset}: {reason}"
    small = chosen.image_size <= SMALL_IMAGE
    value = PRESETS["small" if small else "photo"][name][0]
    if name == "rotate":
        return value, "the paper turns nothing; presets for images without an up and a down do"
    if name not in ("color_strength", "blur"):  # the same at every size
        return value, "the paper's (appendix A)"
    return value, OF_SMALL if small else OF_LARGE


def _rule(name: str, chosen: ResolvedSettings, here: Circumstances) -> tuple[Any, str]:
    """Choose a setting of `pretrain`, and say why."""
    adamw = chosen.optimizer == "adamw"
    match name:
        case "device":
            return str(here.device), "the first GPU" if here.gpu else "no GPU found"
        case "backbone" if here.gpu and here.images >= 50_000 and chosen.image_size >= 128:
            return "resnet50", f"{here.images:,} images of some size, and a GPU"
        case "backbone":
            return "resnet18", f"enough for {here.images:,} images on {here.place}"
        case "batch_size" if here.images < 16:
            return here.images, "all of them"
        case "batch_size":
            # The paper wants thousands. In a CPU's few epochs more steps seem to count for more (docs/decisions/0004-small-batches-on-a-cpu.md).
            most = 512 if here.gpu else 64
            size = min(most, 2 ** ((here.images // 4).bit_length() - 1))
            return size, f"a power of two, at most a quarter of the images and {most} on {here.place}"
        case "held_out":
            count = min(HELD_OUT_MOST, here.images // HELD_OUT_ONE_IN)
            if here.images < HELD_OUT_FROM or here.images - count < chosen.batch_size:
                return 0, "too few images to keep some out of training"
            of = f"one in {HELD_OUT_ONE_IN}, at most {HELD_OUT_MOST}"
            return count, f"{of}, to measure on what it does not learn from"
        case "epochs":
            seen, least, most = (20_000_000, 100, 800) if here.gpu else (150_000, 10, 100)
            epochs = max(least, min(most, round(seen / here.images)))
            return epochs, f"to see about {seen:,} images, within {least} to {most} epochs on {here.place}"
        case "warmup_epochs":
            return min(10, chosen.epochs // 10), "the paper's 10, but at most a tenth of the epochs"
        case "temperature":
            return (0.5, OF_SMALL) if chosen.image_size <= SMALL_IMAGE else (0.1, OF_LARGE)
        case "optimizer" if chosen.batch_size >= 1024:
            return "lars", "the paper's, made for large batches"
        case "optimizer":
            return "adamw", "learns faster in few steps; lars, the paper's, pays from batches of 1,024 on"
        case "lr_rule" if adamw:
            return "none", "adamw's rate is taken as it stands"
        case "lr_rule":
            return "sqrt", "better than linear at small batches and few epochs (table B.1), equal at 4,096"
        case "learning_rate":
            base = LEARNING_RATE_BASES[chosen.lr_rule]
            peak = peak_learning_rate(base, chosen.lr_rule, chosen.batch_size)
            return base, f"the base of the rule {chosen.lr_rule}; the peak is {peak:.4g}"
        case "weight_decay":
            return (0.01, "torch's for adamw") if adamw else (1e-6, "the paper's")
        case "precision":
            if here.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
                return "bfloat16", "this GPU computes it faster; the loss stays in float32"
            return "float32", f"the safe choice on {here.place} without fast bfloat16"
    return _view_rule(name, chosen, here)


def resolve(settings: ResolvedSettings, here: Circumstances) -> tuple[ResolvedSettings, tuple[Choice, ...]]:
    """Fill in what was left open.

    Raises:
        InputError: fewer than two images.
        SettingsError: settings that cannot work together.
    """
    if here.images < 2:
        raise InputError(
            "There are fewer than two images, and SimCLR learns by telling images apart.",
            "Give a folder of at least 2; a few hundred are a sensible least.",
        )
    settings, choices = _by_rules(settings, RULES, _rule, here)
    if here.images - settings.held_out < settings.batch_size and settings.held_out:
        raise SettingsError(
            f"--held-out {settings.held_out} of {here.images} images leaves less than a batch of "
            f"{settings.batch_size}.",
            "Make one of the two smaller.",
        )
    if settings.batch_size < here.processes:
        raise SettingsError(
            f"A batch of {settings.batch_size} images is too small for {here.processes} processes.",
            "Give a larger --batch-size, or fewer --devices.",
        )
    return settings, choices


def fit_to_decoded(
    chosen: ResolvedSettings, decoded: int, *, held_out_is_fixed: bool
) -> tuple[ResolvedSettings, list[Choice]]:
    """Give up what the images that could be decoded are too few for: the held-out ones, then a part of the batch.

    Args:
        held_out_is_fixed: their number was asked for, or is that of a run that goes on.

    Returns:
        The settings, and the lines of the plan that change.

    Raises:
        InputError: as many as asked for cannot be held out.
    """
    fewer: dict[str, Any] = {}
    if chosen.held_out and decoded - chosen.held_out < chosen.batch_size:
        if held_out_is_fixed:
            raise InputError(
                f"--held-out {chosen.held_out} of the {decoded} images that could be decoded leaves less than a "
                f"batch of {chosen.batch_size}.",
                "Give a smaller --held-out or --batch-size, or repair the images.",
            )
        fewer["held_out"] = 0
    if decoded < chosen.batch_size:
        fewer["batch_size"] = decoded
    reason = f"only {decoded} images could be decoded"
    lines = [_told(name, value, f"not {getattr(chosen, name)}: {reason}") for name, value in fewer.items()]
    return dataclasses.replace(chosen, **fewer), lines


def resolve_views(settings: PreviewSettings, here: Circumstances) -> tuple[ResolvedPreview, tuple[Choice, ...]]:
    """Fill in what was left open of the views, by the same rules."""
    return _by_rules(ResolvedPreview(**vars(settings)), VIEW_RULES, _view_rule, here)


def _by_rules(
    settings: V, names: Sequence[str], rule: Callable[[str, V, Circumstances], tuple[Any, str]], here: Circumstances
) -> tuple[V, tuple[Choice, ...]]:
    """What was left open is chosen by its rule, and every choice told."""
    choices = []
    for name in names:
        given = getattr(settings, name)
        value, reason = rule(name, settings, here) if given is None else (given, "as set")
        if name == "batch_size" and value > here.images:
            value, reason = here.images, f"shrunk from {value}: there are no more images"
        settings = dataclasses.replace(settings, **{name: value})
        choices.append(_told(name, value, reason))
    return settings, tuple(choices)


def _told(name: str, value: Any, reason: str) -> Choice:
    return Choice(name.replace("_", " "), f"{value}{UNITS.get(name, '')}", reason)


def choose_micro_batch(
    chosen: ResolvedSettings, here: Circumstances, kept: int, batch_norm: bool
) -> tuple[ResolvedSettings, Choice]:
    """How many images a process computes at once: all of its part of the batch, if the memory holds them.

    Args:
        kept: bytes that an image takes between forward and backward.
        batch_norm: whether f has it, which then sees a micro-batch and not the batch.
    """
    own = -(-chosen.batch_size // here.processes)
    taken = max(1, int(kept * TAKEN_OVER_KEPT))
    room = max(1, int(MEMORY_SHARE * here.memory / taken))
    if chosen.micro_batch is not None:
        value, reason = min(chosen.micro_batch, own), "as set"
    elif own <= room:
        value, reason = own, f"all at once, in about {gigabytes(own * taken)}"
    else:
        value = 2 ** (room.bit_length() - 1)
        reason = f"all {own} would take {gigabytes(own * taken)}, and {gigabytes(here.memory)} is free"
    if value < own:
        reason += f"; {-(-own // value)} make the batch, and all but one are computed twice"
        reason += f"; batch norm sees {value} images at a time" if batch_norm else ""
    return dataclasses.replace(chosen, micro_batch=value), Choice("micro batch", f"{value} images", reason)


def choose_compile(chosen: ResolvedSettings, here: Circumstances, seconds: float) -> tuple[ResolvedSettings, Choice]:
    """Whether torch.compile pays within a run that is estimated to take `seconds`: the last choice of the plan."""
    value, reason = chosen.compile, "as set"
    if value is None and here.device.type != "cuda":
        value, reason = "off", f"it gains nothing on {here.place}, and takes a minute"
    elif value is None:
        value = "on" if seconds >= COMPILE_PAYS else "off"
        reason = f"it takes about a minute, which {'pays' if value == 'on' else 'does not pay'} within this run"
    return dataclasses.replace(chosen, compile=value), Choice("compile", str(value), reason)
