"""Thumbnails of many images: one after the other, or on one square sheet as the Embedding Projector takes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from simclr_cli.core.files import write_file
from simclr_cli.images.decode import Pixels, UnusableImage, middle, small
from simclr_cli.images.decode_pool import apart
from simclr_cli.images.threads import each

SHEET_SIDE = 8_192  # px, at most: the projector's limit
TILE_SIDE = 64  # px of a thumbnail on the sheet, at most


def each_thumbnail(
    paths: Sequence[Path],
    side: int,
    workers: int,
    *,
    oversampling: int = 1,
    square: bool = False,
    make: Callable[[Pixels], Any] = np.asarray,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Generator[Any, None, None]:
    """Yield a thumbnail of every image in order, None where one cannot be decoded.

    Args:
        side: px; a thumbnail lies within such a square and keeps its shape, and a smaller image stays as it is.
        oversampling: images are decoded at no less than this times `side`.
        square: the middle square of each image instead, of exactly `side`.
        make: what is made of the pixels (H, W, 3), by the threads that decode.
        progress: called with how many of how many thumbnails are done.
    """
    decode = apart(middle if square else small, workers)
    sizes = (side,) if square else (side, oversampling * side)
    with closing(each(lambda path: make(decode(path, *sizes)), paths, workers)) as results:
        for done, result in enumerate(results, start=1):
            progress(done, len(paths))
            yield None if isinstance(result, UnusableImage) else result


def tile_side(count: int) -> int:
    """Return the side of each of `count` thumbnails on a sheet, px: as large as it allows, at most TILE_SIDE."""
    return max(1, min(TILE_SIDE, SHEET_SIDE // _across(count)))


def write_sprite(
    target: Path, paths: Sequence[Path], *, workers: int, progress: Callable[[int, int], None] = lambda *_: None
) -> None:
    """Write the sheet as PNG: the middle square of every image, line by line; gray where one cannot be decoded."""
    across, side = _across(len(paths)), tile_side(len(paths))
    sheet = Image.new("RGB", (across * side, across * side), "gray")
    for i, tile in enumerate(each_thumbnail(paths, side, workers, square=True, progress=progress)):
        if tile is not None:
            sheet.paste(Image.fromarray(tile), (i % across * side, i // across * side))
    write_file(target, lambda stream: sheet.save(stream, "PNG"))


def _across(count: int) -> int:
    return math.isqrt(max(count, 1) - 1) + 1
