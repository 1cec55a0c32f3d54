"""Images in pages: as data URIs, and many thumbnails as sprites."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB
JPEG_QUALITY = 85  # of JPEG


def as_data_uri(pixels: Pixels, *, only_jpeg: bool = False) -> str:
    """An image as the `src` of an <img>: JPEG, or PNG where that is no longer, as with flat drawings.

    Args:
        only_jpeg: for photos by the hundred, since PNG takes ten times as long to try.
    """
    image = Image.fromarray(pixels)
    kind, content = "jpeg", encoded(image, "JPEG", quality=JPEG_QUALITY)
    if not only_jpeg and len(png := encoded(image, "PNG")) <= len(content):
        kind, content = "png", png
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def encoded(image: Image.Image, kind: str, **options: int | str) -> bytes:
    """The content of a file of this kind, by the name that Pillow has for it."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


SHEET = 1_024  # px a side: 4 MB once a browser has decoded it
ALL_PIXELS = 64 * SHEET * SHEET  # of all thumbnails of a page: 256 MB decoded, and at most about 40 MB of JPEG
LARGEST, SMALLEST = 64, 24  # px a side of a thumbnail
BLOCK = 8  # px of JPEG's blocks: a thumbnail of whole ones has no edge of its neighbor
SPRITE_JPEG_QUALITY = 72  # of JPEG


def thumbnail_side(count: int) -> int:
    """The side of each of so many thumbnails on one page, px: as large as memory and the file allow."""
    side = math.isqrt(ALL_PIXELS // max(count, 1)) // BLOCK * BLOCK
    return min(LARGEST, max(SMALLEST, side))


def thumbnail_step(count: int) -> int:
    """Of so many images, every which one has a thumbnail: 1, all, up to about 100,000."""
    return -(-count * SMALLEST**2 // ALL_PIXELS)


@dataclass(frozen=True, eq=False)
class Sheet:
    """Some thumbnails in one image: row by row, each in a square of its own, at its top left."""

    jpeg: str  # base64
    shapes: NDArray[np.uint8]  # (n, 2) width and height of each, px; 0 where there is none


def columns(side: int) -> int:
    """Thumbnails in a row, and rows, of a sheet."""
    return SHEET // side


def sheets(images: Iterable[Pixels | None], side: int) -> Iterator[Sheet]:
    """Pack images, none larger than side x side, in their order; None: an empty square."""
    across = columns(side)
    remaining = iter(images)
    while some := list(islice(remaining, across * across)):
        rows = -(-len(some) // across)
        whole = np.full((rows * side, across * side, 3), 128, np.uint8)
        shapes = np.zeros((len(some), 2), np.uint8)
        for place, pixels in enumerate(some):
            if pixels is None:
                continue
            high, wide = pixels.shape[:2]
            shapes[place] = wide, high
            top, left = place // across * side, place % across * side
            # What is left of the square goes on as the image ends, so that JPEG has no edge to smear.
            filled = np.pad(pixels, ((0, side - high), (0, side - wide), (0, 0)), mode="edge")
            whole[top : top + side, left : left + side] = filled
        # Colors at full resolution: at half of it, a block would reach into the next thumbnail.
        jpeg = encoded(Image.fromarray(whole), "JPEG", quality=SPRITE_JPEG_QUALITY, subsampling="4:4:4", optimize=True)
        yield Sheet(base64.b64encode(jpeg).decode("ascii"), shapes)
