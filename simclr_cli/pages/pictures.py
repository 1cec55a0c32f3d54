"""Pixels -> data: URIs, so that a page holds its own pictures."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

QUALITY = 85  # of JPEG


def as_data_uri(pixels: NDArray[np.uint8]) -> str:
    """A picture as the `src` of an <img>: JPEG, or PNG where that is no longer, as with flat drawings.

    Args:
        pixels: (H, W, 3) RGB.
    """
    image = Image.fromarray(pixels)
    kinds = {"jpeg": _encoded(image, "JPEG", quality=QUALITY), "png": _encoded(image, "PNG", optimize=True)}
    kind = min(sorted(kinds, reverse=True), key=lambda name: len(kinds[name]))
    return _uri(kind, kinds[kind])


def as_jpeg_uri(pixels: NDArray[np.uint8]) -> str:
    """The same as JPEG whatever it shows: for photos by the hundred, since PNG takes a hundred times as long to try.

    Args:
        pixels: (H, W, 3) RGB.
    """
    return _uri("jpeg", _encoded(Image.fromarray(pixels), "JPEG", quality=QUALITY))


def thumbnail(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The same picture within a square of `side` px; a smaller one stays as it is."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _encoded(image: Image.Image, kind: str, **options: int | bool) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
