"""Images for pages: data URIs, and sprite sheets of many thumbnails."""

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

JPEG_QUALITY = 85  # of single images
SPRITE_JPEG_QUALITY = 72
SHEET_SIDE = 1_024  # px: a sheet takes 4 MB in a browser
MAX_PIXELS_PER_PAGE = 64 * SHEET_SIDE * SHEET_SIDE  # of all sheets: 256 MB in a browser, at most 40 MB of JPEG
MAX_THUMBNAIL_SIDE, MIN_THUMBNAIL_SIDE = 64, 24  # px
JPEG_BLOCK = 8  # px: sides that are multiples of it keep the thumbnails of a sheet apart

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB


def as_data_uri(pixels: Pixels, *, only_jpeg: bool = False) -> str:
    """Return an image as the `src` of an <img>: as PNG if that is no longer than JPEG, as with flat drawings.

    Args:
        only_jpeg: do not try PNG, which takes ten times as long; for hundreds of photos.
    """
    image = Image.fromarray(pixels)
    subtype, content = "jpeg", encode_image(image, "JPEG", quality=JPEG_QUALITY)
    if not only_jpeg and len(png := encode_image(image, "PNG")) <= len(content):
        subtype, content = "png", png
    return f"data:image/{subtype};base64,{base64.b64encode(content).decode('ascii')}"


def encode_image(image: Image.Image, image_format: str, **options: int | str) -> bytes:
    """Return the content of an image file in one of Pillow's formats."""
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


@dataclass(frozen=True, eq=False)
class SpriteSheet:
    """Thumbnails in one image, row by row. Each is at the top left of its own square."""

    jpeg: str  # base64
    shapes: NDArray[np.uint8]  # (n, 2) width and height of each, px; 0 for an empty square


def choose_thumbnail_side(count: int) -> int:
    """Return the side of `count` thumbnails on one page, px: as large as memory and the size of the file allow."""
    side = math.isqrt(MAX_PIXELS_PER_PAGE // max(count, 1)) // JPEG_BLOCK * JPEG_BLOCK
    return min(MAX_THUMBNAIL_SIDE, max(MIN_THUMBNAIL_SIDE, side))


def choose_thumbnail_step(count: int) -> int:
    """Return n, if every n-th of `count` images has a thumbnail: 1 up to about 100,000 images."""
    return -(-count * MIN_THUMBNAIL_SIDE**2 // MAX_PIXELS_PER_PAGE)


def count_columns(side: int) -> int:
    """Return the thumbnails in a row of a sheet, which is also its number of rows."""
    return SHEET_SIDE // side


def pack_sprites(images: Iterable[Pixels | None], side: int) -> Iterator[SpriteSheet]:
    """Yield sheets of images in their order, none larger than side x side; None leaves a square empty."""
    columns = count_columns(side)
    remaining = iter(images)
    while batch := list(islice(remaining, columns * columns)):
        yield _pack_sheet(batch, side, columns)


def _pack_sheet(images: list[Pixels | None], side: int, columns: int) -> SpriteSheet:
    """Pack the images of one sheet, whose last row may not be full."""
    rows = -(-len(images) // columns)
    sheet = np.full((rows * side, columns * side, 3), 128, np.uint8)
    shapes = np.zeros((len(images), 2), np.uint8)
    for i, pixels in enumerate(images):
        if pixels is None:
            continue
        height, width = pixels.shape[:2]
        shapes[i] = width, height
        top, left = i // columns * side, i % columns * side
        # Edge pixels fill the rest of the square, so that JPEG has no edge to smear.
        padded = np.pad(pixels, ((0, side - height), (0, side - width), (0, 0)), mode="edge")
        sheet[top : top + side, left : left + side] = padded
    # Colors at full resolution: at half resolution, a block would reach into the next thumbnail.
    jpeg = encode_image(Image.fromarray(sheet), "JPEG", quality=SPRITE_JPEG_QUALITY, subsampling="4:4:4", optimize=True)
    return SpriteSheet(base64.b64encode(jpeg).decode("ascii"), shapes)
