"""How a setting is declared and checked, and the settings that several commands share."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from operator import ge, gt, le
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from simclr_cli.core.errors import InputError, SettingsError


def setting(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    exists: bool = False,
    argument: bool = False,
    option: bool = False,
    short: str | None = None,
) -> Any:
    """A field with its help, its bounds, and how the command line takes it (option, or positional argument).

    Args:
        exists: the path, or each of the paths, must be there.
        option: a positional argument may be given as an option too.
    """
    taken = {"argument": argument, "option": option, "short": short}
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "exists": exists}
    return field(default=default, metadata={"help": help, **taken, **bounds})


def check(settings: Any, *, paths: bool = True) -> None:
    """Check every value against its field's bounds; here, because it is before torch is imported.

    Args:
        paths: whether those that must be there are looked for.

    Raises:
        SettingsError: a value of another type, a number out of bounds, or a word that is no choice.
        InputError: a path that is not there.
    """
    kinds = _kinds(type(settings))  # type: ignore[arg-type, unused-ignore]
    for declared in fields(settings):
        name, bounds = declared.name, declared.metadata
        value = getattr(settings, name)
        option = "--" + name.replace("_", "-")
        if not any(_is_a(value, kind) for kind in kinds[name]):
            raise SettingsError(f"{option} is {value!r}, which is none of its values.", f"Give {option} another value.")
        if value is None:
            continue
        if paths and bounds["exists"]:
            for path in value if isinstance(value, tuple) else (value,):
                if not os.path.lexists(path):
                    raise InputError(f"There is no {path}.", "Check the path.")
        choices = [word for kind in kinds[name] if get_origin(kind) is Literal for word in get_args(kind)]
        if choices and value not in choices:
            raise SettingsError(f"{option} is {value!r}.", f"Choose one of {', '.join(choices)}.")
        if wanted := _unmet(value, bounds):
            raise SettingsError(f"{option} is {value}, and must be {wanted}.", f"Give {option} another value.")


@cache
def _kinds(settings: type[Any]) -> dict[str, tuple[Any, ...]]:
    """Return the types that each field's value may have, which take 5 ms to look up."""
    hints = get_type_hints(settings).items()
    return {name: get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,) for name, hint in hints}


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; words of a Literal are seen to by themselves."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_a(one, get_args(kind)[0]) for one in value)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, str if get_origin(kind) is Literal else kind)


def _unmet(value: Any, bounds: Mapping[str, Any]) -> str | None:
    """The bound that a number does not meet, in words; None for what meets all, or is no number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return "finite"
    for bound, words, met in (("at_least", "at least", ge), ("above", "more than", gt), ("at_most", "at most", le)):
        if bounds[bound] is not None and not met(value, bounds[bound]):
            return f"{words} {bounds[bound]}"
    return None


RUNS = Path("simclr-runs")
PAGES = (".html", ".htm")
MOST_SIDE = 4_096  # px: a config.json that says more was not written by a run, and would take all memory
DEVICE = "Where to compute: cpu, cuda, cuda:1, mps. Auto: the first GPU, else the CPU."
WORKERS = "Processes that read and decode images; 0: threads of this one, one a core. Auto: one a core."
DEVICES = (
    "Processes on this machine that work as one, each on a GPU of its own, or on its share of the CPU. "
    "For several machines: torchrun or srun."
)
RUN = "Name of the run, or the path of its folder. Auto: the newest finished run under --runs."
ANY_RUN = "Name of the run, or the path of its folder. Auto: the newest under --runs, finished or not."
EMBEDDED_AT_ONCE = "Images embedded at once."
RUNS_HELP = "The folder that runs are kept in."
SEED = "Every random choice follows from it; same seed, same machine, same result."


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that are checked as they are made."""

    about: ClassVar[str]  # what the verb does, in a line of help
    examples: ClassVar[tuple[str, str]]  # to be typed as they stand
    resolved: ClassVar[bool] = False  # by a plan, perhaps long ago, so that what was there may have gone

    def __post_init__(self) -> None:
        check(self, paths=not self.resolved)


@dataclass(frozen=True, kw_only=True)
class EncoderSettings(Settings):
    """Which encoder to use, and where: shared by the verbs that use one."""

    images: Path | None = setting(None, "The folder of images. Auto: the run's own.", argument=True, exists=True)
    run: str | None = setting(None, RUN)
    runs: Path = setting(RUNS, RUNS_HELP)
    backbone: str | None = setting(None, "Take a plain timm model of this name instead of a run.")
    weights: str = setting("none", "Weights of --backbone: none (random), imagenet (timm's), or a .safetensors file.")
    image_size: int = setting(
        224, "Side of the images for --backbone; a run has its own.", at_least=8, at_most=MOST_SIDE
    )
    seed: int = setting(0, SEED, at_least=0, at_most=2**63 - 1)
    device: str | None = setting(None, DEVICE)
    workers: int | None = setting(None, WORKERS, at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone is not None and self.run is not None:
            raise SettingsError("--run and --backbone name two encoders.", "Leave one of them out.")
        if self.backbone is None and self.weights != "none":
            raise SettingsError("--weights belongs to --backbone; a run has its own.", "Add --backbone NAME.")
        if self.backbone is not None and self.images is None:
            raise SettingsError("A plain --backbone has no images of its own.", "Name the folder of images.")


def check_out(out: Path | None, *endings: str) -> None:
    """Check that a file to write has one of these endings.

    Raises:
        SettingsError: it has another one, or is a folder.
    """
    if out is None:
        return
    if out.is_dir():
        raise SettingsError(f"--out is {out}, which is a folder.", "Give the path of a file.")
    if out.suffix.lower() not in endings:
        *most, last = [ending for ending in endings if ending != ".htm"]  # .html by another name
        wanted = f"{', '.join(most)} or {last}" if most else last
        raise SettingsError(f"--out is {out}, and must end in {wanted}.", f"Try --out {out.with_suffix(endings[0])}")
