"""Thumbnails on one sheet: in the order of the rows, as large as the sheet allows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simclr_cli.images.thumbnails import MAX_SHEET_SIDE, MAX_TILE_SIDE, tile_side, write_sprite


@pytest.mark.parametrize("count", [1, 2, 4, 5, 9, 10, 16_384, 16_385, 100_000, 1_000_000, 60_000_000])
def test_thumbnails_fill_a_square_within_the_limit(count: int) -> None:
    across = int(np.ceil(np.sqrt(count)))
    side = tile_side(count)
    assert across * side <= MAX_SHEET_SIDE and 1 <= side <= MAX_TILE_SIDE
    assert side == MAX_TILE_SIDE or across * (side + 1) > MAX_SHEET_SIDE  # no larger ones would do


def color(i: int) -> tuple[int, int, int]:
    return (40 * i, 255 - 40 * i, 128)


def test_thumbnails_are_in_the_order_of_the_rows(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        Image.new("RGB", (90 + 10 * i, 200 - 20 * i), color(i)).save(path)
    paths[2].write_bytes(b"no image")
    seen: list[tuple[int, int]] = []
    write_sprite(tmp_path / "s.png", paths, workers=2, progress=lambda *done: seen.append(done))
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    assert sheet.shape == (3 * 64, 3 * 64, 3)
    tiles = sheet.reshape(3, 64, 3, 64, 3).swapaxes(1, 2).reshape(9, 64 * 64, 3)
    for i, tile in enumerate(tiles):
        assert (tile == (color(i) if i < 5 and i != 2 else (128, 128, 128))).all(), i
    assert seen == [(i + 1, 5) for i in range(5)]


def test_the_middle_square_is_shown(tmp_path: Path) -> None:
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, 100:200] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    write_sprite(tmp_path / "s.png", [tmp_path / "wide.png"], workers=1)
    assert np.asarray(Image.open(tmp_path / "s.png"))[:, 2:-2].min() == 255
