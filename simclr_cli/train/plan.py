"""The plan: every automatic setting of `pretrain` resolved once, each with its reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from simclr_cli.api import PreviewSettings, ResolvedSettings
from simclr_cli.api.views import ResolvedPreview, ResolvedViews
from simclr_cli.core.errors import InputError, SettingsError
from simclr_cli.core.events import Choice
from simclr_cli.core.text import format_gigabytes
from simclr_cli.images.colors import Colors
from simclr_cli.train.rules import IMAGE_SIZES, RULES, VIEW_RULES, Chosen, Circumstances

MEMORY_SHARE = 0.6  # of the free memory, that the images of a micro-batch may take
PEAK_OVER_KEPT = 1.5  # the peak memory of a step, over what it keeps from forward to backward
MIN_SECONDS_TO_COMPILE = 600  # of training: its minute pays from there on, at a gain of a tenth
HOURS_SHARE = 0.85  # of --hours that is planned: the pace of a machine varies
MIN_EPOCHS, MAX_EPOCHS = 10, 1_000  # that --hours plans from random weights, with smaller images rather than fewer
MIN_ADAPTED_EPOCHS = 2
MIN_CROP_OF_DRAWINGS = 0.4  # of the area; not measured by us
UNITS = {"image_size": " px", "train_size": " px", "batch_size": " images", "held_out": " images"}

V = TypeVar("V", bound=ResolvedViews)


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


def fit_to_hours(
    settings: ResolvedSettings, requested: ResolvedSettings, seconds_per_epoch: float, other_seconds: float
) -> tuple[ResolvedSettings, str]:
    """Return the request with epochs, and a size of the views if it is open, by which the training ends within --hours.

    Of the time HOURS_SHARE is planned. The size is the largest at which there is time for a few epochs: an epoch
    takes time in proportion to the pixels.

    Args:
        settings: resolved without a limit.
        seconds_per_epoch: measured at the size of the views of `settings`.
        other_seconds: that the run takes besides.

    Returns:
        The request, to be resolved again, and the reason for the plan.

    Raises:
        SettingsError: one epoch of the smallest images takes longer.
    """
    assert requested.hours is not None
    budget = max(0.0, HOURS_SHARE * 3600 * requested.hours - other_seconds)
    is_adapted = settings.weights != "none"
    fewest, most = (MIN_ADAPTED_EPOCHS, 4 * settings.epochs) if is_adapted else (MIN_EPOCHS, MAX_EPOCHS)
    sizes = [size for size in IMAGE_SIZES[::-1] if size <= settings.train_size and requested.train_size is None]
    epochs, size = 0, settings.train_size
    for size in dict.fromkeys([settings.train_size, *sizes]):
        epochs = int(budget / (seconds_per_epoch * (size / settings.train_size) ** 2))
        if epochs >= fewest:
            break
    if epochs < 1:
        raise SettingsError(
            f"One epoch takes longer than --hours {requested.hours:g} at the measured pace.",
            "Set more --hours, a smaller --train-size, or a folder of fewer images.",
        )
    reason = f"to end within {requested.hours:g} hours at the measured pace, {seconds_per_epoch:.0f} s per epoch"
    fitted = dataclasses.replace(requested, hours=None, epochs=min(epochs, most), train_size=size)
    if not is_adapted and requested.image_size is None:
        fitted = dataclasses.replace(fitted, image_size=size)
    return fitted, reason


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


def warn_of_views(settings: ResolvedViews, colors: Colors) -> list[str]:
    """Return sentences about views that destroy what distinguishes such images."""
    sentences = []
    if colors.are_gray and settings.grayscale > 0:
        keeps_preset = settings.rotate > 0 or settings.preset == "grayscale"  # which does not rotate
        remedy = "Add --grayscale 0." if keeps_preset else "Use --preset grayscale."
        sentences.append(
            "All sampled images are gray: color jitter changes only their brightness and contrast, and grayscale views "
            f"nothing. {remedy}"
        )
    harms = {
        "--flip 0": f"a flip (probability {settings.flip:g}) makes another character" if settings.flip else "",
        "--rotate 0": f"a rotation (probability {settings.rotate:g}) makes another one" if settings.rotate else "",
        f"--crop-min {MIN_CROP_OF_DRAWINGS:g}": f"a crop of {100 * settings.crop_min:.0f} % shows one stroke"
        if settings.crop_min < MIN_CROP_OF_DRAWINGS
        else "",
    }
    harms = {option: harm for option, harm in harms.items() if harm}
    if colors.have_two and harms:
        sentences.append(
            f"The sampled images have two colors, as characters and drawings have: {', and '.join(harms.values())}. "
            f"If yours are such images, add {' '.join(harms)}."
        )
    return sentences


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
        if value is None:  # no preset
            continue
        settings = dataclasses.replace(settings, **{name: value})
        choices.append(_describe(name, value, reason))
    return settings, tuple(choices)


def _describe(name: str, value: Any, reason: str) -> Choice:
    shown = ("on" if value else "off") if isinstance(value, bool) else value
    return Choice(name.replace("_", " "), f"{shown}{UNITS.get(name, '')}", reason)


def choose_micro_batch(
    settings: ResolvedSettings, here: Circumstances, bytes_per_image: int, bytes_behind_cut: int, sees_batch: bool
) -> tuple[ResolvedSettings, Choice]:
    """Choose the images that a process computes at once: its whole part of the batch, if the memory holds it.

    The last micro-batch waits for the loss, and then takes its peak memory, when that of the loss is free again.

    Args:
        bytes_per_image: kept between forward and backward.
        bytes_behind_cut: of head and loss of the whole batch, while a micro-batch is kept.
        sees_batch: whether f has batch norms that are not frozen, which then see a micro-batch and not the batch.
    """
    part, available = -(-settings.batch_size // here.processes), MEMORY_SHARE * here.memory
    kept, peak = max(1, bytes_per_image), max(1, int(bytes_per_image * PEAK_OVER_KEPT))
    fitting = max(1, int(min(available / peak, (available - bytes_behind_cut) / kept)))
    needed = max(part * peak, part * kept + bytes_behind_cut)
    if settings.micro_batch is not None:
        value, reason = min(settings.micro_batch, part), "as set"
    elif part <= fitting:
        value, reason = part, f"all at once, in about {format_gigabytes(needed)}"
    else:
        value = 2 ** (fitting.bit_length() - 1)
        reason = f"all {part} would need {format_gigabytes(needed)}; {format_gigabytes(here.memory)} is free"
    if value < part:
        reason += f"; {-(-part // value)} make the batch, and all but one are computed twice"
        reason += f"; batch norm sees {value} images at a time" if sees_batch else ""
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
