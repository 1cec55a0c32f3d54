"""The template of every page: offline, and safe with any text."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from simclr_cli.core.text import escape_unprintable
from simclr_cli.pages.page import Section, render_page, render_template

HOSTILE = (
    "<img src=x onerror=alert(1)>.png",
    "\"double\" and 'single' & more.png",
    "right-to-left \u202egnp.exe",
    b"half \xff\xfe bytes.png".decode("utf-8", "surrogateescape"),
    "emoji \U0001f98a.png",
    "{{ 7 * 7 }} {% raw %}.png",
    "line\nfeed\x1b[31m.png",
    "x" * 200,
)


class ParsedPage(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_any_text_stays_text_in_every_place(name: str) -> None:
    plain = ParsedPage(render_page("title", [Section("heading", "lead", Markup("<p>name</p>"))], lead="lead"))
    html = render_page(name, [Section(name, name, Markup("<p>{}</p>").format(escape_unprintable(name)))], lead=name)
    parsed = ParsedPage(html)
    assert parsed.tags == plain.tags
    assert not [key for key, _ in parsed.attributes if key.startswith("on")]
    assert parsed.text.count(escape_unprintable(name)) == 6  # tab, title, two leads, heading, body
    assert html.encode("utf-8").isascii() or "\U0001f98a" in html
    assert "\u202e" not in html and "\x1b" not in html


def test_unprintable_characters_are_escaped() -> None:
    assert "<h1>a\\u202eb\\udcff&lt;</h1>" in render_page("a\u202eb\udcff<", [])


def test_the_policy_forbids_requests_and_scripts() -> None:
    parsed = ParsedPage(render_page("title", [Section("heading")]))
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert ("content", policy) in parsed.attributes
    assert "script" not in parsed.tags and "iframe" not in parsed.tags
    links = [value for key, value in parsed.attributes if key in ("src", "href")]
    assert all(value is not None and value.startswith(("data:", "#")) for value in links)


def test_markup_is_kept_and_surrogates_in_it_are_escaped() -> None:
    html = render_page("title", [Section("heading", body=Markup("<b>bold \udcff</b>"))])
    assert "<b>bold \\udcff</b>" in html
    html.encode("utf-8")


def test_sections_are_in_order_and_linked_from_three_on() -> None:
    few, many = (render_page("t", [Section(f"h{i}") for i in range(n)]) for n in (2, 3))
    assert "<nav" not in few and 'href="#part-3"' in many and 'id="part-3"' in many
    assert many.index(">h0</h2>") < many.index(">h1</h2>") < many.index(">h2</h2>")


def test_a_missing_value_of_a_template_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="title"):
        render_template("page.html", lead="", sections=[])
