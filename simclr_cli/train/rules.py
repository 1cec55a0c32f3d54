"""Rules of the plan: the value of each automatic setting of `pretrain`, with its reason.

Training from random weights follows the paper, in few epochs. From trained weights it is an adaptation: the figures
are in docs/which-encoder.md and docs/decisions/0036.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from simclr_cli.api import ResolvedSettings
from simclr_cli.api.views import MAX_AUTO_SIZE_ON_CPU, MAX_AUTO_SIZE_ON_GPU, PRESETS, ResolvedViews
from simclr_cli.engine.encoder import SMALL_IMAGE_SIZE
from simclr_cli.engine.optim import peak_learning_rate
from simclr_cli.images.colors import UNKNOWN_COLORS, Colors
from simclr_cli.images.threads import count_workers

IMAGE_SIZES = (32, 48, 64, 96, 128, 160, 224)  # px
LEARNING_RATE_BASES = {"linear": 0.3, "sqrt": 0.075, "none": 0.002}
MIN_IMAGES_TO_HOLD_OUT, HELD_OUT_ONE_IN, MAX_HELD_OUT = 640, 25, 256  # images
ADAPTED_SIZE_ON_CPU = 128  # px, three times as fast as 224: figures in docs/which-encoder.md
ADAPTATION_STEPS = 50  # of two views each; three times as many gained little more
ADAPTATION_RATES = {"distill": 5e-4, "nt-xent": 1e-4, "transformer": 3e-5}
TRANSFORMER_LAYER_DECAY = 0.75  # of BEiT and MAE
ADAPTATION_VIEWS = {"crop_min": 0.4, "color_strength": 0.0, "grayscale": 0.0, "blur": 0.0}  # for distillation
PAPER_SMALL = f"the paper's at {SMALL_IMAGE_SIZE} px and below (CIFAR-10)"
PAPER_LARGE = f"the paper's above {SMALL_IMAGE_SIZE} px (ImageNet)"


@dataclass(frozen=True)
class InitialWeights:
    """The weights that training starts from, chosen before the plan, as they may have to be fetched."""

    weights: str = "none"
    reason: str = "random, as in the paper"
    backbone: str = ""
    own_size: int = 0  # px, of trained weights
    is_transformer: bool = False


RANDOM = InitialWeights()


@dataclass(frozen=True)
class Circumstances:
    """The images and the machine, which the choices depend on."""

    images: int
    short_side: int  # the images' median, px
    device: torch.device
    processes: int = 1  # of the training
    memory: int = sys.maxsize  # free bytes for each of them
    has_fast_bfloat16: bool = False  # each of them
    start: InitialWeights = RANDOM
    colors: Colors = UNKNOWN_COLORS  # of a run that is resumed, too

    @property
    def is_gpu(self) -> bool:
        """Return whether the device is not the CPU."""
        return self.device.type != "cpu"

    @property
    def kind(self) -> str:
        """Return the kind of device for a reason: a GPU, a CPU."""
        return "a GPU" if self.is_gpu else "a CPU"


Chosen = tuple[Any, str]  # a value and its reason


def _choose_view_setting(name: str, settings: ResolvedViews, here: Circumstances) -> Chosen:
    """Choose a setting of the views."""
    if name == "workers":
        return count_workers(), "one per core"
    if name == "image_size" and here.start.own_size > ADAPTED_SIZE_ON_CPU and not here.is_gpu:
        own = f"the weights' own {here.start.own_size} px"
        return ADAPTED_SIZE_ON_CPU, f"smaller than {own}: {here.kind} trains and embeds it in less time"
    if name == "image_size" and here.start.own_size:
        return here.start.own_size, "the trained weights' own"
    if name == "image_size":
        largest = MAX_AUTO_SIZE_ON_GPU if here.is_gpu else MAX_AUTO_SIZE_ON_CPU
        fitting = [side for side in IMAGE_SIZES if side <= min(largest, 1.25 * here.short_side)]
        size = max(fitting, default=IMAGE_SIZES[0])
        limit = f"; {largest} px is the largest that {here.kind} trains in reasonable time"
        is_limited = size == largest < here.short_side
        return size, f"the images' median short side is {here.short_side} px{limit if is_limited else ''}"
    if here.start.own_size and getattr(settings, "loss", None) == "distill" and name in ADAPTATION_VIEWS:
        return ADAPTATION_VIEWS[name], "mild, as the embeddings to keep are those of whole images"
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


def _choose_preset(settings: ResolvedViews, here: Circumstances) -> Chosen:
    """Choose the preset: grayscale for gray images, unless the views of distillation are chosen; else none."""
    if not here.colors.are_gray or getattr(settings, "loss", None) == "distill":
        return None, ""
    return "grayscale", f"all {here.colors.sampled} sampled images are gray"


def _choose_train_size(settings: ResolvedSettings, here: Circumstances) -> Chosen:
    if here.start.own_size and not here.is_gpu and settings.image_size > ADAPTED_SIZE_ON_CPU:
        return ADAPTED_SIZE_ON_CPU, f"what {here.kind} trains in minutes; larger images then gain too"
    return settings.image_size, "the image size"


def _choose_loss(settings: ResolvedSettings, here: Circumstances) -> Chosen:
    is_contrastive = settings.temperature or settings.group_by or settings.duplicates != "keep" or settings.preset
    if here.start.own_size and settings.train_size < here.start.own_size and not is_contrastive:
        return "distill", f"keeps the neighbors that the trained weights find at {here.start.own_size} px"
    return "nt-xent", "the paper's"


def _choose_trained_part(_: ResolvedSettings, here: Circumstances) -> Chosen:
    return "all", "the others are not measured" if here.start.own_size else "random weights must all be trained"


def _choose_frozen_norms(_: ResolvedSettings, here: Circumstances) -> Chosen:
    if here.start.is_transformer:
        return True, "transformers have none"
    if here.start.own_size:
        return True, "estimated anew, they cost 15 to 31 points of linear accuracy"
    return False, "the paper's"


def _choose_device(_: ResolvedSettings, here: Circumstances) -> Chosen:
    return str(here.device), "the first GPU" if here.is_gpu else "no GPU that torch can use"


def _choose_weights(_: ResolvedSettings, here: Circumstances) -> Chosen:
    return here.start.weights, here.start.reason


def _choose_backbone(settings: ResolvedSettings, here: Circumstances) -> Chosen:
    if here.start.own_size:
        return here.start.backbone, f"the default for trained weights on {here.kind}"
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


def _choose_epochs(settings: ResolvedSettings, here: Circumstances) -> Chosen:
    if here.start.own_size:
        steps = max(1, (here.images - settings.held_out) // settings.batch_size)
        return max(1, round(ADAPTATION_STEPS / steps)), f"about {ADAPTATION_STEPS} steps adapt trained weights"
    seen, least, most = (20_000_000, 100, 800) if here.is_gpu else (150_000, 10, 100)
    epochs = max(least, min(most, round(seen / here.images)))
    return epochs, f"to see about {seen:,} images, within {least} to {most} epochs on {here.kind}"


def _choose_warmup_epochs(settings: ResolvedSettings, here: Circumstances) -> Chosen:
    if here.start.own_size:
        return round(0.3 * settings.epochs, 1), "three tenths, for trained weights"
    return min(10, settings.epochs // 10), "the paper's 10, but at most a tenth of the epochs"


def _choose_temperature(settings: ResolvedSettings, _: Circumstances) -> Chosen:
    if settings.loss == "distill":
        return 0.1, "not used: that of the distillation follows from the similarities of the images"
    return (0.5, PAPER_SMALL) if settings.image_size <= SMALL_IMAGE_SIZE else (0.1, PAPER_LARGE)


def _choose_optimizer(settings: ResolvedSettings, _: Circumstances) -> Chosen:
    if settings.batch_size >= 1024:
        return "lars", "the paper's, made for large batches"
    return "adamw", "learns faster in few steps; lars, the paper's, pays from batches of 1,024 on"


def _choose_learning_rate_rule(settings: ResolvedSettings, _: Circumstances) -> Chosen:
    if settings.optimizer == "adamw":
        return "none", "adamw's rate does not depend on the batch size"
    return "sqrt", "better than linear at small batches and few epochs (table B.1), equal at 4,096"


def _choose_learning_rate(settings: ResolvedSettings, here: Circumstances) -> Chosen:
    if here.start.own_size and settings.lr_rule == "none":
        kind = "transformer" if here.start.is_transformer else "distill" if settings.loss == "distill" else "nt-xent"
        reason = "as published; not measured by us" if here.start.is_transformer else "the rate that we have measured"
        return ADAPTATION_RATES[kind], f"for trained weights: {reason}"
    base = LEARNING_RATE_BASES[settings.lr_rule]
    peak = peak_learning_rate(base, settings.lr_rule, settings.batch_size)
    return base, f"the base of the rule {settings.lr_rule}; the peak is {peak:.4g}"


def _choose_weight_decay(settings: ResolvedSettings, _: Circumstances) -> Chosen:
    return (0.01, "torch's for adamw") if settings.optimizer == "adamw" else (1e-6, "the paper's")


def _choose_layer_decay(_: ResolvedSettings, here: Circumstances) -> Chosen:
    if here.start.is_transformer:
        return TRANSFORMER_LAYER_DECAY, "as published for trained transformers; not measured by us"
    return 1.0, "the whole encoder learns at one rate"


def _choose_precision(_: ResolvedSettings, here: Circumstances) -> Chosen:
    if here.has_fast_bfloat16:
        return "bfloat16", "this GPU computes it faster; the loss stays in float32"
    if here.device.type == "cpu":
        return "float32", "training in bfloat16 was hardly faster on our CPU"
    return "float32", f"the safe choice on {here.kind} without fast bfloat16"


# The settings that have a rule, in order: a rule sees what was chosen before it.
VIEW_RULES: dict[str, Callable[[Any, Circumstances], Chosen]] = {
    "image_size": functools.partial(_choose_view_setting, "image_size"),
    "preset": _choose_preset,
    **{
        name: functools.partial(_choose_view_setting, name)
        for name in ("crop_min", "color_strength", "grayscale", "flip", "rotate", "blur", "workers")
    },
}
RULES: dict[str, Callable[[Any, Circumstances], Chosen]] = {
    "device": _choose_device,
    "weights": _choose_weights,
    "image_size": VIEW_RULES["image_size"],
    "train_size": _choose_train_size,
    "loss": _choose_loss,
    "train": _choose_trained_part,
    "freeze_batch_norm": _choose_frozen_norms,
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
    "layer_decay": _choose_layer_decay,
    "precision": _choose_precision,
    **VIEW_RULES,
}
