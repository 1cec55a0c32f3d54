"""Thumbnails of many images: one by one, or on one square sheet (sprite) for the Embedding Projector."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from simclr_cli.core.files import write_file
from simclr_cli.images.decode import Pixels, decode_center_square, decode_thumbnail
from simclr_cli.images.decode_pool import isolate
from simclr_cli.images.formats import UnusableImage
from simclr_cli.images.threads import map_in_order

MAX_SHEET_SIDE = 8_192  # px: the projector's limit
MAX_TILE_SIDE = 64  # px of a thumbnail on the sheet


def make_thumbnails(
    paths: Sequence[Path],
    side: int,
    workers: int,
    *,
    oversampling: int = 1,
    square: bool = False,
    convert: Callable[[Pixels], Any] = np.asarray,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Generator[Any, None, None]:
    """Yield a thumbnail of every image in order, None for one that cannot be decoded.

    Args:
        side: px of a square that a thumbnail fits into; the aspect ratio is kept, and smaller images are not enlarged.
        oversampling: images are decoded at no less than this times `side`.
        square: whether a thumbnail is the center square of the image instead, of exactly `side`.
        convert: applied to the pixels (H, W, 3) by the threads that decode.
        progress: called with (thumbnails done, thumbnails in total).
    """
    decode = isolate(decode_center_square if square else decode_thumbnail, workers)
    sizes = (side,) if square else (side, oversampling * side)
    with closing(map_in_order(lambda path: convert(decode(path, *sizes)), paths, workers)) as results:
        for done, result in enumerate(results, start=1):
            progress(done, len(paths))
            yield None if isinstance(result, UnusableImage) else result


def tile_side(count: int) -> int:
    """Return the side of each of `count` thumbnails on a sheet, px: as large as possible, at most MAX_TILE_SIDE."""
    return max(1, min(MAX_TILE_SIDE, MAX_SHEET_SIDE // _tiles_per_row(count)))


def write_sprite(
    target: Path, paths: Sequence[Path], *, workers: int, progress: Callable[[int, int], None] = lambda *_: None
) -> None:
    """Write the sheet as PNG: center squares, row by row; gray for an image that cannot be decoded."""
    columns, side = _tiles_per_row(len(paths)), tile_side(len(paths))
    sheet = Image.new("RGB", (columns * side, columns * side), "gray")
    for i, tile in enumerate(make_thumbnails(paths, side, workers, square=True, progress=progress)):
        if tile is not None:
            sheet.paste(Image.fromarray(tile), (i % columns * side, i // columns * side))
    write_file(target, lambda stream: sheet.save(stream, "PNG"))


def _tiles_per_row(count: int) -> int:
    return math.isqrt(max(count, 1) - 1) + 1
