"""Sheets of thumbnails: each where the page looks for it, and no larger than a browser bears."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from simclr_cli.pages.images import (
    ALL_PIXELS,
    BLOCK,
    SHEET,
    Pixels,
    Sheet,
    columns,
    sheets,
    thumbnail_side,
    thumbnail_step,
)


def flat(place: int, high: int, wide: int) -> Pixels:
    """An image of one color, which tells its place."""
    return np.full((high, wide, 3), (40 + place * 37 % 180, 40 + place * 91 % 180, 40 + place * 53 % 180), np.uint8)


def pixels(sheet: Sheet) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet.jpeg))))


def test_every_thumbnail_lies_in_its_square_and_nothing_of_its_neighbors() -> None:
    side = 248  # four in a row
    images = [flat(i, 248 - 30 * (i % 3), 248 - 50 * (i % 2)) for i in range(19)]
    first, second = sheets(iter(images), side)
    assert pixels(first).shape == (4 * side, 4 * side, 3) and pixels(second).shape == (side, 4 * side, 3)
    shapes = np.concatenate([first.shapes, second.shapes])
    assert len(shapes) == 19 and shapes.dtype == np.uint8
    for place, image in enumerate(images):
        high, wide = image.shape[:2]
        within = place % 16
        top, left = within // 4 * side, within % 4 * side
        shown = pixels(first if place < 16 else second)[top : top + high, left : left + wide]
        assert np.abs(shown.astype(int) - image[0, 0]).max() <= 3


def test_what_cannot_be_shown_leaves_its_square_empty() -> None:
    (sheet,) = sheets([flat(0, 64, 64), None, flat(2, 20, 64)], 64)
    assert sheet.shapes.tolist() == [[64, 64], [0, 0], [64, 20]]
    assert list(sheets([], 64)) == []


@pytest.mark.parametrize(
    ("count", "side", "step"), [(1, 64, 1), (10_000, 64, 1), (40_000, 40, 1), (100_000, 24, 1), (400_000, 24, 4)]
)
def test_more_images_have_smaller_thumbnails_and_very_many_some(count: int, side: int, step: int) -> None:
    assert (thumbnail_side(count), thumbnail_step(count)) == (side, step)


@pytest.mark.parametrize("count", [1, 100, 16_384, 16_385, 70_000, 116_508, 116_509, 1_000_000, 10_000_000])
def test_a_browser_can_hold_all_sheets(count: int) -> None:
    side, step = thumbnail_side(count), thumbnail_step(count)
    assert -(-count // step) * side**2 <= ALL_PIXELS and side % BLOCK == 0 and columns(side) * side <= SHEET
