"""Declaration and checks of a setting, and the settings that several commands share."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from operator import ge, gt, le
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from simclr_cli.core.errors import InputError, SettingsError

# Groups of options in the help, in their order; a field without one is among the plain options.
BASICS = "Basics"
LABELS = "Labels"
ENCODER = "Run and encoder"
VIEWS = "Views"
OPTIMIZATION = "Optimization"
OUTPUT = "Output"
HARDWARE = "Hardware"
FILES = "Files and resuming"
GENERAL = "General"
PANELS = (BASICS, LABELS, ENCODER, VIEWS, OPTIMIZATION, OUTPUT, HARDWARE, FILES, GENERAL)


def setting(
    default: Any,
    help: str,
    *,
    panel: str | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    exists: bool = False,
    argument: bool = False,
    option: bool = False,
    short: str | None = None,
) -> Any:
    """Declare a field with its help, its bounds, and its form on the command line.

    Args:
        panel: the group of options in the help, one of PANELS.
        exists: the path, or each of the paths, must exist.
        argument: the command line has a positional argument for it, instead of an option.
        option: the command line accepts a positional argument as an option too.
    """
    form = {"panel": panel, "argument": argument, "option": option, "short": short}
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "exists": exists}
    return field(default=default, metadata={"help": help, **form, **bounds})


def check_settings(settings: Any, *, paths: bool = True) -> None:
    """Check every value against its field's type and bounds, before torch is imported.

    Args:
        paths: check also that paths exist.

    Raises:
        SettingsError: a value has another type, is out of bounds, or is none of the choices.
        InputError: a path does not exist.
    """
    types = _get_value_types(type(settings))  # type: ignore[arg-type, unused-ignore]
    for declared in fields(settings):
        name, bounds = declared.name, declared.metadata
        value = getattr(settings, name)
        option = "--" + name.replace("_", "-")
        if not any(has_type(value, kind) for kind in types[name]):
            raise SettingsError(f"{option} is {value!r}, which is none of its values.", f"Set {option} differently.")
        if value is None:
            continue
        if paths and bounds["exists"]:
            for path in value if isinstance(value, tuple) else (value,):
                if not os.path.lexists(path):
                    raise InputError(f"There is no {path}.", "Check the path.")
        choices = [word for kind in types[name] if get_origin(kind) is Literal for word in get_args(kind)]
        if choices and value not in choices:
            raise SettingsError(f"{option} is {value!r}.", f"Choose one of {', '.join(choices)}.")
        if bound := _find_unmet_bound(value, bounds):
            raise SettingsError(f"{option} is {value}, and must be {bound}.", f"Set {option} to another value.")
        if name == "device" and not DEVICE.fullmatch(value):
            raise SettingsError(f"--device is {value!r}.", "Use cpu, cuda, cuda:1, mps or xpu.")


@cache
def _get_value_types(settings: type[Any]) -> dict[str, tuple[Any, ...]]:
    """Return the types that each field's value may have, cached because get_type_hints takes 5 ms."""
    hints = get_type_hints(settings).items()
    return {name: get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,) for name, hint in hints}


def has_type(value: Any, kind: Any) -> bool:
    """Return whether a value is of a type; any string is of a Literal, whose choices are checked apart."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(has_type(item, get_args(kind)[0]) for item in value)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, str if get_origin(kind) is Literal else kind)


def _find_unmet_bound(value: Any, bounds: Mapping[str, Any]) -> str | None:
    """Return in words the bound that a number does not meet; None if it meets all, or is no number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return "finite"
    for bound, words, meets in (("at_least", "at least", ge), ("above", "more than", gt), ("at_most", "at most", le)):
        if bounds[bound] is not None and not meets(value, bounds[bound]):
            return f"{words} {bounds[bound]}"
    return None


RUNS_FOLDER = Path("simclr-runs")
PAGE_SUFFIXES = (".html", ".htm")
MAX_IMAGE_SIZE = 2_048  # px; timm's largest is 1,024. More in a stranger's config.json would exhaust the memory
ENCODER_HELP = (
    "A run, a timm name for its trained weights, hf-hub:ID, local-dir:FOLDER, FILE.safetensors next to a config.json, "
    "NAME=FILE.safetensors, or random:NAME. Auto: the newest run (in a search: of the folder), or without one "
    "a default of trained weights."
)
OFFLINE_HELP = "Download nothing, as with HF_HUB_OFFLINE=1."
ACCEPT_LICENSE_HELP = "Download weights also under a license that is not permissive."
RUN_HELP = (
    "Name of the run, or the path of its folder: a shorter --encoder. Auto: the newest finished run under --runs."
)
ANY_RUN_HELP = "Name of the run, or the path of its folder. Auto: the newest run under --runs, finished or not."
RUNS_HELP = "Folder that holds the runs."
SEED_HELP = "Seed of every random choice. The same seed on the same machine gives the same result."
DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d+)?")  # more is known to torch, which is slow to import
DEVICE_HELP = "Device to compute on: cpu, cuda, cuda:1, mps or xpu. Auto: the first GPU that works, else the CPU."
DEVICES_HELP = (
    "Number of processes on this machine. Each uses a GPU of its own, or its share of the CPU. "
    "For several machines, use torchrun or srun."
)
WORKERS_HELP = (
    "Processes that read and decode images. 0 uses threads of the main process, one per core. Auto: one per core."
)
BATCH_SIZE_HELP = "Images embedded at once."


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a command, checked when they are created."""

    about: ClassVar[str]  # one line of help
    examples: ClassVar[tuple[str, str]]  # complete command lines
    resolved: ClassVar[bool] = False  # by a plan, perhaps long ago, so that its paths may no longer exist

    def __post_init__(self) -> None:
        check_settings(self, paths=not self.resolved)


@dataclass(frozen=True, kw_only=True)
class EncoderSettings(Settings):
    """Settings that choose an encoder, its images and its device."""

    images: Path | None = setting(None, "Folder of images. Auto: the run's own.", argument=True, exists=True)
    encoder: str | None = setting(None, ENCODER_HELP, panel=ENCODER)
    run: str | None = setting(None, RUN_HELP, panel=ENCODER)
    runs: Path = setting(RUNS_FOLDER, RUNS_HELP, panel=ENCODER)
    image_size: int | None = setting(
        None, "Side of the images in pixels. Auto: the encoder's own.",
        panel=ENCODER, at_least=8, at_most=MAX_IMAGE_SIZE,
    )  # fmt: skip
    offline: bool = setting(False, OFFLINE_HELP, panel=ENCODER)
    accept_license: bool = setting(False, ACCEPT_LICENSE_HELP, panel=ENCODER)
    seed: int = setting(0, SEED_HELP, panel=GENERAL, at_least=0, at_most=2**63 - 1)
    device: str | None = setting(None, DEVICE_HELP, panel=HARDWARE)
    workers: int | None = setting(None, WORKERS_HELP, panel=HARDWARE, at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder is not None and self.run is not None:
            raise SettingsError("--run and --encoder name two encoders.", "Remove one of them.")


def check_output_path(path: Path | None, *suffixes: str) -> None:
    """Check that a file to write has one of these suffixes, and that its folder exists.

    Raises:
        SettingsError: it has another suffix, is a folder, or is to be in a folder that does not exist.
    """
    if path is None:
        return
    if path.is_dir():
        raise SettingsError(f"--out is {path}, which is a folder.", "Set --out to the path of a file.")
    _check_parent(path)
    if path.suffix.lower() not in suffixes:
        *most, last = [suffix for suffix in suffixes if suffix != ".htm"]  # .html by another name
        allowed = f"{', '.join(most)} or {last}" if most else last
        raise SettingsError(
            f"--out is {path}, and must end in {allowed}.", f"Try --out {path.with_suffix(suffixes[0])}"
        )


def check_output_folder(path: Path | None) -> None:
    """Check that a folder to write is no file, and that it is to be in a folder that exists.

    Raises:
        SettingsError: one of the two is not so.
    """
    if path is None:
        return
    if path.exists() and not path.is_dir():
        raise SettingsError(f"--out is {path}, which is a file.", "Set --out to the path of a folder.")
    _check_parent(path)


def _check_parent(path: Path) -> None:
    if not path.absolute().parent.is_dir():
        raise SettingsError(f"--out is {path}, and there is no folder {path.parent}.", "Create it, or change --out.")
