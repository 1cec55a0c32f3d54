"""Conversion of a settings dataclass to a Typer command: names, types, defaults and help of its options.

Usage errors of Typer show what was typed with unprintable characters escaped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from simclr_cli.api.fields import GENERAL, PANELS
from simclr_cli.core.text import escape_unprintable

JSON_HELP = "Print the result as one JSON object on stdout."
DEBUG_HELP = "Show the traceback of an error."
UsageError: Any = typer.BadParameter.__bases__[0]  # Typer has no public name for it


def sort_fields(settings_class: type[Any]) -> list[dataclasses.Field[Any]]:
    """Return the fields of a settings class in the order of the help: by panel, and first those without one."""
    order = (None, *PANELS)
    return sorted(dataclasses.fields(settings_class), key=lambda field: order.index(field.metadata["panel"]))


def build_command(settings_class: type[Any], run: Callable[[dict[str, Any], bool, bool], None]) -> Callable[..., None]:
    """Build a function whose signature Typer can read: a parameter for each setting, then --json and --debug.

    Args:
        run: called with (values by setting name, json, debug).
    """

    def command(**values: Any) -> None:
        as_json, debug = values.pop("as_json"), values.pop("debug")
        for field in arguments_as_options:
            if (value := values.pop(f"{field.name}_option")) is not None:
                if values[field.name] is not None:
                    raise typer.BadParameter("It is given twice.", param_hint=f"--{field.name}")
                values[field.name] = value
        run({name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}, as_json, debug)

    hints, fields = get_type_hints(settings_class), sort_fields(settings_class)
    arguments_as_options = [field for field in fields if field.metadata["option"]]
    parameters = [_build_option(f"{field.name}_option", hints[field.name], None, "Same as the argument.",
                                f"--{field.name}", panel=field.metadata["panel"])
                  for field in arguments_as_options]  # fmt: skip
    parameters += [_build_parameter(field, hints[field.name]) for field in fields]
    panel = GENERAL if any(field.metadata["panel"] for field in fields) else None
    parameters.append(_build_option("as_json", bool, False, JSON_HELP, "--json", panel=panel))
    parameters.append(_build_option("debug", bool, False, DEBUG_HELP, "--debug", panel=panel))
    # An option may follow an argument without default, but a parameter may not: all are keyword-only.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _build_parameter(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    """Build the parameter of a setting."""
    help_text, default = field.metadata["help"], field.default
    if hint == tuple[Path, ...]:
        hint, default = list[Path], []
    if hint == tuple[str, ...]:
        hint, default = list[str], []
    if field.metadata["argument"]:
        argument = typer.Argument(help=help_text, show_default=False, readable=False)
        return _build_keyword(field.name, Annotated[hint, argument], default)
    names = ["--" + field.name.replace("_", "-")]
    if field.metadata["short"]:
        names.append("-" + field.metadata["short"])
    return _build_option(field.name, hint, default, help_text, *names, panel=field.metadata["panel"])


def _build_option(
    name: str, hint: Any, default: Any, help_text: str, *names: str, panel: str | None
) -> inspect.Parameter:
    """Build the parameter of an option."""
    show_default = default not in (None, "") and not isinstance(default, bool)
    has_choices = any(get_origin(kind) is Literal for kind in (hint, *get_args(hint)))  # the help names them
    # readable: the commands check themselves if a file can be read, with errors that say what to do.
    option = typer.Option(
        *names,
        help=help_text,
        show_default=show_default,
        metavar="<choice>" if has_choices else "<str>" if hint == list[str] else None,
        readable=False,
        rich_help_panel=panel,
    )
    return _build_keyword(name, Annotated[hint, option], default)


def _build_keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


@contextlib.contextmanager
def _escape_usage_errors() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        error.message = escape_unprintable(error.message.removeprefix("Value error, "))  # the words of its checks
        raise


class PlainTypes:
    """A command whose help shows no type for flags, which take no value, and a plain one for lists of paths."""

    def get_params(self, ctx: Any) -> Any:
        parameters = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
            if parameter.nargs == -1:  # typer shows list[Path]
                parameter.display_type_rich = lambda ctx: "<path>"
        return parameters


class Command(PlainTypes, TyperCommand):
    """A command whose --help is in the panel of its last option."""

    def get_help_option(self, ctx: Any) -> Any:
        option: Any = super().get_help_option(ctx)
        option.rich_help_panel = getattr(self.params[-1], "rich_help_panel", None)
        return option


class CommandGroup(PlainTypes, TyperGroup):
    """The group of all commands, through which their usage errors pass."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _escape_usage_errors():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _escape_usage_errors():
            return super().invoke(ctx)
