"""Hooks of MkDocs: the help of settings, pipes in tables, and a check of the Python page."""

from __future__ import annotations

import dataclasses
import logging
import re
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import griffe

sys.path.insert(0, str(Path(__file__).parents[1]))

import simclr_cli  # of this tree; needs neither torch nor an installation

LOG = logging.getLogger("mkdocs.site")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Unescape pipes in code in tables, where GitHub needs the backslash and Python-Markdown would show it."""
    if page.file.src_uri == "python.md":
        for name in simclr_cli.__all__:
            if not name.startswith("__") and f"::: simclr_cli.{name}\n" not in markdown:
                LOG.warning("docs/python.md does not document simclr_cli.%s.", name)
    return re.sub(
        r"^\|.*$",
        lambda row: re.sub(r"`[^`]*`", lambda code: code[0].replace(r"\|", "|"), row[0]),
        markdown,
        flags=re.MULTILINE,
    )


class SettingsExtension(griffe.Extension):
    """An extension that adds the help of every setting to its class's docstring, which mkdocstrings shows."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Complete the docstrings of the public settings classes."""
        if pkg.path != "simclr_cli":
            return
        for name in simclr_cli.__all__:
            if name.endswith("Settings"):
                documented = pkg[name].final_target
                settings = getattr(simclr_cli, name)
                text = f"{settings.__doc__}\n\nAttributes:\n" + "".join(describe_settings(settings))
                documented.docstring = griffe.Docstring(text, parent=documented, parser="google")


def describe_settings(settings: Any) -> list[str]:
    """Return a line for each field of a settings class, in the format of an Attributes section."""
    hints = get_type_hints(settings)
    lines = []
    for field in dataclasses.fields(settings):
        default = f" Default: `{field.default}`." if isinstance(field.default, str | int | float | Path) else ""
        lines.append(f"    {field.name} ({name_type(hints[field.name])}): {field.metadata['help']}{default}\n")
    return lines


def name_type(hint: Any) -> str:
    """Return a type as in source code, with the words of a Literal spelled out."""
    if hint is type(None):
        return "None"
    if get_origin(hint) is Literal:
        return " | ".join(f'"{word}"' for word in get_args(hint))
    if get_origin(hint) is tuple:
        return f"tuple[{name_type(get_args(hint)[0])}, ...]"
    if get_args(hint):
        return " | ".join(name_type(kind) for kind in get_args(hint))
    return str(hint.__name__)
