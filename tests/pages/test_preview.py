"""The preview page: unchanged views, settings with reasons, and no markup from names."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from simclr_cli.core.events import Choice
from simclr_cli.pages.preview import COLORS, PreviewRow, render_preview

CHOICES = [Choice("crop min", "0.2", "the preset microscopy: <b>why</b>")]


class ParsedPage(HTMLParser):
    """The images and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def make_row(name: str, side: int = 16) -> PreviewRow:
    flat = np.kron(np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)
    image = np.zeros((30, 40, 3), dtype=np.uint8)
    return PreviewRow(name, (300, 400), image, np.array([[0, 0, 1, 1]] * 2, dtype=np.float32), flat[:, :side, :side])


def decode_uri(source: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def test_page_shows_images_views_and_reasons() -> None:
    rows = [make_row("a.png"), make_row("b.png")]
    parsed = ParsedPage(render_preview("Views of x", "64 px.", ["Notice this."], rows, CHOICES))
    assert len(parsed.images) == 2 * (1 + 2)
    for text in ("Views of x", "64 px.", "Notice this.", "a.png", "b.png", "400 x 300 px", "crop min", "microscopy"):
        assert text in parsed.text
    for image, view in zip(parsed.images[1:3], rows[0].views, strict=True):
        assert np.array_equal(decode_uri(image["src"] or "")[::8, ::8], view)  # 16 px at 128, no pixel changed
    assert [image["style"] for image in parsed.images[1:3]] == [f"border-color: {color}" for color in COLORS[:2]]
    assert all((image["src"] or "").startswith("data:image/") for image in parsed.images)


@pytest.mark.parametrize(
    "name",
    ["<img src=x onerror=alert(1)>.png", '"><script>1</script>', "\u202egnp", "\udcff\udcfe.png"],
)
def test_no_name_becomes_markup(name: str) -> None:
    html = render_preview(name, name, [name], [make_row(name)], [Choice(name, name, name)])
    html.encode("utf-8")
    parsed = ParsedPage(html)
    assert len(parsed.images) == 3 and "script" not in parsed.tags and "b" not in parsed.tags
    assert "\u202e" not in html
