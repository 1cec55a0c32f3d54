"""A settings dataclass -> a Typer command: names, types, defaults and help are read from the fields.

What Typer says of a wrong usage has whatever was typed made safe to show.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperGroup

from simclr_cli.core.text import safe

JSON_HELP = "Print the result as one JSON object on stdout."
DEBUG_HELP = "Show the traceback of an error."
UsageError: Any = typer.BadParameter.__bases__[0]  # which Typer has under no public name


def as_command(settings_class: type[Any], run: Callable[[dict[str, Any], bool, bool], None]) -> Callable[..., None]:
    """A function whose signature Typer can read: a parameter for each setting, then --json and --debug.

    Args:
        run: called with (values by setting name, json, debug).
    """

    def command(**values: Any) -> None:
        as_json, debug = values.pop("as_json"), values.pop("debug")
        for field in also_options:
            if (given := values.pop(f"{field.name}_option")) is not None:
                if values[field.name] is not None:
                    raise typer.BadParameter("It is given twice.", param_hint=f"--{field.name}")
                values[field.name] = given
        run({name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}, as_json, debug)

    hints, fields = get_type_hints(settings_class), dataclasses.fields(settings_class)
    also_options = [field for field in fields if field.metadata["option"]]
    parameters = [_parameter(field, hints[field.name]) for field in fields]
    for field in also_options:
        option = typer.Option(f"--{field.name}", help="The same, as an option.", show_default=False, readable=False)
        parameters.append(_keyword(f"{field.name}_option", Annotated[hints[field.name], option], None))
    parameters.append(_keyword("as_json", Annotated[bool, typer.Option("--json", help=JSON_HELP)], False))
    parameters.append(_keyword("debug", Annotated[bool, typer.Option("--debug", help=DEBUG_HELP)], False))
    # An option may follow an argument without default, but a parameter may not: all are keyword-only.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameter(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    help_text, default = field.metadata["help"], field.default
    if hint == tuple[Path, ...]:
        hint, default = list[Path], []
    if hint == tuple[str, ...]:
        hint, default = list[str], []
    if field.metadata["argument"]:
        # readable: whether a file may be read is ours to find out, and to say with a way out.
        taken = typer.Argument(help=help_text, show_default=False, readable=False)
        return _keyword(field.name, Annotated[hint, taken], default)
    names = ["--" + field.name.replace("_", "-")]
    if field.metadata["short"]:
        names.append("-" + field.metadata["short"])
    shown: bool | str = default not in (None, "") and not isinstance(default, bool)
    option = typer.Option(*names, help=help_text, show_default=shown, readable=False)
    return _keyword(field.name, Annotated[hint, option], default)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


@contextlib.contextmanager
def _safely() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        error.message = safe(error.message)
        raise


class Commands(TyperGroup):
    """The verbs; errors of their parsing pass through here."""

    def make_context(self, *given: Any, **more: Any) -> Any:
        with _safely():
            return super().make_context(*given, **more)

    def invoke(self, ctx: Any) -> Any:
        with _safely():
            return super().invoke(ctx)
