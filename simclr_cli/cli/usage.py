"""What Typer says of a wrong usage, with whatever was typed made safe to show."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from simclr_cli.wording import safe

UsageError: Any = typer.BadParameter.__bases__[0]  # which Typer has under no public name


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
