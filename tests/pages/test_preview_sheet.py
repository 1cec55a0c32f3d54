"""The contact sheet: positions of views and crops, and any name and shape."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageFont

from simclr_cli.pages.preview import (
    COLORS,
    MARGIN,
    PreviewRow,
    choose_view_side,
    draw_contact_sheet,
    draw_crops,
    resize_view,
    shorten_text,
    wrap_text,
)

NAMES = (
    "plain.jpg",
    "\u72ac\u306e\u5199\u771f.png",
    "right-to-left \u202egnp.exe",
    b"half \xff\xfe bytes.png".decode("utf-8", "surrogateescape"),
    "line\nfeed\x1b[31m\0.png",
    "\U0001f98a e\u0301.png",
    "x" * 3000,
    "",
)


def make_row(
    name: str = "a.png", height: int = 60, width: int = 80, views: int = 3, side: int = 32, seed: int = 0
) -> PreviewRow:
    noise = np.random.default_rng(seed)
    image = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
    crops = np.tile(np.array([[0.25, 0.25, 0.5, 0.5]], dtype=np.float32), (views, 1))
    return PreviewRow(
        name, (height, width), image, crops, noise.integers(0, 256, (views, side, side, 3), dtype=np.uint8)
    )


def open_sheet(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    assert (image.format, image.mode) == ("PNG", "RGB")
    return image


def find_positions(sheet: np.ndarray, part: np.ndarray) -> list[tuple[int, int]]:
    """Return the top left corners of exact occurrences of a part."""
    height, width = part.shape[:2]
    same = (sheet[: len(sheet) - height + 1, : sheet.shape[1] - width + 1] == part[0, 0]).all(axis=2)
    return [(y, x) for y, x in np.argwhere(same) if np.array_equal(sheet[y : y + height, x : x + width], part)]


@pytest.mark.parametrize("side", [32, 64, 100, 224])
def test_every_view_is_on_the_sheet_pixel_for_pixel_in_reading_order(side: int) -> None:
    rows = [make_row(f"{i}.png", side=side, seed=i) for i in range(2)]
    sheet = np.asarray(open_sheet(draw_contact_sheet("Views", ["Some words."], rows)))
    zoom = choose_view_side(side) // side
    places = [find_positions(sheet, view.repeat(zoom, 0).repeat(zoom, 1)) for each in rows for view in each.views]
    assert all(len(found) == 1 for found in places)
    order = [found[0] for found in places]
    assert order == sorted(order)
    for (y, x), color in zip(order, COLORS[:3] * 2, strict=True):  # the edge below has the crop's color
        below = sheet[y + zoom * side : y + zoom * side + 4, x : x + zoom * side]
        assert (below == ImageColor.getrgb(color)).all()


@pytest.mark.parametrize(
    ("size", "side"), [(8, 128), (32, 128), (40, 120), (64, 128), (96, 96), (128, 128), (224, 224), (512, 256)]
)
def test_views_are_enlarged_by_whole_pixels_and_large_ones_scaled_down(size: int, side: int) -> None:
    assert choose_view_side(size) == side
    assert resize_view(np.zeros((size, size, 3), dtype=np.uint8), side).size == (side, side)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_name_fits_on_the_sheet(name: str) -> None:
    assert open_sheet(draw_contact_sheet(name, [name], [make_row(name)])).width < 1000


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 900), (900, 1), (30, 40), (400, 300)])
@pytest.mark.parametrize("views", [1, 7])
def test_any_shape_and_number_fits(height: int, width: int, views: int) -> None:
    sheet = open_sheet(draw_contact_sheet("Views", [], [make_row(height=height, width=width, views=views)] * 3))
    assert np.asarray(sheet)[:, -MARGIN + 2 :].min() > 240  # nothing in the margin


def test_a_crop_is_framed_at_its_position() -> None:
    white = np.full((100, 200, 3), 255, dtype=np.uint8)
    crops = np.array([[0.2, 0.5, 0.6, 0.25]], dtype=np.float32)
    image = np.asarray(
        draw_crops(PreviewRow("a", (100, 200), white, crops, np.zeros((1, 8, 8, 3), dtype=np.uint8)), 200, 100)
    )
    ys, xs = np.nonzero((image == ImageColor.getrgb(COLORS[0])).all(axis=2))
    assert image.shape == (100, 200, 3)
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (20, 79, 100, 149)
    assert (image[30:70, 110:140] == 255).all()


def test_an_image_keeps_its_shape() -> None:
    assert draw_crops(make_row(height=400, width=300), 160, 128).size == (96, 128)
    assert draw_crops(make_row(height=30, width=60), 160, 128).size == (160, 80)


@pytest.mark.parametrize("width", [20, 100, 1000])
@pytest.mark.parametrize("text", [*NAMES, "some words of a sentence " * 9], ids=range(len(NAMES) + 1))
def test_text_fits_its_width(text: str, width: int) -> None:
    font = ImageFont.load_default(15)
    for line in (shorten_text(text, 15, width), *wrap_text(text, 15, width)):
        assert line.isprintable() and font.getlength(line) <= width


def test_short_text_stays_and_wrapping_loses_no_word() -> None:
    assert shorten_text("a/b.png", 12, 200) == "a/b.png"
    words = "crop 0.08 to 1, color 1, grayscale 0.2, flip 0.5"
    lines = wrap_text(words, 15, 120)
    assert len(lines) > 1 and " ".join(lines) == words
    assert wrap_text("", 15, 100) == []
