"""The gallery, opened in Chromium: offline, safe with any name, every file's link exact, readable on a phone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from PIL import Image

from simclr_cli.pages.gallery import Found, Part, gallery_page
from simclr_cli.pages.images import as_data_uri


def uri(seed: int) -> str:
    return as_data_uri(np.random.default_rng(seed).integers(0, 256, (90, 60, 3), dtype=np.uint8), only_jpeg=True)


def found(path: str, **values: Any) -> Found:
    given = {"name": path, "label": Path(path).name, "link": Path(path).as_uri(), "uri": uri(0), "words": path}
    return Found(**{**given, **values})


def gallery(names: Sequence[bytes], groups: int = 3) -> str:
    """All of whose texts are these names."""
    texts = [os.fsdecode(name) for name in names]
    images = tuple(found(os.fsdecode(b"/images/" + name)) for name in names)
    parts = [
        Part(texts[g], texts[g + 1], images[g::groups], len(images[g::groups]) + g, marked=g > 0) for g in range(groups)
    ]
    return gallery_page(texts[0], texts[1], parts)


def elements(visited: Any) -> dict[str, int]:
    return visited.ask(
        "[...document.querySelectorAll('*')].reduce((n, e) => (n[e.tagName] = (n[e.tagName] || 0) + 1, n), {})"
    )


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark")])
def test_page_of_hostile_names_is_quiet_and_whole(
    visit: Callable[..., Any], nasty_names: Callable[[int], list[bytes]], width: int, scheme: str
) -> None:
    names = nasty_names(60)
    visited = visit(gallery(names), width=width, scheme=scheme)
    assert visited.complaints == []
    assert len(visited.requests) == 1 and visited.requests[0].startswith("file://")
    assert visited.ask("document.documentElement.scrollWidth") <= width  # no scrolling sideways
    wide = "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert visited.ask(f"{wide}.filter(e => !e.closest('.name, nav')).map(e => e.outerHTML)") == []
    assert visited.ask("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert visited.ask("document.images.length") == len(names)
    links = visited.ask("[...document.querySelectorAll('.gallery a')].map(a => a.href)")  # as the browser takes them
    assert sorted(map(unquote_to_bytes, links)) == sorted(b"file:///images/" + name for name in names)


def test_names_are_text_and_make_no_element(
    visit: Callable[..., Any], nasty_names: Callable[[int], list[bytes]]
) -> None:
    names = nasty_names(60)
    harmless = visit(gallery([b"%d.png" % i for i in range(len(names))]))
    expected = elements(harmless)
    hostile = visit(gallery(names))
    assert elements(hostile) == expected and hostile.complaints == []
    attributes = "[...document.querySelectorAll('*')].flatMap(e => [...e.attributes].map(a => a.name))"
    assert not [name for name in hostile.ask(attributes) if name.startswith("on")]
    shown = hostile.ask("[...document.querySelectorAll('figcaption .name')].map(e => e.textContent)")
    for name in ("<img src=x onerror=alert(1)>.png", "right-to-left \\u202egnp.exe", "half \\udcff\\udcfe bytes.png",
                 "new\\nline\\r\\n.png", "  spaces  ", "x" * 250 + ".png"):  # fmt: skip
        assert name in shown


def test_a_click_opens_the_file(visit: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"half \xff #1?%41 \xc3\xbc.png")
    with path.open("wb") as stream:
        Image.new("RGB", (31, 7), "teal").save(stream, "PNG")
    visited = visit(gallery_page("One", "", [Part("Found", "", (found(str(path)),), 1, marked=False)]))
    visited.page.click(".gallery a")
    visited.page.wait_for_url("**/half*")
    assert visited.ask("document.images[0].naturalWidth") == 31


@pytest.mark.parametrize("name", ["a.html", "a.HTM", "a.svg", "a.xhtml ", "a.html.", "a.pdf"])
def test_what_a_browser_opens_as_a_page_is_no_link(name: str) -> None:
    html = gallery_page("One", "", [Part("Found", "", (found(f"/images/{name}"),), 1, marked=False)])
    assert '<a href="file:' not in html and 'src="data:image/jpeg' in html


def test_the_sample_is_marked_what_is_gone_is_said_and_counts_are_told(visit: Callable[..., Any]) -> None:
    images = (found("/p/query.png"), found("/p/gone.png", uri=None), found("/p/third.png"))
    visited = visit(
        gallery_page("G", "Lead.", [Part("A", "", images, 12_345, True), Part("B", "", images[2:], 1, False)])
    )
    assert visited.ask("[...document.querySelectorAll('.sample .name')].map(e => e.textContent)") == ["query.png"]
    assert visited.ask("[...document.querySelectorAll('.absent')].map(e => e.innerText)") == ["not readable now"]
    notes = visited.ask("[...document.querySelectorAll('h2 .note')].map(e => e.innerText)")
    assert notes == ["the first 3 of 12,345 images", "1 image"]


def test_a_name_is_cut_in_its_middle_and_a_small_image_is_not_smoothed(visit: Callable[..., Any]) -> None:
    tiny = as_data_uri(np.zeros((8, 8, 3), np.uint8))
    one = found("/p/" + "long-" * 30 + "0001.jpg", uri=tiny, by_pixels=True)
    visited = visit(gallery_page("G", "", [Part("A", "", (one,), 1, False)]))
    boxes = visited.ask(
        "[...document.querySelectorAll('.name span')].map(e => [e.scrollWidth > e.clientWidth, e.textContent])"
    )
    assert boxes == [[True, ("long-" * 30)[:-4]], [False, "ong-0001.jpg"]]
    assert visited.ask("document.querySelector('.name').title") == one.name
    assert visited.ask("getComputedStyle(document.images[0]).imageRendering") == "pixelated"


def test_links_to_groups_are_few_or_none(visit: Callable[..., Any]) -> None:
    for groups, links in ((2, 0), (3, 3), (24, 24), (25, 0)):
        parts = [Part(f"Group {g}", "", (), 0, marked=False) for g in range(groups)]
        assert gallery_page("G", "", parts).count('href="#part-') == links
