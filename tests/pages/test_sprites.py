"""Sprite sheets: the position of each thumbnail, and limits of size."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from simclr_cli.pages.images import (
    JPEG_BLOCK,
    MAX_PIXELS_PER_PAGE,
    SHEET_SIDE,
    Pixels,
    SpriteSheet,
    choose_thumbnail_side,
    choose_thumbnail_step,
    count_columns,
    pack_sprites,
)


def make_flat_image(i: int, height: int, width: int) -> Pixels:
    """Return an image of one color, which depends on i."""
    return np.full((height, width, 3), (40 + i * 37 % 180, 40 + i * 91 % 180, 40 + i * 53 % 180), np.uint8)


def decode_sheet(sheet: SpriteSheet) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet.jpeg))))


def test_every_thumbnail_is_in_its_square_without_pixels_of_its_neighbors() -> None:
    side = 248  # four in a row
    images = [make_flat_image(i, 248 - 30 * (i % 3), 248 - 50 * (i % 2)) for i in range(19)]
    first, second = pack_sprites(iter(images), side)
    assert decode_sheet(first).shape == (4 * side, 4 * side, 3) and decode_sheet(second).shape == (side, 4 * side, 3)
    shapes = np.concatenate([first.shapes, second.shapes])
    assert len(shapes) == 19 and shapes.dtype == np.uint8
    for i, image in enumerate(images):
        height, width = image.shape[:2]
        square = i % 16
        top, left = square // 4 * side, square % 4 * side
        shown = decode_sheet(first if i < 16 else second)[top : top + height, left : left + width]
        assert np.abs(shown.astype(int) - image[0, 0]).max() <= 3


def test_missing_thumbnails_leave_their_squares_empty() -> None:
    (sheet,) = pack_sprites([make_flat_image(0, 64, 64), None, make_flat_image(2, 20, 64)], 64)
    assert sheet.shapes.tolist() == [[64, 64], [0, 0], [64, 20]]
    assert list(pack_sprites([], 64)) == []


@pytest.mark.parametrize(
    ("count", "side", "step"), [(1, 64, 1), (10_000, 64, 1), (40_000, 40, 1), (100_000, 24, 1), (400_000, 24, 4)]
)
def test_more_images_have_smaller_and_then_fewer_thumbnails(count: int, side: int, step: int) -> None:
    assert (choose_thumbnail_side(count), choose_thumbnail_step(count)) == (side, step)


@pytest.mark.parametrize("count", [1, 100, 16_384, 16_385, 70_000, 116_508, 116_509, 1_000_000, 10_000_000])
def test_a_browser_can_hold_all_sheets(count: int) -> None:
    side, step = choose_thumbnail_side(count), choose_thumbnail_step(count)
    assert -(-count // step) * side**2 <= MAX_PIXELS_PER_PAGE
    assert side % JPEG_BLOCK == 0 and count_columns(side) * side <= SHEET_SIDE
