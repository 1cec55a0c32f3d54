"""The gallery in Chromium: offline, safe with any name, exact links to files, readable on a phone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from PIL import Image

from simclr_cli.pages.gallery import GalleryGroup, GalleryImage, render_gallery
from simclr_cli.pages.images import as_data_uri


def make_uri(seed: int) -> str:
    return as_data_uri(np.random.default_rng(seed).integers(0, 256, (90, 60, 3), dtype=np.uint8), only_jpeg=True)


def make_image(path: str, **values: Any) -> GalleryImage:
    defaults = {
        "name": path,
        "label": Path(path).name,
        "link": Path(path).as_uri(),
        "uri": make_uri(0),
        "caption": path,
    }
    return GalleryImage(**{**defaults, **values})


def make_gallery(names: Sequence[bytes], groups: int = 3) -> str:
    """Return a gallery with these names in all of its texts."""
    texts = [os.fsdecode(name) for name in names]
    images = tuple(make_image(os.fsdecode(b"/images/" + name)) for name in names)
    parts = [
        GalleryGroup(texts[g], texts[g + 1], images[g::groups], len(images[g::groups]) + g, has_sample=g > 0)
        for g in range(groups)
    ]
    return render_gallery(texts[0], texts[1], parts)


def count_elements(visited: Any) -> dict[str, int]:
    return visited.ask(
        "[...document.querySelectorAll('*')].reduce((n, e) => (n[e.tagName] = (n[e.tagName] || 0) + 1, n), {})"
    )


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark")])
def test_page_of_hostile_names_is_complete_and_logs_nothing(
    visit: Callable[..., Any], nasty_names: Callable[[int], list[bytes]], width: int, scheme: str
) -> None:
    names = nasty_names(60)
    visited = visit(make_gallery(names), width=width, scheme=scheme)
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
    harmless = visit(make_gallery([b"%d.png" % i for i in range(len(names))]))
    expected = count_elements(harmless)
    hostile = visit(make_gallery(names))
    assert count_elements(hostile) == expected and hostile.complaints == []
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
    visited = visit(
        render_gallery("One", "", [GalleryGroup("GalleryImage", "", (make_image(str(path)),), 1, has_sample=False)])
    )
    visited.page.click(".gallery a")
    visited.page.wait_for_url("**/half*")
    assert visited.ask("document.images[0].naturalWidth") == 31


@pytest.mark.parametrize("name", ["a.html", "a.HTM", "a.svg", "a.xhtml ", "a.html.", "a.pdf"])
def test_files_that_a_browser_opens_as_pages_are_not_linked(name: str) -> None:
    html = render_gallery(
        "One", "", [GalleryGroup("GalleryImage", "", (make_image(f"/images/{name}"),), 1, has_sample=False)]
    )
    assert '<a href="file:' not in html and 'src="data:image/jpeg' in html


def test_sample_missing_thumbnails_and_counts_are_shown(visit: Callable[..., Any]) -> None:
    images = (make_image("/p/query.png"), make_image("/p/gone.png", uri=None), make_image("/p/third.png"))
    visited = visit(
        render_gallery(
            "G", "Lead.", [GalleryGroup("A", "", images, 12_345, True), GalleryGroup("B", "", images[2:], 1, False)]
        )
    )
    assert visited.ask("[...document.querySelectorAll('.sample .name')].map(e => e.textContent)") == ["query.png"]
    assert visited.ask("[...document.querySelectorAll('.absent')].map(e => e.innerText)") == ["cannot be read"]
    notes = visited.ask("[...document.querySelectorAll('h2 .note')].map(e => e.innerText)")
    assert notes == ["the first 3 of 12,345 images", "1 image"]


def test_a_long_name_is_cut_in_its_middle_and_a_small_image_is_not_smoothed(visit: Callable[..., Any]) -> None:
    tiny = as_data_uri(np.zeros((8, 8, 3), np.uint8))
    image = make_image("/p/" + "long-" * 30 + "0001.jpg", uri=tiny, is_pixelated=True)
    visited = visit(render_gallery("G", "", [GalleryGroup("A", "", (image,), 1, False)]))
    boxes = visited.ask(
        "[...document.querySelectorAll('.name span')].map(e => [e.scrollWidth > e.clientWidth, e.textContent])"
    )
    assert boxes == [[True, ("long-" * 30)[:-4]], [False, "ong-0001.jpg"]]
    assert visited.ask("document.querySelector('.name').title") == image.name
    assert visited.ask("getComputedStyle(document.images[0]).imageRendering") == "pixelated"


def test_links_to_groups_are_few_or_none(visit: Callable[..., Any]) -> None:
    for groups, links in ((2, 0), (3, 3), (24, 24), (25, 0)):
        parts = [GalleryGroup(f"Group {g}", "", (), 0, has_sample=False) for g in range(groups)]
        assert render_gallery("G", "", parts).count('href="#part-') == links
