"""One look for all our pages: a title and sections in, one offline file of HTML out.

A page is whole by itself: style inline, images as data: URIs, no script; its Content-Security-Policy forbids the
browser to fetch anything. Text that is not `Markup` is escaped wherever it is put in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from simclr_cli.core.text import safe


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading, a sentence or two below it, and what there is to see."""

    heading: str
    lead: str = ""
    body: Markup = Markup("")
    note: str = ""  # beside the heading


def page(title: str, sections: Sequence[Section], *, lead: str = "") -> str:
    """A whole page.

    Args:
        title: in the browser's tab and on top.
        lead: a sentence or two below the title.

    Returns:
        HTML that UTF-8 can encode whatever the names on it were.
    """
    whole = render("page.html", title=title, lead=lead, sections=sections)
    return whole.encode("utf-8", "backslashreplace").decode("utf-8")


def render(template: str, **values: Any) -> Markup:
    """A template of this package filled in: strings with markup inert and what is unprintable as escapes."""
    return Markup(_environment().get_template(template).render(values))


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("simclr_cli.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) or not isinstance(value, str) else safe(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )
