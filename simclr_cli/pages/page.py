"""The template of every page: a title and sections in, one offline HTML file out.

A page needs no other file: its style is inline and its images are data: URIs. Its Content-Security-Policy forbids the
browser to fetch anything, and only the map has a script. Text that is not `Markup` is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from simclr_cli.core.text import escape_unprintable


@dataclass(frozen=True)
class Section:
    """A section of a page."""

    heading: str
    lead: str = ""  # a sentence or two below the heading
    body: Markup = Markup("")
    note: str = ""  # next to the heading


def render_page(title: str, sections: Sequence[Section], *, lead: str = "") -> str:
    """Return a page as HTML that UTF-8 can encode, whatever its names hold.

    Args:
        title: in the browser's tab and at the top.
        lead: a sentence or two below the title.
    """
    html = render_template("page.html", title=title, lead=lead, sections=sections)
    return html.encode("utf-8", "backslashreplace").decode("utf-8")


def render_template(template: str, **values: Any) -> Markup:
    """Fill in a template of this package; markup in strings is escaped, and so are unprintable characters."""
    return Markup(_environment().get_template(template).render(values))


@cache
def _environment() -> Environment:
    """Return the one Jinja environment of the process."""
    return Environment(
        loader=PackageLoader("simclr_cli.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_escape_strings,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _escape_strings(value: Any) -> Any:
    return escape_unprintable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
