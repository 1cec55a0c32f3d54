"""The one template: whole, offline, and safe with any text."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from simclr_cli.core.text import safe
from simclr_cli.pages.page import Section, page, render

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


class Seen(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_strangers_text_is_text_wherever_it_stands(name: str) -> None:
    plain = Seen(page("title", [Section("heading", "lead", Markup("<p>name</p>"))], lead="lead"))
    made = page(name, [Section(name, name, Markup("<p>{}</p>").format(safe(name)))], lead=name)
    seen = Seen(made)
    assert seen.tags == plain.tags
    assert not [key for key, _ in seen.attributes if key.startswith("on")]
    assert seen.words.count(safe(name)) == 6  # tab, title, two leads, heading, body
    assert made.encode("utf-8").isascii() or "\U0001f98a" in made
    assert "\u202e" not in made and "\x1b" not in made


def test_what_cannot_be_printed_is_shown_as_escapes() -> None:
    assert "<h1>a\\u202eb\\udcff&lt;</h1>" in page("a\u202eb\udcff<", [])


def test_a_page_forbids_the_browser_to_fetch_and_to_run_anything() -> None:
    seen = Seen(page("title", [Section("heading")]))
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert ("content", policy) in seen.attributes
    assert "script" not in seen.tags and "iframe" not in seen.tags
    links = [value for key, value in seen.attributes if key in ("src", "href")]
    assert all(value is not None and value.startswith(("data:", "#")) for value in links)


def test_markup_stays_and_half_bytes_in_it_do_not_stop_the_writing() -> None:
    made = page("title", [Section("heading", body=Markup("<b>bold \udcff</b>"))])
    assert "<b>bold \\udcff</b>" in made
    made.encode("utf-8")


def test_sections_come_in_order_and_are_linked_from_three_on() -> None:
    few, many = (page("t", [Section(f"h{i}") for i in range(n)]) for n in (2, 3))
    assert "<nav" not in few and 'href="#part-3"' in many and 'id="part-3"' in many
    assert many.index(">h0</h2>") < many.index(">h1</h2>") < many.index(">h2</h2>")


def test_a_template_that_lacks_a_value_is_our_bug_and_says_so() -> None:
    with pytest.raises(UndefinedError, match="title"):
        render("page.html", lead="", sections=[])
