"""How a setting is declared, with its help and bounds, and how its value is checked."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import field, fields
from functools import cache
from operator import ge, gt, le
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

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
