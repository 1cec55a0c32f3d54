"""The page of views: every image and setting on it, as it is, and every stranger's text inert."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from simclr_cli.core.events import Choice
from simclr_cli.pages.preview import COLORS, Row, preview_page

CHOICES = [Choice("crop min", "0.2", "the preset microscopy: <b>why</b>")]


class Seen(HTMLParser):
    """The images and the words of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.words += data


def row(name: str, side: int = 16) -> Row:
    flat = np.kron(np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)
    image = np.zeros((30, 40, 3), dtype=np.uint8)
    return Row(name, (300, 400), image, np.array([[0, 0, 1, 1]] * 2, dtype=np.float32), flat[:, :side, :side])


def pixels(source: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def test_page_shows_each_image_its_views_and_the_reasons() -> None:
    rows = [row("a.png"), row("b.png")]
    seen = Seen(preview_page("Views of x", "64 px.", ["Notice this."], rows, CHOICES))
    assert len(seen.images) == 2 * (1 + 2)
    for wanted in ("Views of x", "64 px.", "Notice this.", "a.png", "b.png", "400 x 300 px", "crop min", "microscopy"):
        assert wanted in seen.words
    for shown, view in zip(seen.images[1:3], rows[0].views, strict=True):
        assert np.array_equal(pixels(shown["src"] or "")[::8, ::8], view)  # 16 px at 128, no pixel changed
    assert [image["style"] for image in seen.images[1:3]] == [f"border-color: {color}" for color in COLORS[:2]]
    assert all((image["src"] or "").startswith("data:image/") for image in seen.images)


@pytest.mark.parametrize(
    "name",
    ["<img src=x onerror=alert(1)>.png", '"><script>1</script>', "\u202egnp", "\udcff\udcfe.png"],
)
def test_no_name_becomes_markup(name: str) -> None:
    html = preview_page(name, name, [name], [row(name)], [Choice(name, name, name)])
    html.encode("utf-8")
    seen = Seen(html)
    assert len(seen.images) == 3 and "script" not in seen.tags and "b" not in seen.tags
    assert "\u202e" not in html
